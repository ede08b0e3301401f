"""The pages of the reference, made from the stubs while the site is built: what a room offers is listed nowhere else.

Each name is described once, on the page of the room that has its definition; the other pages link to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("basinscope", "comparisons", "volume", "spectra")


class Doctests(griffe.Extension):
    """Puts the doctests of docstrings into code blocks: as running text, Markdown takes their lists for links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of a package, module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """A docstring whose doctests, each up to the next empty line, are code blocks."""
    lines, inside = [], False
    for line in docstring.splitlines():
        if not inside and line.lstrip().startswith(">>>"):
            inside, indent = True, line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```pycon")
        elif inside and not line.strip():
            inside = False
            lines.append(f"{indent}```")
        lines.append(line)
    return "\n".join([*lines, f"{indent}```"] if inside else lines)


def on_config(config: Any) -> Any:
    """Put the pages into the navigation, under the section that is called Reference."""
    pages = {
        package: [
            {"Overview" if room == package else room.removeprefix(f"{package}."): page_of(room)} for room in rooms
        ]
        for package in PACKAGES
        if (rooms := list(rooms_of(package)))
    }
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] += [{package: rooms} for package, rooms in pages.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages themselves."""
    for package in PACKAGES:
        for room in rooms_of(package):
            files.append(File.generated(config, page_of(room), content=text_of(room)))
    return files


def rooms_of(package: str) -> Iterator[str]:
    """The package and its rooms that offer something, in the order of their names."""
    for stub in sorted((ROOT / package).rglob("__init__.pyi")):
        yield ".".join(stub.parent.relative_to(ROOT).parts)


def page_of(room: str) -> str:
    """The page of a room, as its path in the docs."""
    return f"reference/{room}.md"


def text_of(room: str) -> str:
    """The page of a room: its sentences, what it defines, and what it hands on from other rooms."""
    opening = ast.get_docstring(parsed(ROOT.joinpath(*room.split("."), "__init__.py"))) or ""
    own, others = [], []
    for name in names_of(room):
        home, node = defined(room, name)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        if room_of(home) == room:
            own.append(f"::: {home}.{name}\n")
        else:
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            others.append(f"- [`{name}`][{home}.{name}]: {summary}\n")
    heading = "## Described in other rooms\n\n" if own and others else ""
    return "\n".join([f"# `{room}`\n\n{opening}\n", *own, heading + "".join(others)])


def names_of(room: str) -> list[str]:
    """Names that a room's stub lists, each once."""
    nodes = parsed(ROOT.joinpath(*room.split("."), "__init__.pyi")).body
    return sorted({alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names})


def defined(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """The module that defines a name which another offers, and the statement that does."""
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".py")
    for node in parsed(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return defined(f"{module}.{node.module}" if node.level else str(node.module), name)
    return module, None


def room_of(module: str) -> str:
    """The folder of a module."""
    return module.rpartition(".")[0]


@cache
def parsed(path: Path) -> ast.Module:
    """A source file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
