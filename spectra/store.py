"""The store: a spectrum in an HDF5 file that xarray opens, replaced whole so that a kill loses nothing.

Raw Lanczos coefficients are kept; nodes and weights, derived from them, are there for other readers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np

from spectra.density import SpectralDensity
from spectra.files import (
    Provenance,
    add_array,
    add_dimension,
    hdf5_image,
    opened,
    plain,
    read_provenance,
    read_texts,
    replace_file,
    texts,
    write_provenance,
)
from spectra.lanczos import Deflation, Tridiagonal
from spectra.operators import operator_title
from spectra.spectrum import Spectrum, SpectrumSettings

FORMAT = "basinscope spectrum"
FORMAT_VERSION = 1
CURVATURE_UNIT = "cost / parameter^2"

_PLAIN = ("route", "strategy", "cost", "gradient_norm", "samples", "data_sha256", "products")


@dataclass(frozen=True)
class StoredSpectrum:
    """A spectrum as read from a file.

    Attributes:
        spectrum: the spectrum, with the probes that were done.
        provenance: what it was made from and with.
    """

    spectrum: Spectrum
    provenance: Provenance


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

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["title"] = (
            f"{operator_title(spectrum.settings.operator, first=True)} spectrum of {Path(provenance.checkpoint).name}"
        )
        write_provenance(file, provenance)
        _write_description(file, spectrum)
        _write_density(file, spectrum.density)
        _write_eigenpairs(file, spectrum)
        layers = file.create_group("layers", track_order=True)
        for name, density in spectrum.layers.items():
            # A slash would nest groups, and a group needs a name.
            group = layers.create_group(quote(name, safe=" ") or "%")
            group.attrs["name"], group.attrs["strategy"] = name, spectrum.layer_strategies.get(name, "")
            _write_density(group, density)

    replace_file(path, hdf5_image(fill))


def read_spectrum(path: str | Path) -> StoredSpectrum:
    """Read a spectrum from an HDF5 file.

    Args:
        path: the file.

    Returns:
        The spectrum with its provenance.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, foreign, newer than this code, or damaged; the sentence says which.
    """
    with opened(path, FORMAT, FORMAT_VERSION) as file:
        attributes = dict(file.attrs)
        provenance = read_provenance(attributes)
        epsilon = float(np.finfo(provenance.dtype).eps) if provenance.dtype in ("float32", "float64") else 0.0
        spectrum = Spectrum(
            density=_read_density(file, epsilon),
            settings=SpectrumSettings(**_read_fields(SpectrumSettings, attributes, "setting_")),
            notes=read_texts(attributes["notes"]),
            parameters=_read_parameters(attributes),
            eigenvalues=file["eigenvalues"][()],
            residuals=file["residuals"][()],
            layers=_read_layers(file["layers"], epsilon),
            layer_strategies=_read_layer_strategies(file["layers"]),
            **{name: plain(attributes[name]) for name in _PLAIN},
        )
        return StoredSpectrum(spectrum, provenance)


def _write_description(file: h5py.File, spectrum: Spectrum) -> None:
    for name in _PLAIN:
        file.attrs[name] = getattr(spectrum, name)
    for name, value in spectrum.settings.as_dict().items():
        file.attrs[f"setting_{name}"] = int(value) if isinstance(value, bool) else value
    file.attrs["seed"] = spectrum.settings.seed
    file.attrs["notes"] = texts(spectrum.notes)
    file.attrs["parameter_names"] = texts(tuple(name for name, _ in spectrum.parameters))
    file.attrs["parameter_shapes"] = texts(tuple(json.dumps(shape) for _, shape in spectrum.parameters))


def _read_parameters(attributes: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    names = read_texts(attributes["parameter_names"])
    shapes = (tuple(json.loads(shape)) for shape in read_texts(attributes["parameter_shapes"]))
    return tuple(zip(names, shapes, strict=True))


def _read_fields(kind: type, attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Settings by name, in the types they have; one that the file lacks keeps its default."""
    found = {}
    for entry in fields(kind):
        value = attributes.get(prefix + entry.name)
        if value is not None:
            found[entry.name] = bool(value) if entry.type in (bool, "bool") else plain(value)
    return found


