"""The store of a sandwich: an HDF5 file with its ladder as a bridge's file has it, replaced whole after each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import h5py

from spectra.files import VERSIONS, Array, Dimension, Mapped, Record, ResultFile, library_versions, now
from volume.bridge.sandwich_result import Annealing, SandwichResult
from volume.bridge.store import bridge_record, lighter

_SOURCE = Mapped("source_", str)
_CHAIN = (Dimension("chain", "Markov chain"),)


@lru_cache
def _record(unit: str) -> Record[SandwichResult]:
    """How a sandwich whose cost has some unit is kept; reading asks for none."""
    arrays = {
        "log_weights": Array(_CHAIN, "log weight of annealed importance sampling", "nat"),
        "costs": Array(_CHAIN, "cost above the teacher's", unit),
        "points": Array((), "", ""),
    }
    sides = {
        name: Record(Annealing, arrays, prefix=f"{name}_", optional=f"{name}_log_weights")
        for name in ("forward", "backward")
    }
    return Record(SandwichResult, {"ladder": bridge_record(unit), "source": None, **sides})


def _fill(file: h5py.File, result: SandwichResult) -> None:
    file.attrs["created"] = now()
    VERSIONS.write(file, library_versions())
    _SOURCE.write(file, result.source)
    ladder = replace(result.ladder, passes=tuple(lighter(rungs, seen=True) for rungs in result.ladder.passes))
    _record(result.source.get("cost_unit", "cost")).write(file, replace(result, ladder=ladder))


def _build(file: h5py.File) -> SandwichResult:
    return _record("").read(file, source=_SOURCE.read(file))


_FILE = ResultFile("basinscope sandwich", 1, _fill, _build)
read_sandwich = _FILE.read


def write_sandwich(path: str | Path, result: SandwichResult, source: Mapping[str, str]) -> None:
    """Write a sandwich to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        result: the sandwich so far.
        source: what it was made from, texts by name, such as the checkpoint's digest and the prior.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _FILE.write(path, replace(result, source=dict(source)))
