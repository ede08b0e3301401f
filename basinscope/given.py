"""What calls from Python are given, made into what runs take: sources, settings, and who is told of progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from basinscope.choices import nearest
from basinscope.runs import Report, in_notebook, progress_report
from spectra.checkpoint import located
from spectra.errors import UserTypeError
from spectra.landscape import Landscape
from spectra.sharded import ShardedLandscape

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Source = str | Path | Landscape
Item = TypeVar("Item", bound=Source)
Settings = TypeVar("Settings", bound="DataclassInstance")


def source_of(source: Source) -> Path | Landscape:
    """The path of a checkpoint, found in the Hugging Face cache where it is a name there, or the landscape."""
    if isinstance(source, Landscape):
        return source
    if isinstance(source, ShardedLandscape):
        raise UserTypeError("only spectra are computed of a ShardedLandscape: give a Landscape, whose ranks join it")
    if not isinstance(source, str | Path):
        raise UserTypeError(f"a source must be the path of a checkpoint or a Landscape, got {type(source).__name__}")
    return located(Path(source))


def path_of(path: str | Path | None) -> Path | None:
    """The path that a text says; None where there is none."""
    return None if path is None else Path(path)


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with some fields changed; a name that is no field is refused with the nearest that is."""
    names = [field.name for field in fields(settings)]
    for name in changes:
        if name not in names:
            kind = type(settings).__name__
            raise UserTypeError(f"{name} is no field of {kind}: {', '.join(names)}{nearest(name, names)}")
    return replace(settings, **changes)


def listed(value: Item | Sequence[Item]) -> list[Item]:
    """What was given alone, or in a row."""
    return [value] if isinstance(value, str | Path | Landscape) else list(value)


@contextmanager
def threads_kept() -> Iterator[None]:
    """A run sets torch's threads; a program that calls it has its own again afterwards."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def shown(progress: Report | bool | None, unit: str = "") -> Iterator[Report]:
    """What is told of progress: by the caller's function, by a bar, or nothing."""
    if callable(progress):
        yield progress
    elif progress or (progress is None and in_notebook()):
        with progress_report(unit) as report:
            yield report
    else:
        yield _silent


def _silent(done: int, total: int, what: str) -> None:
    pass
