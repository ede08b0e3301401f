"""The store of a volume study: an HDF5 file that xarray opens, a group a method, replaced whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from spectra.estimate import Estimate
from spectra.files import (
    PROVENANCE,
    TEXTS,
    Array,
    Attribute,
    Dimension,
    Mapped,
    Part,
    Record,
    ResultFile,
    add_scale,
    settings,
)
from volume.method_result import MethodResult
from volume.result import VolumeEstimate
from volume.study import VolumeSettings, VolumeStudy
from volume.sweep import CutoffSweep

_SWEEP = "sweep"
_CUTOFF, _DIRECTION = Dimension("cutoff", "cutoff"), Dimension("direction", "direction")
_PROBE = Dimension("probe", "probe of the spectrum")
_FIGURE, _SEPARATOR = "figure_", "\n"
# What is kept of each ray: meaning, unit, and its kind where it is no number.
_RAYS = {
    "log_terms": ("what the direction alone says of the log-volume", "nat", None),
    "evaluations": ("cost evaluations spent on the direction", "1", None),
    "unbounded": ("1 where the cost stayed below the cutoff as far as the prior has mass", "1", bool),
    "monotone": ("1 where the scan saw nothing above the cutoff before the crossing", "1", bool),
    "radial_error": ("error of the log term from the crossing's error", "nat", None),
}
# What is kept of an estimate at several cutoffs: meaning and unit.
_ESTIMATES = {
    "value": ("value", "nat"),
    "standard_error": ("standard error", "nat"),
    "truncation_error": ("truncation error", "nat"),
    "freedom": ("degrees of freedom of the standard error, nan where they follow from the samples", "1"),
    "lowest": ("least value that is possible", "nat"),
    "highest": ("largest value that is possible", "nat"),
}
# Files from before these were kept lack them.
_LATER = ("freedom", "lowest", "highest")


def _sampled(*cutoffs: Dimension) -> Record[VolumeEstimate]:
    """How the terms of directions are kept, at one cutoff or along a dimension of several."""
    rays = {name: Array((*cutoffs, _DIRECTION), words, unit, kind=kind) for name, (words, unit, kind) in _RAYS.items()}
    apart = {"cutoff": None} if cutoffs else {}
    return Record(VolumeEstimate, {**rays, **apart, "method": Attribute(str, name="label")}, optional="direction")


def _estimate(*cutoffs: Dimension) -> Record[Estimate]:
    samples = Array((*cutoffs, _PROBE), "what each probe alone says of the log-volume", "nat")
    parts: dict[str, Part] = {"freedom": Attribute(_freedom, _number)}
    if cutoffs:
        parts = {name: Array(cutoffs, words, unit) for name, (words, unit) in _ESTIMATES.items()}
    return Record(Estimate, {"samples": samples, **parts}, later=_LATER, optional="probe")


def _number(freedom: float | None) -> float:
    """Degrees of freedom as a number, nan where they follow from the samples."""
    return math.nan if freedom is None else freedom


def _freedom(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


_RESULT = Record(
    MethodResult,
    {"sampled": _sampled(), "estimate": _estimate(), "figures": Mapped(_FIGURE, float), "failure": None},
)
# In a sweep the numbers of results are arrays by cutoff.
_SWEPT = Record(MethodResult, dict.fromkeys(("sampled", "estimate", "figures", "failure")))
_SWEPT_SAMPLED, _SWEPT_ESTIMATE = _sampled(_CUTOFF), _estimate(_CUTOFF)
_STUDY = Record(
    VolumeStudy,
    {
        "settings": settings(VolumeSettings, methods=Attribute(lambda words: tuple(str(words).split(",")), ",".join)),
        "provenance": PROVENANCE,
        "results": None,
        "sweep": None,
    },
    later=("cost_noise", "fall", "fall_distance"),
)


def _fill(file: h5py.File, study: VolumeStudy) -> None:
    file.attrs["title"] = f"basin volume of {study.provenance.name}"
    _STUDY.write(file, study)
    _write_failures(file, {method: result.failure for method, result in study.results.items() if result.failure})
    for method, result in study.results.items():
        if not result.failure:
            _RESULT.write(file.create_group(method, track_order=True), result)
    if study.sweep is not None:
        _write_sweep(file.create_group(_SWEEP, track_order=True), study.sweep, study.provenance.cost_unit)


def _build(file: h5py.File) -> VolumeStudy:
    failed = {name: MethodResult(name, "", failure=why) for name, why in _read_failures(file).items()}
    found = failed | {method: _whole(_RESULT.read(file[method])) for method in file if method != _SWEEP}
    study = _STUDY.read(file, sweep=_read_sweep(file[_SWEEP]) if _SWEEP in file else None)
    order = dict.fromkeys([*(method for method in study.settings.methods if method in found), *found])
    return replace(study, results={method: found[method] for method in order})


def _whole(result: MethodResult) -> MethodResult:
    if result.sampled is None and result.estimate is None:
        raise KeyError("samples")  # a damaged file: what has failed has no group
    return result


def _write_failures(group: h5py.Group, failures: Mapping[str, str]) -> None:
    TEXTS.write(group, tuple(failures), "failed_methods")
    TEXTS.write(group, tuple(failures.values()), "failures")


def _read_failures(group: h5py.Group) -> dict[str, str]:
    """Why methods failed; of a file from before failures were kept, nothing."""
    names = ("failed_methods", "failures") if "failures" in group.attrs else ()
    return dict(zip(*(TEXTS.read(group, name) for name in names), strict=True))


def _write_sweep(group: h5py.Group, sweep: CutoffSweep, unit: str) -> None:
    for method, results in sweep.results.items():
        within = group.create_group(method, track_order=True)
        _add_cutoffs(within, sweep, unit)
        _SWEPT.write(within, results[0])
        for name in results[0].figures:
            array = Array((_CUTOFF,), name.replace("_", " "), "")
            array.write(within, [result.figures[name] for result in results], _FIGURE + name)
        derived = (
            Array((_CUTOFF,), "log-volume (derived)", "nat"),
            Array((_CUTOFF,), "d log V / d log T (derived)", "1"),
        )
        derived[0].write(within, sweep.log_volumes(method), "log_volume")
        derived[1].write(within, sweep.slopes(method), "slope")
        _SWEPT_SAMPLED.write(within, _stacked([result.sampled for result in results], _RAYS))
        _SWEPT_ESTIMATE.write(within, _stacked([result.estimate for result in results], (*_ESTIMATES, "samples")))
    _add_cutoffs(group, sweep, unit)
    _write_failures(group, sweep.failures)


def _add_cutoffs(group: h5py.Group, sweep: CutoffSweep, unit: str) -> None:
    add_scale(group, _CUTOFF.name, sweep.cutoffs, _CUTOFF.long_name, unit)


def _stacked(items: list[Any], names: Iterable[str]) -> Any:
    """What there is at several cutoffs as one, whose numbers have an axis of cutoffs; None if there is none."""
    if items[0] is None:
        return None
    arrays = {name: np.stack([_number(getattr(one, name)) for one in items]) for name in names}
    return replace(items[0], **arrays, cautions=tuple(_SEPARATOR.join(one.cautions) for one in items))


def _read_sweep(group: h5py.Group) -> CutoffSweep:
    cutoffs = group[_CUTOFF.name][()]
    results = {name: _read_swept(group[name], cutoffs) for name in group if name != _CUTOFF.name}
    return CutoffSweep(cutoffs, results, _read_failures(group))


def _read_swept(group: h5py.Group, cutoffs: Any) -> tuple[MethodResult, ...]:
    figures = {name.removeprefix(_FIGURE): group[name][()] for name in group if name.startswith(_FIGURE)}
    sampled, estimate = _SWEPT_SAMPLED.read(group, cutoff=math.nan), _SWEPT_ESTIMATE.read(group)
    found = []
    for number, cutoff in enumerate(cutoffs):
        here = {
            "figures": {name: float(values[number]) for name, values in figures.items()},
            "sampled": _at(number, sampled, _RAYS, cutoff=float(cutoff)),
            "estimate": _at(number, estimate, (*_ESTIMATES, "samples")),
        }
        found.append(_whole(_SWEPT.read(group, **here)))
    return tuple(found)


def _at(number: int, whole: Any, names: Iterable[str], **apart: Any) -> Any:
    """What ``_stacked`` was given at one of the cutoffs."""
    if whole is None:
        return None
    kept = {name: getattr(whole, name) for name in names}
    values = {name: value[number] if np.ndim(value) else value for name, value in kept.items()}
    values |= {name: float(_number(values[name])) for name in _ESTIMATES if name in values}
    if "freedom" in values:
        values["freedom"] = _freedom(values["freedom"])
    cautions = tuple(filter(None, whole.cautions[number].split(_SEPARATOR)))
    return replace(whole, **values, **apart, cautions=cautions)


_FILE = ResultFile("basinscope volume", 1, _fill, _build)
write_study, read_study, is_volume_file = _FILE.write, _FILE.read, _FILE.holds
