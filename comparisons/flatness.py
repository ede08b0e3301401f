"""What a flatness measure is: one small pure function of evidence, with its source, unit and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from comparisons.options import Chosen, Option, Values
from comparisons.words import FAMILIES
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.interval import ends, half_width

if TYPE_CHECKING:
    from comparisons.evidence import Evidence, Extent

# Changes of the parameters that leave the function as it is; comparisons.invariance carries them out.
INVARIANCES = ("layer-rescaling", "node-rescaling", "permutation", "parameter-scale")
EVERY_INVARIANCE = frozenset(INVARIANCES)
FLATTER = ("smaller", "larger")


@dataclass(frozen=True, eq=False)
class Reading:
    """What a measure says of one checkpoint.

    Attributes:
        value: the number, in the measure's unit.
        standard_error: standard error of ``value``; 0 if exact, inf where one sample leaves nothing to compare with.
        cautions: sentences on why not to trust it; empty if nothing speaks against it.
        details: further numbers by name, such as a value for each layer.
        truncation_error: error that more samples do not reduce (Lanczos steps).
        samples: how many independent samples the standard error is of; 0 if many.
        traces: whole series by name, such as the cost of each chain at each step (chains, steps).
        lowest: least value that the measure can have; intervals are cut there.
        highest: largest one.
    """

    value: float
    standard_error: float = 0.0
    cautions: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)
    truncation_error: float = 0.0
    samples: float = 0.0
    traces: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    lowest: float = -math.inf
    highest: float = math.inf

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, before it is cut to the range.

        >>> round(Reading(1.0, standard_error=1.0, samples=2).half_width, 3)
        12.706
        """
        freedom = self.samples - 1.0 if self.samples else math.inf
        return half_width(self.standard_error, freedom, truncation_error=self.truncation_error)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval by the one rule of ``spectra.interval``."""
        return ends(self.value, self.half_width, self.lowest, self.highest)

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the value."""
        return not self.cautions and math.isfinite(self.value)


def reading_of(estimate: Estimate, *, details: Mapping[str, float] | None = None) -> Reading:
    """The reading of an estimate, with both of its errors and further numbers by name.

    >>> reading_of(Estimate(2.0)).half_width
    0.0
    """
    return Reading(
        value=estimate.value,
        standard_error=estimate.standard_error,
        cautions=estimate.cautions,
        details=details or {},
        truncation_error=estimate.truncation_error,
        # As many samples as have these degrees of freedom; an error without any is unknown.
        samples=0.0 if math.isinf(estimate.degrees) else estimate.degrees + 1.0,
        lowest=estimate.lowest,
        highest=estimate.highest,
    )


# Gradients of each item of evidence, from the extent of the task and the options by keyword.
Work = Callable[["Extent", Mapping[str, Any]], Mapping[str, float]]


@dataclass(frozen=True)
class Measure:
    """One row of the registry.

    Attributes:
        name: what the command line and files call it, words joined by hyphens.
        title: what tables call it.
        family: one of ``FAMILIES``.
        unit: unit of its values, in terms of ``cost`` and ``parameter``; ``1`` if it has none.
        source: who proposed it.
        flatter: ``smaller`` or ``larger``: in which direction a checkpoint counts as flatter (or simpler).
        invariances: those of ``INVARIANCES`` under which its exact value does not change.
        needs: names of the evidence it cannot do without; see ``Evidence.missing``.
        compute: the evidence, and the options by keyword -> the reading; raises UserError, in a sentence, where there
            is no value.
        extensive: whether it sums over all directions of parameter space, so that it does not compare networks of
            different sizes.
        options: what can be chosen of it.
        work: what it is going to take: gradients of each item of evidence that it needs, by the item's name (those of
            one name are shared), from the extent of the task and the options by keyword.
    """

    name: str
    title: str
    family: str
    unit: str
    source: str
    flatter: str
    invariances: frozenset[str]
    needs: tuple[str, ...]
    compute: Callable[..., Reading]
    extensive: bool = False
    options: tuple[Option, ...] = ()
    work: Work = lambda _, __: {}

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"family must be one of {', '.join(FAMILIES)}; got {self.family!r}")
        if self.flatter not in FLATTER:
            raise UserError(f"flatter must be one of {', '.join(FLATTER)}; got {self.flatter!r}")
        if not self.invariances <= EVERY_INVARIANCE:
            unknown = ", ".join(sorted(self.invariances - EVERY_INVARIANCE))
            raise UserError(f"invariances must be some of {', '.join(INVARIANCES)}; got {unknown}")

    def values(self, chosen: Chosen) -> Values:
        """Values of its options, defaults included, by name.

        Args:
            chosen: the options given, by measure, as ``EvidenceSettings`` has them.

        Returns:
            A value for each option.
        """
        given = chosen.get(self.name, {})
        return {option.name: given.get(option.name, option.default) for option in self.options}

    def keywords(self, chosen: Chosen) -> dict[str, Any]:
        """The same by the keywords of ``compute``."""
        values = self.values(chosen)
        return {option.keyword: values[option.name] for option in self.options}

    def read(self, evidence: Evidence) -> Reading:
        """The reading under the options of the evidence's settings.

        Raises:
            UserError: where there is no value.
        """
        return self.compute(evidence, **self.keywords(evidence.settings.options))

    def expected(self, extent: Extent) -> Mapping[str, float]:
        """Gradients that each item of evidence is going to take, by the item's name."""
        return self.work(extent, self.keywords(extent.settings.options))
