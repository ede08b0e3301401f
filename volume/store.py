"""The store of a volume study: an HDF5 file that xarray opens, a group a method, replaced whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spectra.estimate import Estimate
from spectra.files import (
    add_array,
    add_dimension,
    has_format,
    hdf5_image,
    opened,
    plain,
    read_provenance,
    read_texts,
    replace_file,
    texts,
    write_provenance,
)
from volume.method_result import MethodResult
from volume.methods import FLAGS, RAY_ARRAYS, read_failures, read_sweep, write_failures, write_sweep
from volume.result import VolumeEstimate
from volume.study import VolumeSettings, VolumeStudy

FORMAT = "basinscope volume"
FORMAT_VERSION = 1
SWEEP = "sweep"

_PLAIN = ("size", "samples", "data_sha256", "cost", "gradient_norm", "operator", "strategy")
# Numbers that a study made from results alone lacks.
_MEASURED = ("cost_noise", "fall", "fall_distance")


def is_volume_file(path: str | Path) -> bool:
    """Whether a file is an HDF5 file that says it holds a volume study.

    Args:
        path: the file.

    Returns:
        True if ``read_study`` is the reader for it.
    """
    return has_format(path, FORMAT)


def write_study(path: str | Path, study: VolumeStudy) -> None:
    """Write a study to an HDF5 file, replacing what is there in one step; arrays go in bit for bit.

    Args:
        path: the file.
        study: the study, with the results so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["title"] = f"basin volume of {Path(study.provenance.checkpoint).name}"
        write_provenance(file, study.provenance)
        for name in (*_PLAIN, *_MEASURED):
            file.attrs[name] = getattr(study, name)
        for name, value in study.settings.as_dict().items():
            file.attrs[f"setting_{name}"] = value
        file.attrs["notes"], file.attrs["cautions"] = texts(study.notes), texts(study.cautions)
        write_failures(file, {method: result.failure for method, result in study.results.items() if result.failure})
        for method, result in study.results.items():
            if not result.failure:
                _write_result(file.create_group(method, track_order=True), result)
        if study.sweep is not None:
            write_sweep(file.create_group(SWEEP, track_order=True), study.sweep)

    replace_file(path, hdf5_image(fill))


def read_study(path: str | Path) -> VolumeStudy:
    """Read a study from an HDF5 file.

    Args:
        path: the file.

    Returns:
        The study with its provenance.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, foreign, newer than this code, or damaged; the sentence says which.
    """
    with opened(path, FORMAT, FORMAT_VERSION) as file:
        attributes = dict(file.attrs)
        settings = _read_settings(attributes)
        failed = {name: MethodResult(name, "", failure=why) for name, why in read_failures(file).items()}
        found = failed | {method: _read_result(file[method]) for method in file if method != SWEEP}
        order = dict.fromkeys([*(method for method in settings.methods if method in found), *found])
        return VolumeStudy(
            settings=settings,
            provenance=read_provenance(attributes),
            results={method: found[method] for method in order},
            notes=read_texts(attributes["notes"]),
            cautions=read_texts(attributes["cautions"]),
            sweep=read_sweep(file[SWEEP]) if SWEEP in file else None,
            **{name: plain(attributes[name]) for name in _PLAIN},
            **{name: plain(attributes.get(name, math.nan)) for name in _MEASURED},
        )


def _write_result(group: h5py.Group, result: MethodResult) -> None:
    for name in ("method", "measure", "preconditioner", "eps"):
        group.attrs[name] = getattr(result, name)
    for name, value in result.figures.items():
        group.attrs[f"figure_{name}"] = value
    if result.sampled is not None:
        sampled = result.sampled
        add_dimension(group, "direction", len(sampled.log_terms), "direction")
        for name, long_name, units in RAY_ARRAYS:
            data = getattr(sampled, name)
            # Flags as integers: xarray knows no HDF5 enumerations.
            data = data.astype(np.int8) if name in FLAGS else data
            add_array(group, name, data, ("direction",), long_name, units)
        group.attrs["size"], group.attrs["cutoff"], group.attrs["label"] = sampled.size, sampled.cutoff, sampled.method
        group.attrs["cautions"] = texts(sampled.cautions)
        return
    estimate = result.estimate
    assert estimate is not None
    add_dimension(group, "probe", len(estimate.samples), "probe of the spectrum")
    add_array(group, "samples", estimate.samples, ("probe",), "what each probe alone says of the log-volume", "nat")
    for name in ("value", "standard_error", "truncation_error"):
        group.attrs[name] = getattr(estimate, name)
    group.attrs["cautions"] = texts(estimate.cautions)


def _read_result(group: h5py.Group) -> MethodResult:
    attributes = dict(group.attrs)
    shared: dict[str, Any] = {
        "method": str(attributes["method"]),
        "measure": str(attributes["measure"]),
        "preconditioner": str(attributes["preconditioner"]),
        "eps": float(attributes["eps"]),
        "figures": {
            name.removeprefix("figure_"): float(value) for name, value in attributes.items() if name[:7] == "figure_"
        },
    }
    cautions = read_texts(attributes["cautions"])
    if "direction" not in group:
        errors = {name: float(attributes[name]) for name in ("value", "standard_error", "truncation_error")}
        return MethodResult(**shared, estimate=Estimate(**errors, samples=group["samples"][()], cautions=cautions))
    arrays = {name: group[name][()] for name, *_ in RAY_ARRAYS}
    arrays |= {name: arrays[name].astype(bool) for name in FLAGS}
    label, size, cutoff = str(attributes["label"]), int(attributes["size"]), float(attributes["cutoff"])
    sampled = VolumeEstimate(**arrays, size=size, cutoff=cutoff, method=label, cautions=cautions)
    return MethodResult(**shared, sampled=sampled)


def _read_settings(attributes: Mapping[str, Any]) -> VolumeSettings:
    found = {
        entry.name: plain(attributes[f"setting_{entry.name}"])
        for entry in fields(VolumeSettings)
        if f"setting_{entry.name}" in attributes
    }
    return VolumeSettings(**{**found, "methods": tuple(str(found["methods"]).split(","))})
