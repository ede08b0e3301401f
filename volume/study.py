"""A study of one checkpoint's volume: what was asked for, and what each method said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from spectra.errors import UserError, require_counts
from spectra.files import Provenance, Result, counted
from spectra.members import stated, stating
from spectra.words import NEGATIVE_RULES
from volume.method_result import METHODS, MethodResult, stating_methods
from volume.preconditioners import EXPONENT
from volume.sweep import CutoffSweep, parse_sweep

PRECONDITIONERS = tuple(stated("volume.preconditioners"))
OPERATORS = stating("spectra.operators", "models_cost")
SEARCH = "search"


@dataclass(frozen=True)
class VolumeSettings:
    """Everything that decides the numbers, apart from the landscape.

    Attributes:
        methods: some of ``METHODS``.
        cutoff: T, unit of the cost, positive.
        prior: as ``volume.priors.parse_prior`` reads it.
        preconditioner: one of ``PRECONDITIONERS``, of the star-domain method.
        eps: of the preconditioner: a positive number, or ``search``.
        exponent: of the curvature in the preconditioner, positive; 1/2 makes an ellipsoid a ball.
        directions: of each sampled method.
        probes: of the curvature's spectrum.
        steps: Lanczos steps a probe.
        seed: the one seed that all randomness comes from.
        negative: rule for negative eigenvalues.
        k: of the shift ``c = k / s^2`` in the shifted determinant and the corrected ellipsoid slice; 0 for a
            determinant without a shift.
        sweep_cutoff: ``LOW:HIGH:COUNT`` for volumes at so many cutoffs too; empty for none.
        rank_tolerance: of the segment: eigenvalues below this share of the largest are zero; 0 takes rounding's.
        operator: one of ``OPERATORS``, the curvature of determinants and preconditioners; empty for the cost's own.
    """

    methods: tuple[str, ...] = ("quadratic-mass", "star-domain")
    cutoff: float = 0.01
    prior: str = "gaussian"
    preconditioner: str = "low-rank"
    eps: str = SEARCH
    exponent: float = EXPONENT
    directions: int = 1000
    probes: int = 8
    steps: int = 64
    seed: int = 0
    negative: str = "raise"
    k: float = 1.0
    sweep_cutoff: str = ""
    rank_tolerance: float = 0.0
    operator: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cutoff) and self.cutoff > 0.0):
            raise UserError(f"cutoff must be positive and finite, got {self.cutoff}")
        if not (math.isfinite(self.exponent) and self.exponent > 0.0):
            raise UserError(f"exponent must be positive and finite, got {self.exponent}")
        if not (math.isfinite(self.k) and self.k >= 0.0):
            raise UserError(f"k must be non-negative and finite, got {self.k:g}")
        if not 0.0 <= self.rank_tolerance < 1.0:
            raise UserError(f"rank_tolerance must be at least 0 and below 1, got {self.rank_tolerance:g}")
        if self.k == 0.0 and "ellipsoid-slice-corrected" in self.methods:
            raise UserError("k must be positive for ellipsoid-slice-corrected, got 0; without it use ellipsoid-slice")
        if not self.methods:
            raise UserError(f"methods must be some of {', '.join(METHODS)}, got none")
        for method in self.methods:
            _member("methods", method, METHODS)
        _member("preconditioner", self.preconditioner, PRECONDITIONERS)
        _member("negative", self.negative, NEGATIVE_RULES)
        if self.operator:
            _member("operator", self.operator, OPERATORS)
        require_counts(self, {"directions": 1, "probes": 1, "steps": 1, "seed": 0})
        for method in stating_methods("gaussian", self.methods) if self.prior == "lebesgue" else ():
            raise UserError(
                f"{method} is the mass under a prior, and lebesgue is improper: it has no mass; "
                "use a gaussian prior, or the methods star-domain or ellipsoid-slice"
            )
        if self.sweep_cutoff:
            parse_sweep(self.sweep_cutoff)
        self.fixed_eps  # noqa: B018  # refuses what is no number

    @property
    def fixed_eps(self) -> float | None:
        """The eps that was given; None if it is to be searched.

        Raises:
            UserError: if it is neither ``search`` nor a positive finite number.
        """
        if self.eps == SEARCH:
            return None
        try:
            value = float(self.eps)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0.0):
            raise UserError(f"eps must be a positive number or {SEARCH}, got {self.eps!r}")
        return value

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, methods joined by commas."""
        return {**asdict(self), "methods": ",".join(self.methods)}


