"""A case of the audit: a cost, a prior and a cutoff, with the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from spectra.checkpoint import AdamMoments
from spectra.errors import UserError
from spectra.lanczos import Eigenpairs, top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.spectrum import SpectrumSettings
from volume.audit.reading import SUBLEVEL, VOLUME, AuditReading, Truth
from volume.prior_units import prior_units
from volume.priors import GaussianPrior, Lebesgue, Prior
from volume.quadratic import AnchorMeasure, anchor_measure
from volume.rays import CostSurface

T = TypeVar("T")
PAIRS = 40
ANCHOR_STEPS = 128
_PAIR_PRODUCTS = 400


@dataclass(frozen=True, eq=False)
class AuditCase:
    """What estimators are given, and what they should say.

    Attributes:
        name: of the case.
        surface: the cost.
        cutoff: T, unit of the cost.
        truths: by quantity, one of ``QUANTITIES``; the log-volume's is the sublevel set's unless it says otherwise.
            Empty where nothing is known.
        star: truth of the star domain's log-volume, where that is another number; None where it is not known.
        prior: the measure of the log-volume.
        operator: curvature at the anchor; None if the cost has none there.
        shift: c of the log-determinant ``log det(H + c I)``, unit of the curvature.
        landscape: the same cost as a landscape of a torch module, for libraries that differentiate one; or None.
        moments: Adam's, of a checkpoint that has them.
        most_directions: samplers take no more than these, where more would take minutes.
        memory: bytes that Lanczos bases may take.
    """

    name: str
    surface: CostSurface
    cutoff: float
    truths: Mapping[str, Truth] = field(default_factory=dict)
    prior: Prior = field(default_factory=Lebesgue)
    operator: SymmetricOperator | None = None
    shift: float = 0.0
    landscape: Landscape | None = None
    moments: AdamMoments | None = None
    most_directions: int = 10**9
    memory: int = SpectrumSettings.memory
    star: Truth | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made of this case under a key before, else what is made now: of one seed several estimators read it.

        Args:
            key: tells it from all else that is made of this case.
            make: makes it; what it raises is raised, and it is called again the next time.

        Returns:
            The same object each time.
        """
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def known(self, quantity: str, claims: str) -> tuple[Truth | None, Truth | None]:
        """The truth of a quantity and of the set that is claimed; without it, that of the other set, which bounds it.

        Args:
            quantity: one of ``QUANTITIES``.
            claims: one of ``SETS``; of log-volumes only.

        Returns:
            The truth, or None; and where that is None, the bound, or None.
        """
        if quantity != VOLUME:
            return self.truths.get(quantity), None
        found = [truth for truth in (self.truths.get(VOLUME), self.star) if truth is not None]
        found = [replace(truth, of=truth.of or SUBLEVEL) for truth in found]
        own = next((truth for truth in found if truth.says_of(claims)), None)
        return own, next(iter(found), None) if own is None else None

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.surface.size

    @property
    def strategy(self) -> str:
        """How products with the curvature are computed; empty as long as that is open."""
        found = str(getattr(self.operator, "strategy", ""))
        return "" if found == "auto" else found

    @property
    def log_density_at_anchor(self) -> float:
        """Log density of the prior at the anchor: what turns a small Lebesgue volume there into a mass, nats."""
        return self.prior.log_density(self.surface.theta)

    @cached_property
    def pairs(self) -> Eigenpairs:
        """Leading eigenpairs of the curvature: the same for every seed, so computed once.

        A flat spectrum has no leading ones, and no tolerance is worth its products: any orthonormal vectors make a
        preconditioner of determinant one.
        """
        return top_eigenpairs(self.curvature, min(PAIRS, max(1, self.size // 4)), max_products=_PAIR_PRODUCTS)

    @cached_property
    def in_prior_units(self) -> tuple[SymmetricOperator, AnchorMeasure, float, float]:
        """Curvature in prior units, the anchor's measure, the prior's s there, and the log volume of the units.

        Raises:
            UserError: if the prior is not Gaussian.
        """
        if not isinstance(self.prior, GaussianPrior):
            raise UserError(f"the case {self.name} needs a gaussian prior, got {self.prior.name}")
        scale = self.prior.scale(self.size)
        operator, theta, s = prior_units(self.curvature, self.surface.theta, scale)
        steps = min(ANCHOR_STEPS, self.size)
        measure = anchor_measure(operator, theta.to(operator.dtype), steps, memory=self.memory)
        return operator, measure, s, 0.0 if operator is self.operator else float(scale.log().sum())

    @property
    def curvature(self) -> SymmetricOperator:
        """The curvature.

        Raises:
            UserError: if there is none.
        """
        if self.operator is None:
            raise UserError(f"the case {self.name} has no curvature at the anchor")
        return self.operator


# A user's estimator is any such function: it joins an audit by a name in the mapping of estimators.
Estimator = Callable[[AuditCase, int], AuditReading]


@dataclass(frozen=True)
class Effort:
    """What estimators may spend; see ``volume.audit.registry.estimators``."""

    directions: int
    probes: int
    steps: int
    products: int


@dataclass(frozen=True)
class EstimatorRow:
    """An estimator that an audit knows by name.

    Attributes:
        name: words joined by hyphens, a variant after a stroke.
        make: the effort -> the estimator.
        by_name: whether it is run only where it is asked for by name, as one whose repeat takes long.
    """

    name: str
    make: Callable[[Effort], Estimator]
    by_name: bool = False
