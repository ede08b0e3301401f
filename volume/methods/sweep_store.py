"""A sweep over cutoffs in an HDF5 file: a group a method, its arrays by cutoff and by direction or probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from spectra.estimate import Estimate
from spectra.files import add_array, add_dimension, read_texts, texts
from volume.method_result import MethodResult
from volume.result import VolumeEstimate
from volume.sweep import CutoffSweep

# What is kept of each ray: name, meaning, unit.
RAY_ARRAYS = (
    ("log_terms", "what the direction alone says of the log-volume", "nat"),
    ("evaluations", "cost evaluations spent on the direction", "1"),
    ("unbounded", "1 where the cost stayed below the cutoff as far as the prior has mass", "1"),
    ("monotone", "1 where the scan saw nothing above the cutoff before the crossing", "1"),
    ("radial_error", "error of the log term from the crossing's error", "nat"),
)
FLAGS = ("unbounded", "monotone")
_ERRORS = ("value", "standard_error", "truncation_error")
_SEPARATOR = "\n"


def write_sweep(group: h5py.Group, sweep: CutoffSweep) -> None:
    """Fill a group with a sweep.

    Args:
        group: an empty group.
        sweep: what is done of it.
    """
    for method, results in sweep.results.items():
        within = group.create_group(method, track_order=True)
        _add_cutoffs(within, sweep)
        for name in ("method", "measure", "preconditioner", "eps"):
            within.attrs[name] = getattr(results[0], name)
        for name in results[0].figures:
            values = [result.figures[name] for result in results]
            add_array(within, f"figure_{name}", values, ("cutoff",), name.replace("_", " "), "")
        add_array(within, "log_volume", sweep.log_volumes(method), ("cutoff",), "log-volume (derived)", "nat")
        add_array(within, "slope", sweep.slopes(method), ("cutoff",), "d log V / d log T (derived)", "1")
        _write_evidence(within, results)
    _add_cutoffs(group, sweep)
    write_failures(group, sweep.failures)


def write_failures(group: h5py.Group, failures: Mapping[str, str]) -> None:
    """Notes in a group which methods failed.

    Args:
        group: any group.
        failures: why, by method.
    """
    group.attrs["failed_methods"], group.attrs["failures"] = texts(tuple(failures)), texts(tuple(failures.values()))


def read_failures(group: h5py.Group) -> dict[str, str]:
    """The methods that failed, of a group.

    Args:
        group: as ``write_failures`` left it, or from before failures were kept.

    Returns:
        Why they did, by method.
    """
    names, reasons = (read_texts(group.attrs.get(name, h5py.Empty("S1"))) for name in ("failed_methods", "failures"))
    return dict(zip(names, reasons, strict=True))


def _add_cutoffs(group: h5py.Group, sweep: CutoffSweep) -> None:
    scale = group.create_dataset("cutoff", data=sweep.cutoffs)
    scale.make_scale("cutoff")
    scale.attrs["long_name"], scale.attrs["units"] = "cutoff", "unit of the cost"


def _write_evidence(group: h5py.Group, results: tuple[MethodResult, ...]) -> None:
    sampled = [result.sampled for result in results if result.sampled is not None]
    estimates = [result.estimate for result in results if result.estimate is not None]
    if sampled:
        add_dimension(group, "direction", len(sampled[0].log_terms), "direction")
        for name, long_name, units in RAY_ARRAYS:
            data = np.stack([getattr(one, name) for one in sampled])
            # Flags as integers: xarray knows no HDF5 enumerations.
            data = data.astype(np.int8) if name in FLAGS else data
            add_array(group, name, data, ("cutoff", "direction"), long_name, units)
        group.attrs["size"], group.attrs["label"] = sampled[0].size, sampled[0].method
    else:
        add_dimension(group, "probe", len(estimates[0].samples), "probe of the spectrum")
        samples = np.stack([one.samples for one in estimates])
        add_array(group, "samples", samples, ("cutoff", "probe"), "what each probe alone says of the log-volume", "nat")
        for name in _ERRORS:
            values = [getattr(one, name) for one in estimates]
            add_array(group, name, values, ("cutoff",), name.replace("_", " "), "nat")
    group.attrs["cautions"] = texts(tuple(_SEPARATOR.join(one.cautions) for one in sampled or estimates))


def read_sweep(group: h5py.Group) -> CutoffSweep:
    """The sweep that a group holds.

    Args:
        group: filled by ``write_sweep``.

    Returns:
        The sweep.
    """
    cutoffs = group["cutoff"][()]
    methods = [name for name in group if name != "cutoff"]
    results = {name: _read_results(group[name], cutoffs) for name in methods}
    return CutoffSweep(cutoffs, results, read_failures(group))


def _read_results(group: h5py.Group, cutoffs: Any) -> tuple[MethodResult, ...]:
    shared: dict[str, Any] = {name: str(group.attrs[name]) for name in ("method", "measure", "preconditioner")}
    shared["eps"] = float(group.attrs["eps"])
    arrays = {name: group[name][()] for name in group if name not in ("cutoff", "direction", "probe")}
    names = [name for name in arrays if name.startswith("figure_")]
    cautions = [tuple(filter(None, text.split(_SEPARATOR))) for text in read_texts(group.attrs["cautions"])]
    found = []
    for number, cutoff in enumerate(cutoffs):
        shared["figures"] = {name.removeprefix("figure_"): float(arrays[name][number]) for name in names}
        if "direction" in group:
            rays = {name: arrays[name][number] for name, *_ in RAY_ARRAYS}
            rays |= {name: rays[name].astype(bool) for name in FLAGS}
            label, size = str(group.attrs["label"]), int(group.attrs["size"])
            estimate = VolumeEstimate(**rays, size=size, cutoff=float(cutoff), method=label, cautions=cautions[number])
            found.append(MethodResult(**shared, sampled=estimate))
        else:
            errors = {name: float(arrays[name][number]) for name in _ERRORS}
            of_probes = Estimate(**errors, samples=arrays["samples"][number], cautions=cautions[number])
            found.append(MethodResult(**shared, estimate=of_probes))
    return tuple(found)
