"""The spectrum of a checkpoint: what was asked for, what came out, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectra.density import SpectralDensity
from spectra.errors import UserError, require_counts
from spectra.files import Provenance, Result, counted
from spectra.words import ENGINES, OPERATORS, REORTHOGONALISATIONS, curvature_unit, operator_title

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpectrumSettings:
    """Everything that decides the numbers of a spectrum, apart from the landscape.

    Attributes:
        operator: one of ``OPERATORS``.
        probes: number of probe vectors, each followed for ``steps`` Lanczos steps.
        steps: Lanczos steps a probe.
        deflate: dimension of the Krylov space treated without sampling; -1 chooses it, 0 is plain SLQ.
        engine: ``auto`` (exact routes where they cost no more), ``slq``, ``dense``, ``gram`` or ``pyhessian``.
        reorthogonalise: ``auto`` (full if the basis fits the memory), ``full`` or ``none``.
        strategy: how products are computed; ``auto`` times the candidates on the model itself.
        seed: the one seed that all randomness comes from.
        block: probes that share each pass over the data, and that a kill loses at most.
        memory: bytes that graphs and bases may take.
        layers: patterns of the parameters to differentiate, ``*`` for all.
        per_layer: also the spectrum of each layer's diagonal block.
    """

    operator: str = "hessian"
    probes: int = 8
    steps: int = 64
    deflate: int = -1
    engine: str = "auto"
    reorthogonalise: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    block: int = 8
    memory: int = 4 * 2**30
    layers: str = "*"
    per_layer: bool = False

    def __post_init__(self) -> None:
        _member("operator", self.operator, OPERATORS)
        _member("engine", self.engine, ENGINES)
        _member("reorthogonalise", self.reorthogonalise, REORTHOGONALISATIONS)
        require_counts(self, {"probes": 1, "steps": 1, "block": 1, "memory": 1, "deflate": -1, "seed": 0})

    def as_dict(self) -> dict[str, str | int | bool]:
        """Plain values by name, for the store."""
        return asdict(self)


def _member(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def layer_of(name: str) -> str:
    """The layer of ``ParameterLayout.layers`` that owns a parameter, by its name; the parameter itself where none does.

    >>> layer_of("hidden.weight"), layer_of("scale")
    ('hidden', 'scale')
    """
    return name.rpartition(".")[0] or name


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The spectrum of one operator at one checkpoint.

    Attributes:
        density: the eigenvalue density, with ``density.runs.probes`` probes done so far.
        settings: what was asked for.
        route: how it was computed: ``dense``, ``gram``, ``slq`` or ``pyhessian``.
        strategy: how products were computed (fixed when a run is resumed).
        notes: sentences on choices made and things stepped back from.
        cost: the cost at the anchor, in its unit.
        gradient_norm: norm of its gradient there: how stationary the anchor is.
        samples: number of samples of the data whose weight is not zero.
        parameters: names and shapes of the parameters differentiated.
        data_sha256: digest of the data as iterated.
        products: operator-vector products spent.
        eigenvalues: (k,) largest eigenvalues by magnitude that converged, descending in magnitude.
        residuals: (k,) their residual norms ``|H q - l q|``.
        layers: densities of the layers' diagonal blocks, by layer name; empty unless asked for.
        layer_strategies: how their products were computed, by layer name (fixed when a run is resumed).
    """

    density: SpectralDensity
    settings: SpectrumSettings
    route: str
    strategy: str
    notes: tuple[str, ...]
    cost: float
    gradient_norm: float
    samples: float
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    data_sha256: str
    products: int
    eigenvalues: Array = field(default_factory=lambda: np.empty(0))
    residuals: Array = field(default_factory=lambda: np.empty(0))
    layers: Mapping[str, SpectralDensity] = field(default_factory=dict)
    layer_strategies: Mapping[str, str] = field(default_factory=dict)
    _drawn_by: ClassVar[str] = "spectra.plots:draw_spectrum"
    _written_by: ClassVar[str] = "spectra.store:write_spectrum"

    @property
    def complete(self) -> bool:
        """Whether every probe that was asked for is done, of every layer too where layers were asked for."""
        wanted = {layer_of(name) for name, _ in self.parameters} if self.settings.per_layer else set()
        layers_done = wanted <= self.layers.keys() and all(map(self._done, self.layers.values()))
        return self._done(self.density) and layers_done

    def _done(self, density: SpectralDensity) -> bool:
        return density.exact or density.runs.probes >= self.settings.probes

    def _title(self) -> str:
        return self.density._title()

    def _facts(self) -> dict[str, str]:
        found = self.density._facts()
        if len(self.eigenvalues):
            found["largest eigenvalue"] = f"{self.eigenvalues[0]:.4g}"
        return found if self.complete else {**found, "complete": "no"}

    def _cautions(self) -> tuple[str, ...]:
        return self.density._cautions()

    def records(self) -> list[dict[str, Any]]:
        """The rows of the density, and after them those of each layer's, with its name in the column ``layer``."""
        parts = [(None, self.density), *self.layers.items()]
        return [{"layer": layer, **row} for layer, density in parts for row in density.records()]

    def _stored(self) -> tuple[Any, ...]:
        return self, Provenance(checkpoint="", checkpoint_sha256="")


@dataclass(frozen=True, repr=False)
class StoredSpectrum(Result):
    """A spectrum as read from a file.

    Attributes:
        spectrum: the spectrum, with the probes that were done.
        provenance: what it was made from and with.
    """

    spectrum: Spectrum
    provenance: Provenance
    _drawn_by: ClassVar[str] = "spectra.plots:draw_spectrum"
    _written_by: ClassVar[str] = "spectra.store:write_spectrum"

    def _title(self) -> str:
        operator = operator_title(self.spectrum.settings.operator, first=True)
        name, size = Path(self.provenance.checkpoint).name, self.spectrum.density.size
        return f"{operator} spectrum of {name}, {counted(size, 'parameter')}, {self.provenance.cost} cost"

    def _facts(self) -> dict[str, str]:
        found = self.spectrum._facts()
        unit = curvature_unit(self.spectrum.settings.operator, self.provenance.cost_unit)
        return found | {"trace": f"{found['trace']} {unit}"}

    def _cautions(self) -> tuple[str, ...]:
        return self.spectrum._cautions()

    def records(self) -> list[dict[str, Any]]:
        """As ``Spectrum.records``."""
        return self.spectrum.records()

    def _stored(self) -> tuple[Any, ...]:
        return self.spectrum, self.provenance
