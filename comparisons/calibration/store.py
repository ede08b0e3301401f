"""The store of a calibration: an HDF5 file that xarray opens, with its spectrum, replaced whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from comparisons.calibration.axes import Axes
from comparisons.calibration.calibration import Calibration, Underway
from comparisons.calibration.ground import Ground
from comparisons.calibration.outlook import Metric, Slope
from comparisons.calibration.settings import SweepSettings
from spectra.files import PROVENANCE, Array, Attribute, Dimension, Part, Record, ResultFile, settings
from spectra.spectrum import StoredSpectrum
from spectra.store import build_spectrum, fill_spectrum

_CELL, _MEMBER = Dimension("cell", "cell of the grid"), Dimension("member", "chain of a cell, call after call")
_STEP, _CHECK = Dimension("step", "step of a chain"), Dimension("check", "step at which the acceptance was computed")
_WARM, _PULL = Dimension("temperature", "number of the inverse temperature"), Dimension("pull", "number of it")
_SIZE, _SHARE = Dimension("size", "number of the step size"), Dimension("share", "number of the share")
_NODE = Dimension("slope_node", "node of the gradient's measure")
_PROBE, _VALUE = Dimension("metric_probe", "probe in the metric"), Dimension("metric_node", "node in the metric")
_END, _BOUND = Dimension("metric_end", "lower and upper end"), Dimension("metric_factor", "least factor and mean")
_NUMBERS = Attribute(lambda values: tuple(map(float, np.atleast_1d(values))), lambda values: np.array(values, float))
_SETTINGS = settings(
    SweepSettings,
    step_sizes=_NUMBERS,
    inverse_temperatures=_NUMBERS,
    localisations=_NUMBERS,
    batch_size=Attribute(lambda count: int(count) or None, lambda count: count or 0),
)
_AXES = Record(
    Axes,
    {
        "inverse_temperatures": Array((_WARM,), "samples times inverse temperature", "1 / cost"),
        "localisations": Array((_PULL,), "pull to the checkpoint", "1 / parameter²"),
        "step_sizes": Array((_WARM, _PULL, _SIZE), "step size", "parameter²"),
        "shares": Array((_SHARE,), "share of the limit that the step sizes are", "1"),
    },
)
_SLOPE = Record(
    Slope,
    {
        "nodes": Array((_NODE,), "eigenvalue at which the gradient has mass", "cost / parameter²"),
        "masses": Array((_NODE,), "squared component of the gradient", "cost² / parameter²"),
    },
    prefix="slope_",
)
_GROUND = Record(Ground, prefix="ground_")
_RUNS: dict[str, Part | None] = {
    "rises": Array((_CELL, _MEMBER, _STEP), "cost above the checkpoint's on the step's rows", "cost"),
    "acceptance": Array((_CELL, _MEMBER, _CHECK), "Metropolis acceptance probability", "1"),
}
_UNDERWAY = Record(
    Underway,
    {
        "moved": Array((), "", ""),
        "alive": Array((), "", "", kind=bool),
    },
    later=("member",),
    prefix="underway_",
    optional="underway_step",
)
_METRIC = Record(
    Metric,
    {
        "inverse_temperatures": Array((_WARM,), "samples times inverse temperature", "1 / cost"),
        "localisations": Array((_PULL,), "pull to the checkpoint", "1 / parameter²"),
        "nodes": Array((_WARM, _PULL, _PROBE, _VALUE), "Ritz value in the metric", "1 / parameter²"),
        "masses": Array((_WARM, _PULL, _PROBE, _VALUE), "mass of the preconditioned Hessian there", "1 / parameter²"),
        "ends": Array((_WARM, _PULL, _END), "end of the spectrum in the metric", "1 / parameter²"),
        "factors": Array((_WARM, _PULL, _BOUND), "factor of a direction's step", "1"),
    },
    prefix="metric_",
    optional="metric_nodes",
)
_CALIBRATION = Record(
    Calibration,
    {
        "settings": _SETTINGS,
        "provenance": PROVENANCE,
        "axes": _AXES,
        "slope": _SLOPE,
        "ground": _GROUND,
        **_RUNS,
        "underway": _UNDERWAY,
        "metric": _METRIC,
        "spectrum": None,
    },
    later=("members_at_once",),
)


def _fill(file: h5py.File, found: Calibration) -> None:
    file.attrs["title"] = f"local learning coefficient of {found.provenance.name} over a grid of settings"
    _CALIBRATION.write(file, found)
    fill_spectrum(file.create_group("spectrum"), StoredSpectrum(found.spectrum, found.provenance))


def _build(file: h5py.File) -> Calibration:
    apart: dict[str, Any] = {"spectrum": build_spectrum(file["spectrum"]).spectrum}
    return _CALIBRATION.read(file, **apart)


_FILE = ResultFile("basinscope calibration", 1, _fill, _build)
read_calibration = _FILE.read


def write_calibration(path: str | Path, found: Calibration) -> None:
    """Write a calibration to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        found: the calibration so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _FILE.write(path, found)
