"""The store: a spectrum in an HDF5 file that xarray opens, replaced whole so that a kill loses nothing.

Raw Lanczos coefficients are kept; nodes and weights, derived from them, are there for other readers.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np

from spectra.density import SpectralDensity
from spectra.files import PROVENANCE, TEXTS, Array, Dimension, Part, Provenance, Record, ResultFile, settings
from spectra.lanczos import Deflation, Tridiagonal
from spectra.spectrum import Spectrum, SpectrumSettings, TopEigenpairs
from spectra.spectrum import StoredSpectrum as StoredSpectrum
from spectra.words import curvature_unit, operator_title

FORMAT = "basinscope spectrum"

_PROBE, _STEP = Dimension("probe", "probe vector"), Dimension("step", "Lanczos step")
_DEFLATED = Dimension("deflated_node", "node of the part known without probes")
_COARSE = Dimension("coarse_node", "node of that part from fewer steps")
_EIGENPAIR = Dimension("eigenpair", "converged eigenpair, largest first")
_END, _VECTOR = Dimension("top_pair", "eigenpair of an end"), Dimension("top_vector", "kept eigenvector of an end")
_PARAMETER = Dimension("parameter", "parameter")


class _Parameters:
    """Names and shapes, each an attribute that holds a list of texts."""

    def write(self, group: h5py.Group, value: Any, _: str) -> None:
        TEXTS.write(group, tuple(name for name, _ in value), "parameter_names")
        TEXTS.write(group, tuple(json.dumps(shape) for _, shape in value), "parameter_shapes")

    def read(self, group: h5py.Group, _: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        names, shapes = (TEXTS.read(group, f"parameter_{name}") for name in ("names", "shapes"))
        return tuple(zip(names, (tuple(json.loads(shape)) for shape in shapes), strict=True))


class _IfAsked:
    """A setting that is kept where it is not the default, so that files without it are as those from before it."""

    def __init__(self, kind: type[int]) -> None:
        self.kind = kind

    def write(self, group: h5py.Group, value: int, name: str) -> None:
        if value:
            group.attrs[name] = int(value)

    def read(self, group: h5py.Group, name: str) -> int:
        return self.kind(group.attrs.get(name, 0))


@lru_cache
def _density(unit: str) -> Record[SpectralDensity]:
    """How a density whose nodes have some unit is kept; reading asks for none."""
    diagonals, both = (_PROBE, _STEP), "coupling of a step to the next; the last is the remainder"
    runs = {
        "diagonal": Array(diagonals, "diagonal of the Lanczos matrix", unit),
        "off_diagonal": Array(diagonals, both, unit),
        "lengths": Array((_PROBE,), "steps taken before breakdown", "1"),
    }
    deflation = {
        "nodes": Array((_DEFLATED,), "eigenvalue or node known without probes", unit, "deflation_nodes"),
        "weights": Array((_DEFLATED,), "number of dimensions at the node", "1", "deflation_weights"),
        "coarse_nodes": Array((_COARSE,), "node from fewer steps", unit, "deflation_coarse_nodes"),
        "coarse_weights": Array((_COARSE,), "number of dimensions at the coarse node", "1", "deflation_coarse_weights"),
    }
    parts: dict[str, Part | None] = {
        "runs": Record(Tridiagonal, runs),
        "deflation": Record(Deflation, deflation),
        "epsilon": None,
        "nodes": Array((_PROBE, _STEP), "Ritz value, ascending (derived)", unit),
        "weights": Array((_PROBE, _STEP), "quadrature weight, each row summing to one (derived)", "1"),
    }
    return Record(SpectralDensity, parts, later=("coarseness",))


@lru_cache
def _spectrum(unit: str) -> Record[Spectrum]:
    """How a spectrum whose eigenvalues have some unit is kept; reading asks for none."""
    top = {
        "values": Array((_END,), "eigenvalue, the largest first, then those below zero", unit),
        "residuals": Array((_END,), "norm of H v - l v", unit),
        "vectors": Array((_VECTOR, _PARAMETER), "eigenvector, in the order of the parameters", "1"),
    }
    parts: dict[str, Part | None] = {
        "density": None,
        "settings": settings(SpectrumSettings, top=_IfAsked(int), keep_vectors=_IfAsked(bool)),
        "parameters": _Parameters(),
        "eigenvalues": Array((_EIGENPAIR,), "eigenvalue", unit),
        "residuals": Array((_EIGENPAIR,), "norm of H q - l q", unit),
        "layers": None,
        "layer_strategies": None,
        "top": Record(TopEigenpairs, top, prefix="top_", optional="top_asked"),
    }
    return Record(Spectrum, parts)


def fill_spectrum(file: h5py.Group, stored: StoredSpectrum) -> None:
    """Put a spectrum into an empty group: of a file of its own, or of a result that stands on it."""
    spectrum, name = stored.spectrum, stored.provenance.name
    file.attrs["title"] = f"{operator_title(spectrum.settings.operator, first=True)} spectrum of {name}"
    file.attrs["seed"] = spectrum.settings.seed
    unit = curvature_unit(spectrum.settings.operator, stored.provenance.cost_unit)
    PROVENANCE.write(file, stored.provenance)
    _spectrum(unit).write(file, spectrum)
    _density(unit).write(file, spectrum.density)
    layers = file.create_group("layers", track_order=True)
    for name, density in spectrum.layers.items():
        # A slash would nest groups, and a group needs a name.
        group = layers.create_group(quote(name, safe=" ") or "%")
        group.attrs["name"], group.attrs["strategy"] = name, spectrum.layer_strategies.get(name, "")
        _density(unit).write(group, density)


def build_spectrum(file: h5py.Group) -> StoredSpectrum:
    """The spectrum that a group holds."""
    provenance = PROVENANCE.read(file)
    epsilon = float(np.finfo(provenance.dtype).eps) if provenance.dtype in ("float32", "float64") else 0.0
    groups = {str(group.attrs["name"]): group for group in file["layers"].values()}
    # Files from before strategies of layers were recorded do not have them.
    strategies = {name: str(group.attrs.get("strategy", "")) for name, group in groups.items()}
    spectrum = _spectrum("").read(
        file,
        density=_density("").read(file, epsilon=epsilon),
        layers={name: _density("").read(group, epsilon=epsilon) for name, group in groups.items()},
        layer_strategies={name: strategy for name, strategy in strategies.items() if strategy},
    )
    return StoredSpectrum(spectrum, provenance)


_FILE = ResultFile(FORMAT, 1, fill_spectrum, build_spectrum)
read_spectrum = _FILE.read


def write_spectrum(path: str | Path, spectrum: Spectrum, provenance: Provenance) -> None:
    """Write a spectrum to an HDF5 file, replacing what is there in one step.

    The arrays go in bit for bit, so a spectrum that was read and has further probes appended leaves those of
    earlier probes as they were.

    Args:
        path: the file.
        spectrum: the spectrum, with the probes done so far.
        provenance: what it was made from and with.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _FILE.write(path, StoredSpectrum(spectrum, provenance))
