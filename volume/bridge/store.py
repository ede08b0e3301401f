"""The store of a bridge: an HDF5 file, a group a pass and a group a rung in it, replaced whole after each rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spectra.errors import UserError
from spectra.files import (
    add_array,
    add_dimension,
    has_format,
    hdf5_image,
    library_versions,
    now,
    opened,
    plain,
    replace_file,
)
from volume.bridge.result import BridgeResult
from volume.chains import BridgeSettings, Passage, Rung, RungState

FORMAT = "basinscope bridge"
FORMAT_VERSION = 1
# What may differ between a stored bridge and one that goes on from it.
FREE_SETTINGS = ("standard_error", "budget", "passes")

_ARRAYS = (
    ("costs", "draw", "cost above the anchor's", "cost"),
    ("quadratics", "kept", "cost of the quadratic model", "cost"),
    ("squares", "draw", "squared distance from the anchor in standard deviations of the prior", "1"),
    ("prior_squares", "draw", "minus twice the prior's log density, up to a constant", "nat"),
    ("onward", "onward_kept", "work of carrying a draw to the next rung", "nat"),
    ("backward", "backward_kept", "work of carrying a draw to the rung before", "nat"),
)
_NUMBERS = ("step_size", "acceptance", "leaps", "gradient_evaluations", "cost_evaluations")
# Files from before there was a choice do not have it.
_NEAR = "near"
_PASSAGE = ("here", "there", "departure", "arrival")
_PLAIN = ("size", "log_start", "ended")
# Files from before it was recorded do not have it.
_STRATEGY = "strategy"


def write_bridge(path: str | Path, result: BridgeResult, source: Mapping[str, str]) -> None:
    """Write a bridge to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        result: the bridge so far.
        source: what it was made from, texts by name, such as the checkpoint's digest and the prior.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs["created"] = now()
        for name, value in library_versions().items():
            file.attrs[f"version_{name}"] = value
        for name, value in source.items():
            file.attrs[f"source_{name}"] = value
        for name, value in result.settings.as_dict().items():
            file.attrs[f"setting_{name}"] = value
        for name in (*_PLAIN, _STRATEGY):
            file.attrs[name] = getattr(result, name)
        for number, rungs in enumerate(result.passes):
            group = file.create_group(f"pass_{number:03d}")
            for position, rung in enumerate(rungs):
                # Only an unfinished pass goes on: from its last rung's points, or, where that turns out to be too far
                # from the next, from those of the rung before.
                goes_on = position >= len(rungs) - 2 and rungs[-1].passage is not None
                _write_rung(group.create_group(f"rung_{position:03d}"), rung, goes_on)

    replace_file(path, hdf5_image(fill))


def read_bridge(path: str | Path) -> tuple[BridgeResult, dict[str, str]]:
    """Read a bridge.

    Args:
        path: the file.

    Returns:
        The bridge so far, and what it was made from.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, foreign, newer than this code, or damaged; the sentence says which.
    """
    with opened(path, FORMAT, FORMAT_VERSION) as file:
        attributes = dict(file.attrs)
        passes = tuple(
            tuple(_read_rung(file[group][name]) for name in sorted(file[group]))
            for group in sorted(file)
            if group.startswith("pass_")
        )
        result = BridgeResult(
            settings=_read_settings(attributes),
            passes=passes,
            strategy=str(attributes.get(_STRATEGY, "")),
            **{name: plain(attributes[name]) for name in _PLAIN},
        )
    prefix = "source_"
    return result, {name[len(prefix) :]: str(v) for name, v in attributes.items() if name.startswith(prefix)}


def is_bridge_file(path: str | Path) -> bool:
    """Whether a file is a bridge's.

    Args:
        path: any path.

    Returns:
        False too where there is no such file, or it is no HDF5.
    """
    return has_format(path, FORMAT)


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


def _write_rung(group: h5py.Group, rung: Rung, newest: bool) -> None:
    group.attrs["state"] = astuple(rung.state)
    if rung.passage is not None:
        for name in _PASSAGE:
            group.attrs[f"passage_{name}"] = astuple(getattr(rung.passage, name))
    for name in _NUMBERS:
        group.attrs[name] = getattr(rung, name)
    group.attrs[_NEAR] = rung.near
    add_dimension(group, "chain", rung.chains, "Markov chain")
    for name, dimension, long_name, units in _ARRAYS:
        array = getattr(rung, name)
        if dimension not in group:
            add_dimension(group, dimension, len(array), dimension.replace("_", " "))
        add_array(group, name, array, (dimension, "chain"), long_name, units)
    add_array(group, "diverged", rung.diverged, ("chain",), "diverged trajectories, all rejected", "1")
    group["last"] = rung.last if newest else rung.last[:0]


def _read_rung(group: h5py.Group) -> Rung:
    attributes = dict(group.attrs)
    passage = None
    if "passage_here" in attributes:
        passage = Passage(*(_state(attributes[f"passage_{name}"]) for name in _PASSAGE))
    return Rung(
        state=_state(attributes["state"]),
        passage=passage,
        last=group["last"][()],
        diverged=group["diverged"][()],
        near=bool(attributes.get(_NEAR, True)),
        **{name: group[name][()] for name, *_ in _ARRAYS},
        **{name: plain(attributes[name]) for name in _NUMBERS},
    )


def _state(values: Any) -> RungState:
    return RungState(*(float(value) for value in values))


def _read_settings(attributes: Mapping[str, Any]) -> BridgeSettings:
    # Files from before there was a choice of origins do not name it.
    named = [field.name for field in fields(BridgeSettings) if f"setting_{field.name}" in attributes]
    values = {name: plain(attributes[f"setting_{name}"]) for name in named}
    cutoffs = tuple(float(cutoff) for cutoff in np.atleast_1d(values.pop("cutoffs")))
    pairs = values.pop("pairs") or None
    return BridgeSettings(**values, cutoffs=cutoffs, pairs=pairs)
