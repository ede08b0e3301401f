"""Families whose members are files: a file of the family's room states its rows in ``ROWS``, and no list names it.

A row is written ``Row("its name", ...)``. Names, and the options of a row that are written as constants, are read from
the text of the files, so that ``--help`` imports nothing; a file is imported when one of its rows is used.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Stated:
    """What the text of a file says of a row.

    Attributes:
        module: name of the module that states it.
        constants: those of its options that are written as constants, by name.
    """

    module: str
    constants: Mapping[str, Any]


@cache
def stated(room: str) -> Mapping[str, Stated]:
    """The rows that the files of a room, and of the rooms in it, state, by name in the order of the files' names.

    >>> stated("spectra.operators")["hessian"].module
    'spectra.operators.hessian'
    """
    found = {}
    for module, table in _tables(room, "ROWS"):
        assert isinstance(table, ast.Tuple), f"ROWS of {module} must be written as a tuple of rows"
        for row in table.elts:
            assert isinstance(row, ast.Call), f"ROWS of {module} must be written as a tuple of rows"
            constants = {}
            for option in row.keywords:
                with suppress(ValueError):
                    constants[str(option.arg)] = ast.literal_eval(option.value)
            found[ast.literal_eval(row.args[0])] = Stated(module, constants)
    return found


def stating(room: str, flag: str) -> tuple[str, ...]:
    """Names of a room's rows that state an option, and not as false.

    >>> stating("spectra.operators", "drawn")
    ('sampled-fisher',)
    """
    return tuple(name for name, row in stated(room).items() if row.constants.get(flag))


def member(room: str, name: str, kind: type[Row]) -> Row:
    """The row of that name; its file is imported."""
    rows: tuple[Any, ...] = import_module(stated(room)[name].module).ROWS
    (found,) = (row for row in rows if row.name == name)
    assert isinstance(found, kind)
    return found


def members(room: str, kind: type[Row], table: str = "ROWS") -> tuple[Row, ...]:
    """All rows of a room, in the order of the files' names; all files that have some are imported."""
    found = tuple(row for module, _ in _tables(room, table) for row in getattr(import_module(module), table))
    assert all(isinstance(row, kind) for row in found)
    return found


def _tables(room: str, table: str) -> Iterator[tuple[str, ast.expr]]:
    """The modules of a room that assign to a name, each with what it is assigned."""
    place = find_spec(room)
    assert place is not None
    assert place.origin is not None
    folder = Path(place.origin).parent
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        start = text.find(f"\n{table} = ")
        if start >= 0:
            assigned = ast.parse(text[start:]).body[0]
            assert isinstance(assigned, ast.Assign)
            yield ".".join((room, *path.relative_to(folder).with_suffix("").parts)), assigned.value
