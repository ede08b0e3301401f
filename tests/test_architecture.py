import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("spectra", "volume", "comparisons", "basinscope")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
LONGEST_FILE = 500
LONGEST_FUNCTION = 50
DRAWERS = {"utils", "util", "misc", "base", "helpers", "helper", "common"}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def imported_roots(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.partition(".")[0]}
    return set()


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ]


def is_unsafe_torch_load(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"):
        return False
    return not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_every_package_was_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@each_source
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@each_source
def test_functions_are_short(path: Path) -> None:
    too_long = {f.name: body_lines(f) for f in functions(parse(path)) if body_lines(f) > LONGEST_FUNCTION}
    assert not too_long


@each_source
def test_modules_name_an_idea(path: Path) -> None:
    assert not DRAWERS & {part.removesuffix(".py").strip("_") for part in path.relative_to(ROOT).parts}


@each_source
def test_pyhessian_stays_behind_its_bridge(path: Path) -> None:
    tree = parse(path)
    bridge = path == ROOT / "spectra" / "pyhessian.py"
    nodes = run_at_import(tree) if bridge else ast.walk(tree)
    assert not any("pyhessian" in imported_roots(node) for node in nodes)


@each_source
def test_nothing_is_unpickled(path: Path) -> None:
    nodes = list(ast.walk(parse(path)))
    assert not any(PICKLERS & imported_roots(node) for node in nodes)
    assert [node.lineno for node in nodes if is_unsafe_torch_load(node)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_no_test_folder_shadows_a_package(name: str) -> None:
    assert not (ROOT / "tests" / name).exists()


def test_a_long_function_is_measured_without_its_docstring() -> None:
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\n')
    assert [body_lines(f) for f in functions(tree)] == [3]


def test_unsafe_loads_are_recognised() -> None:
    calls = ["torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=True)"]
    assert [is_unsafe_torch_load(ast.parse(call, mode="eval").body) for call in calls] == [True, True, False]


def test_imports_inside_functions_are_not_package_level() -> None:
    tree = ast.parse("import a\nclass C:\n    import b\ndef f():\n    import c\n")
    assert {root for node in run_at_import(tree) for root in imported_roots(node)} == {"a", "b"}