def _write_density(group: h5py.Group, density: SpectralDensity) -> None:
    runs, deflation = density.runs, density.deflation
    group.attrs["size"] = density.size
    group.attrs["operator"] = density.operator
    group.attrs["captured"] = deflation.captured
    group.attrs["coarseness"] = density.coarseness
    add_dimension(group, "probe", runs.probes, "probe vector")
    add_dimension(group, "step", runs.steps, "Lanczos step")
    add_dimension(group, "deflated_node", len(deflation.nodes), "node of the part known without probes")
    add_dimension(group, "coarse_node", len(deflation.coarse_nodes), "node of that part from fewer steps")
    for name, dimensions, long_name, units in _ARRAYS:
        add_array(group, name, _array(density, name), dimensions, long_name, units)


_RUNS = ("probe", "step")
_ARRAYS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("diagonal", _RUNS, "diagonal of the Lanczos matrix", CURVATURE_UNIT),
    ("off_diagonal", _RUNS, "coupling of a step to the next; the last is the remainder", CURVATURE_UNIT),
    ("lengths", ("probe",), "steps taken before breakdown", "1"),
    ("nodes", _RUNS, "Ritz value, ascending (derived)", CURVATURE_UNIT),
    ("weights", _RUNS, "quadrature weight, each row summing to one (derived)", "1"),
    ("deflation_nodes", ("deflated_node",), "eigenvalue or node known without probes", CURVATURE_UNIT),
    ("deflation_weights", ("deflated_node",), "number of dimensions at the node", "1"),
    ("deflation_coarse_nodes", ("coarse_node",), "node from fewer steps", CURVATURE_UNIT),
    ("deflation_coarse_weights", ("coarse_node",), "number of dimensions at the coarse node", "1"),
)


def _array(density: SpectralDensity, name: str) -> Any:
    if name.startswith("deflation_"):
        return getattr(density.deflation, name.removeprefix("deflation_"))
    return getattr(density if name in ("nodes", "weights") else density.runs, name)


def _read_density(group: h5py.Group, epsilon: float) -> SpectralDensity:
    read = {name: group[name][()] for name, *_ in _ARRAYS if name not in ("nodes", "weights")}
    deflation = Deflation(
        nodes=read["deflation_nodes"],
        weights=read["deflation_weights"],
        captured=int(group.attrs["captured"]),
        coarse_nodes=read["deflation_coarse_nodes"],
        coarse_weights=read["deflation_coarse_weights"],
    )
    runs = Tridiagonal(read["diagonal"], read["off_diagonal"], read["lengths"])
    size, coarseness = int(group.attrs["size"]), float(group.attrs.get("coarseness", 0.0))
    return SpectralDensity(size, runs, deflation, str(group.attrs["operator"]), epsilon, coarseness)


def _read_layers(layers: h5py.Group, epsilon: float) -> dict[str, SpectralDensity]:
    groups = [layers[key] for key in layers]
    return {str(group.attrs["name"]): _read_density(group, epsilon) for group in groups}


def _read_layer_strategies(layers: h5py.Group) -> dict[str, str]:
    # Files from before it was recorded do not have it.
    found = {str(layers[key].attrs["name"]): str(layers[key].attrs.get("strategy", "")) for key in layers}
    return {name: strategy for name, strategy in found.items() if strategy}


def _write_eigenpairs(file: h5py.File, spectrum: Spectrum) -> None:
    add_dimension(file, "eigenpair", len(spectrum.eigenvalues), "converged eigenpair, largest first")
    for name, long_name in (("eigenvalues", "eigenvalue"), ("residuals", "norm of H q - l q")):
        add_array(file, name, getattr(spectrum, name), ("eigenpair",), long_name, CURVATURE_UNIT)