@dataclass(frozen=True, eq=False, repr=False)
class VolumeStudy(Result):
    """What the methods said of one checkpoint.

    Attributes:
        settings: what was asked for.
        provenance: what it was made from and with.
        results: by method, those that are done or begun, and those that failed.
        size: number of parameters n.
        samples: of the data, those whose weight is not zero.
        data_sha256: digest of the data as iterated.
        cost: at the anchor, in its unit.
        gradient_norm: of the cost at the anchor.
        operator: name of the curvature that determinants use.
        sweep: volumes at other cutoffs, as far as they are done; None if none were asked for.
        cost_noise: rounding noise of the cost at the anchor, in its unit; nan if it was not measured.
        fall: the most that the cost falls below the anchor's along the descent, its unit; nan if not measured.
        fall_distance: how far from the anchor.
        strategy: how its products were computed; kept on resuming.
        notes: sentences on choices made.
        cautions: sentences on why not to trust any of it.
    """

    settings: VolumeSettings
    provenance: Provenance
    results: Mapping[str, MethodResult] = field(default_factory=dict)
    size: int = 0
    samples: float = 0.0
    data_sha256: str = ""
    cost: float = 0.0
    gradient_norm: float = 0.0
    operator: str = ""
    strategy: str = ""
    sweep: CutoffSweep | None = None
    cost_noise: float = math.nan
    fall: float = math.nan
    fall_distance: float = math.nan
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    _drawn_by: ClassVar[str] = "volume.plots:draw_study"
    _written_by: ClassVar[str] = "volume.store:write_study"

    def _title(self) -> str:
        name, cutoff = self.provenance.name, f"cutoff {self.settings.cutoff:g}"
        return f"basin volume of {name}, {counted(self.size, 'parameter')}, {cutoff} {self.provenance.cost_unit}"

    def _facts(self) -> dict[str, str]:
        volumes = {
            method: "no value" if result.failure else f"log {result.kind} {result.text} nat"
            for method, result in self.results.items()
        }
        return volumes if self.complete else {**volumes, "complete": "no"}

    def _cautions(self) -> list[str]:
        untrusted = (result for result in self.results.values() if not result.trusted)
        return [*self.cautions, *(f"{result.method}: {result.verdict}" for result in untrusted)]

    def records(self) -> list[dict[str, Any]]:
        """A row for each method's estimate, at the study's cutoff and then at each of its sweep (``swept``)."""
        found = [{"cutoff": self.settings.cutoff, "swept": False, **one.record()} for one in self.results.values()]
        if self.sweep is not None:
            for results in self.sweep.results.values():
                rows = zip(self.sweep.cutoffs, results, strict=True)
                found += [{"cutoff": float(cutoff), "swept": True, **one.record()} for cutoff, one in rows]
        return found

    @property
    def complete(self) -> bool:
        """Whether every method is done, with all directions, or has failed."""
        methods = self.settings.methods
        if not all(method in self.results and self._done(self.results[method]) for method in methods):
            return False
        if not self.settings.sweep_cutoff:
            return True
        swept, failed = ({}, {}) if self.sweep is None else (self.sweep.results, self.sweep.failures)
        wanted = [method for method in methods if not self.results[method].failure and method not in failed]
        return all(method in swept and self._done(swept[method][0]) for method in wanted)

    @property
    def failures(self) -> dict[str, str]:
        """Why methods have no volume, by their name; those of the sweep alone too."""
        found = {method: result.failure for method, result in self.results.items() if result.failure}
        swept = {} if self.sweep is None else self.sweep.failures
        return found | {f"{method}, sweep": reason for method, reason in swept.items()}

    def _done(self, result: MethodResult) -> bool:
        return result.sampled is None or len(result.sampled.log_terms) >= self.settings.directions


def _member(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
