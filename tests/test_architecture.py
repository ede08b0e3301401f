"""The house: short files, rooms of at most 14 modules entered by their doors, one-way imports, nothing unpickled."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("spectra", "volume", "comparisons", "basinscope")
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULES = {name: path for name, path in SOURCES.items() if path.stem != "__init__"}
ROOMS = {name.removesuffix(".__init__"): path for name, path in SOURCES.items() if path.stem == "__init__"}
LONGEST_FILE, LONGEST_FUNCTION, MOST_MODULES = 500, 50, 14
DRAWERS = {"utils", "util", "misc", "helpers", "helper", "common"}
NOT_ON_WINDOWS = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}


@cache  # each test looks at each file
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def walked(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parse(path)))


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


def dotted(node: ast.AST) -> str:
    """``a.b`` of such an expression; empty for others."""
    short = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return f"{node.value.id}.{node.attr}" if short else ""


def roots(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.partition(".")[0]}
    return set()


def offers(room: str) -> dict[str, str]:
    """The names that a room offers, each with the module that has it."""
    stub = ROOMS[room].with_suffix(".pyi")
    if not stub.exists():
        return {}
    nodes = [node for node in parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{room}.{node.module}" for node in nodes for alias in node.names}


OFFERED = {room: offers(room) for room in ROOMS}


def room_of(module: str) -> str:
    """The folder of a module; one that lies at the top of a package is a room of its own."""
    room = module.rpartition(".")[0]
    return module if room in PACKAGES else room


def imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """What is imported of this program: the module that has it, and where it was taken from."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                if node.module in MODULES:
                    yield node.module, node.module
                elif f"{node.module}.{alias.name}" in MODULES:
                    yield f"{node.module}.{alias.name}", f"{node.module}.{alias.name}"
                else:
                    yield OFFERED[node.module][alias.name], node.module


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def test_files_and_functions_are_short() -> None:
    for name, path in SOURCES.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE, name
        for node in walked(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert body_lines(node) <= LONGEST_FUNCTION, f"{name}: {node.name}"


def test_a_folder_is_a_room() -> None:
    for room, path in ROOMS.items():
        modules = {other.stem for other in path.parent.glob("*.py")} - {"__init__"}
        assert len(modules) <= MOST_MODULES, room
        assert ast.get_docstring(parse(path)), room
        # A name that is a module's too would be the one or the other, as imports happened to go.
        assert not modules & OFFERED[room].keys(), room
        assert not DRAWERS & {*modules, path.parent.name}, room
    # A test folder of a package's name would be imported in its place.
    assert not any((ROOT / "tests" / package).exists() for package in PACKAGES)


def test_a_room_is_entered_by_its_door() -> None:
    for module, path in MODULES.items():
        for found, taken in imports(walked(path)):
            inside = room_of(found) == room_of(module)
            assert inside or taken == (found if room_of(found) == found else room_of(found)), f"{module}: {taken}"


def test_imports_go_one_way() -> None:
    modules: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        # Imports for annotations alone, and those inside of functions, count too.
        modules[module] = {found for found, _ in imports(walked(path))}
        found = {room_of(other) for other in modules[module]}
        rooms.setdefault(room_of(module), set()).update(found - {room_of(module)})
    for graph in (modules, rooms):
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_nothing_is_unpickled_and_pyhessian_has_one_door() -> None:
    for module, path in MODULES.items():
        nodes = walked(path)
        assert not any(PICKLERS & roots(node) for node in nodes), module
        calls = [node for node in nodes if isinstance(node, ast.Call) and dotted(node.func) == "torch.load"]
        safe = [{k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True" for call in calls]
        # Where the user trusts a file's author, and has been told what will run.
        assert all(safe) or module == "spectra.checkpoint.trusted", module
        door = module == "spectra.pyhessian"
        assert not any("pyhessian" in roots(node) for node in (run_at_import(parse(path)) if door else nodes)), module


def test_windows_can_import_it() -> None:
    for name, path in SOURCES.items():
        unguarded = [
            node
            for node in parse(path).body
            if not isinstance(node, ast.If) or ast.unparse(node.test) != "sys.platform != 'win32'"
        ]
        found = {root for node in unguarded for part in ast.walk(node) for root in roots(part)}
        assert not found & NOT_ON_WINDOWS, name
