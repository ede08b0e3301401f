"""The spectrum of a checkpoint: what was asked for, what came out, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectra.density import SpectralDensity
from spectra.errors import UserError, require_counts
from spectra.files import Provenance, Result, counted
from spectra.words import ENGINES, OPERATORS, REORTHOGONALISATIONS, curvature_unit, operator_title

Array = NDArray[np.float64]
# A Krylov space of 20 and 8 products, then 4 probes of 8 steps: 60 products. Fewer probes leave the trace's error
# itself unknown, more steps say nothing of the trace.
QUICK = {"probes": 4, "steps": 8, "deflate": 20}


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
        block: probes that share each pass over the data, and that a kill loses at most; 0 chooses.
        memory: bytes that graphs and bases may take.
        layers: patterns of the parameters to differentiate, ``*`` for all.
        per_layer: also the spectrum of each layer's diagonal block.
        top: number K of the largest eigenpairs that are found one by one, with the K most negative; 0 for none.
        keep_vectors: whether the eigenvectors of these are kept.
    """

    operator: str = "hessian"
    probes: int = 8
    steps: int = 64
    deflate: int = -1
    engine: str = "auto"
    reorthogonalise: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    block: int = 0
    memory: int = 4 * 2**30
    layers: str = "*"
    per_layer: bool = False
    top: int = 0
    keep_vectors: bool = False

    def __post_init__(self) -> None:
        _member("operator", self.operator, OPERATORS)
        _member("engine", self.engine, ENGINES)
        _member("reorthogonalise", self.reorthogonalise, REORTHOGONALISATIONS)
        require_counts(self, {"probes": 1, "steps": 1, "block": 0, "memory": 1, "deflate": -1, "seed": 0, "top": 0})
        if self.keep_vectors and not self.top:
            raise UserError("keep_vectors needs top, the number of eigenpairs (--keep-vectors needs --top K)")

    @property
    def rough(self) -> bool:
        """Whether there are so few Lanczos steps as ``quick`` takes."""
        return self.steps <= QUICK["steps"]

    def quick(self) -> SpectrumSettings:
        """These settings with about 60 products, for a rough first answer; a number of probes that was named stays.

        Raises:
            UserError: if steps or the deflation were named, for these it chooses itself.

        >>> found = SpectrumSettings().quick()
        >>> found.probes, found.steps, found.deflate
        (4, 8, 20)
        """
        default = SpectrumSettings
        if (self.steps, self.deflate) != (default.steps, default.deflate):
            raise UserError("--quick chooses --steps and --deflate itself: leave them out")
        probes = QUICK["probes"] if self.probes == default.probes else self.probes
        return replace(self, probes=probes, steps=QUICK["steps"], deflate=QUICK["deflate"])

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


# Largest residual of a converged pair as a share of its eigenvalue: rounding may leave more near zero.
LARGEST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class TopEigenpairs:
    """Eigenpairs of both ends of a spectrum: the largest, then the most negative where there are any below zero.

    Attributes:
        asked: K, how many were asked for at each end.
        values: (k,) the K largest eigenvalues, descending, then at most K below zero, the lowest first.
        residuals: (k,) ``|H v - l v|``, from products of their own: each value is within this of an eigenvalue.
        bound: residual up to which a pair counts as converged, where it is also at most 1 % of the eigenvalue.
        products: products that they took.
        vectors: (k, n) eigenvectors of norm one, or (0, n) where they are not kept.
    """

    asked: int
    values: Array
    residuals: Array
    bound: float
    products: int
    vectors: Array

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(k,) which pairs have converged."""
        return np.asarray(self.residuals <= np.minimum(self.bound, LARGEST_SHARE * np.abs(self.values)))


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The spectrum of one operator at one checkpoint.

    Attributes:
        density: the eigenvalue density, with ``density.runs.probes`` probes done so far.
        settings: what was asked for.
        route: how it was computed: ``dense``, ``gram``, ``slq`` or ``pyhessian``.
        strategy: how products were computed (fixed when a run is resumed).
        notes: sentences on choices made and things given up.
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
        top: eigenpairs of both ends; None unless asked for.
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
    top: TopEigenpairs | None = None
    _drawn_by: ClassVar[str] = "spectra.plots:draw_spectrum"
    _written_by: ClassVar[str] = "spectra.store:write_spectrum"

    @property
    def complete(self) -> bool:
        """Whether every probe that was asked for is done, of every layer too where layers were asked for."""
        wanted = {layer_of(name) for name, _ in self.parameters} if self.settings.per_layer else set()
        layers_done = wanted <= self.layers.keys() and all(map(self._done, self.layers.values()))
        return self._done(self.density) and layers_done and self.has_top(self.settings)

    def has_top(self, settings: SpectrumSettings) -> bool:
        """Whether it has the top eigenpairs that settings ask for, with their vectors where these do."""
        if self.top is None or not settings.top:
            return not settings.top
        return self.top.asked >= settings.top and (len(self.top.vectors) > 0 or not settings.keep_vectors)

    def eigenvector(self, number: int) -> dict[str, Array]:
        """A kept eigenvector of ``top`` as one array a parameter.

        Args:
            number: number of the pair, from 0.

        Returns:
            By parameter name, in the parameters' shapes; the squares of all entries sum to one.

        Raises:
            UserError: if no vectors are kept, or there is none of that number.
        """
        kept = 0 if self.top is None else len(self.top.vectors)
        if self.top is None or not -kept <= number < kept:
            none = "no eigenvectors are kept: compute with top and keep_vectors (--top K --keep-vectors)"
            raise UserError(f"there are {kept} eigenvectors, numbered from 0, got {number}" if kept else none)
        ends = np.cumsum([int(np.prod(shape, dtype=np.int64)) for _, shape in self.parameters])
        parts = np.split(self.top.vectors[number], ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.parameters, parts, strict=True)}

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
        name, size = self.provenance.name, self.spectrum.density.size
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
