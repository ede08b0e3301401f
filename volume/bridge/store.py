"""The store of a bridge: an HDF5 file, a group a pass and a group a rung in it, replaced whole after each rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from spectra.errors import UserError
from spectra.files import (
    VERSIONS,
    Array,
    Attribute,
    Dimension,
    Mapped,
    Numbered,
    Part,
    Record,
    ResultFile,
    library_versions,
    now,
    settings,
)
from volume.bridge.result import BridgeResult
from volume.chains import BridgeSettings, Correction, Passage, Rung, RungState

# What may differ between a stored bridge and one that goes on from it.
FREE_SETTINGS = ("standard_error", "budget", "passes")

_SOURCE = Mapped("source_", str)
_STATE = Attribute(lambda values: RungState(*map(float, values)), astuple)
_STATES = dict.fromkeys(("here", "there", "departure", "arrival"), _STATE)
_SEEN = dict.fromkeys(("precisions", "vectors", "mean", "points"), Array((), "", ""))
_CHAIN = Dimension("chain", "Markov chain")
_DRAW, _KEPT = (Dimension("draw", "draw"), _CHAIN), (Dimension("kept", "kept"), _CHAIN)
_ONWARD = (Dimension("onward_kept", "onward kept"), _CHAIN)
_BACKWARD = (Dimension("backward_kept", "backward kept"), _CHAIN)
_SETTINGS = settings(
    BridgeSettings,
    cutoffs=Attribute(lambda values: tuple(map(float, np.atleast_1d(values)))),
    pairs=Attribute(lambda count: int(count) or None, lambda count: count or 0),
)


@lru_cache
def bridge_record(unit: str) -> Record[BridgeResult]:
    """How a bridge whose cost has some unit is kept; reading asks for none."""
    rung: dict[str, Part] = {
        "state": _STATE,
        "passage": Record(Passage, _STATES, prefix="passage_", optional="passage_here"),
        "costs": Array(_DRAW, "cost above the anchor's", unit),
        "quadratics": Array(_KEPT, "cost of the quadratic model", unit),
        "squares": Array(_DRAW, "squared distance from the anchor in standard deviations of the prior", "1"),
        "prior_squares": Array(_DRAW, "minus twice the prior's log density, up to a constant", "nat"),
        "onward": Array(_ONWARD, "work of carrying a draw to the next rung", "nat"),
        "backward": Array(_BACKWARD, "work of carrying a draw to the rung before", "nat"),
        "diverged": Array((_CHAIN,), "diverged trajectories, all rejected", "1"),
        "last": Array((), "", ""),
        "seen": Record(Correction, _SEEN, prefix="seen_", later=("points",), optional="seen_vectors"),
        "levels": Array((Dimension("level_draw", "draw"), _CHAIN), "highest cost of the ray's window", unit),
    }
    passes = Numbered("pass_%03d", Numbered("rung_%03d", Record(Rung, rung, later=("levels",))))
    return Record(BridgeResult, {"settings": _SETTINGS, "passes": passes, "source": None}, later=("strategy",))


def _fill(file: h5py.File, stored: tuple[BridgeResult, dict[str, str]]) -> None:
    result, source = stored
    file.attrs["created"] = now()
    VERSIONS.write(file, library_versions())
    _SOURCE.write(file, source)
    passes = tuple(map(lighter, result.passes))
    bridge_record(source.get("cost_unit", "cost")).write(file, replace(result, passes=passes))


def _build(file: h5py.File) -> tuple[BridgeResult, dict[str, str]]:
    source = _SOURCE.read(file)
    return bridge_record("").read(file, source=source), source


def lighter(rungs: tuple[Rung, ...], *, seen: bool = False) -> tuple[Rung, ...]:
    """A pass without the points that it does not go on from, and without what was seen there, unless that is wanted.

    Only an unfinished one goes on: from its last rung's points, or, where that turns out to be too far from the next,
    from those of the rung before.
    """
    going_on = len(rungs) - 2 if rungs and rungs[-1].passage is not None else len(rungs)
    return tuple(
        rung if number >= going_on else replace(rung, last=rung.last[:0], seen=rung.seen if seen else None)
        for number, rung in enumerate(rungs)
    )


_FILE = ResultFile("basinscope bridge", 1, _fill, _build)
read_bridge = _FILE.read


def write_bridge(path: str | Path, result: BridgeResult, source: Mapping[str, str]) -> None:
    """Write a bridge to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        result: the bridge so far.
        source: what it was made from, texts by name, such as the checkpoint's digest and the prior.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _FILE.write(path, (result, dict(source)))


def refuse_other(
    path: str | Path,
    stored: BridgeResult,
    source: Mapping[str, str],
    settings: BridgeSettings,
    asked: Mapping[str, str],
) -> None:
    """Refuse to go on with a bridge of another source or other settings.

    Args:
        path: of the file, for the message.
        stored: what it holds.
        source: what that was made from.
        settings: asked for now.
        asked: what it would be made from now.

    Raises:
        UserError: saying what differs.
    """
    before, today = stored.settings.as_dict(), settings.as_dict()
    entries = [(name, before[name], today[name]) for name in today if name not in FREE_SETTINGS]
    # Files from before a name was recorded say nothing of it.
    entries += [(name, source.get(name, asked[name]), asked[name]) for name in asked]
    different = [f"{name} is {then} there and {here} now" for name, then, here in entries if then != here]
    if different:
        raise UserError(f"{path} cannot be resumed: {'; '.join(different)} (write to another file)")
