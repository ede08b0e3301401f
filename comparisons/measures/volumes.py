"""Volumes as measures: the sampled mass of the basin, and the slice of an ellipsoid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, EvidenceSettings, Extent, Tally
from comparisons.flatness import Measure, Reading, Work, reading_of
from comparisons.options import CUTOFF, PRIOR, Option
from spectra.errors import UserError
from spectra.words import dtype_title
from volume.study import PRECONDITIONERS, VolumeSettings

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.checkpoint import AdamMoments
    from spectra.landscape import Landscape
    from volume.method_result import MethodResult

# Under this name the strategy of the basin's curvature is kept.
BASIN = "basin"


@contextmanager
def counting(landscape: Landscape, tally: Tally, evidence: Evidence) -> Iterator[None]:
    """Costs at k points are counted as k forward passes, and said to who follows the evidence."""
    costs = landscape.many_costs

    def counted(thetas: Tensor) -> Tensor:
        tally.evaluations += len(thetas)
        evidence.tell(tally)
        return costs(thetas)

    landscape.many_costs = counted
    try:
        yield
    finally:
        landscape.many_costs = costs


def basin_landscape(evidence: Evidence) -> Landscape:
    """Where basins are measured: divergence from the checkpoint's outputs, on held-out rows where there are such.

    That is what ``basinscope volume`` does by default, and needs no labels.

    Args:
        evidence: of a checkpoint.

    Returns:
        The landscape; under the task's own cost if its outputs are no softmax.
    """
    from spectra.costs import CrossEntropy, kl_from_anchor

    def build(_: Tally) -> Landscape:
        chosen = evidence.held_out or evidence.landscape
        cost = kl_from_anchor if isinstance(chosen.softmax, CrossEntropy) else chosen.cost_function
        return chosen.with_cost(cost)

    return evidence.item("basin-landscape", build)


@dataclass(frozen=True)
class _Asked:
    """Options of a sampled volume; None where the settings of all measures, or the checkpoint, decide.

    Attributes:
        cutoff: T, unit of the cost.
        directions: how many.
        prior: standard deviation s.
        preconditioner: name of one.
    """

    cutoff: float | None = None
    directions: int | None = None
    prior: float | None = None
    preconditioner: str | None = None


_USUAL = _Asked()


def method_result(evidence: Evidence, method: str, asked: _Asked = _USUAL) -> MethodResult:
    """What a method of ``volume`` says of the basin, from the store where that fits.

    Args:
        evidence: of a checkpoint.
        method: ``star-domain`` or ``ellipsoid-slice``.
        asked: options of the measure.

    Returns:
        The result.
    """

    def build(tally: Tally) -> MethodResult:
        stored = evidence.stored_study
        if stored is not None and method in stored.results and not stored.results[method].failure:
            if asked == _USUAL:
                return stored.results[method]
            evidence.notes += (f"the stored {method} was not reused: this one has options of its own",)
        return _computed(evidence, method, asked, tally)

    return evidence.item(method, build)


def _computed(evidence: Evidence, method: str, asked: _Asked, tally: Tally) -> MethodResult:
    from volume.estimator import VolumeEstimator
    from volume.priors import GaussianPrior

    landscape = basin_landscape(evidence)
    moments = _moments(evidence, landscape)
    if moments is None and method == "star-domain" and asked.preconditioner is None:
        reason = evidence.missing("optimizer") or "its optimizer state has no second moments of these parameters"
        evidence.notes += (f"star-domain takes the diagonal preconditioner, not Adam's: {reason}",)
    settings = VolumeSettings(
        methods=(method,),
        cutoff=asked.cutoff or evidence.settings.cutoff,
        preconditioner=asked.preconditioner or ("diagonal" if moments is None else "adam-second"),
        directions=asked.directions or _directions(evidence.settings),
        seed=evidence.settings.seed,
    )
    prior = GaussianPrior(asked.prior) if asked.prior else GaussianPrior.from_parameters_rms(landscape.theta)
    known = evidence.strategies.get(BASIN, "")
    estimator = VolumeEstimator(landscape, settings, prior, moments=moments, strategy=known, memory=evidence.memory)
    with counting(landscape, tally, evidence):
        found = estimator.run(method)
    evidence.keep_strategy(BASIN, estimator)
    return found


def _directions(settings: EvidenceSettings) -> int:
    """As the settings say, or what the budget allows at some six evaluations a direction."""
    return settings.directions if settings.budget is None else max(2, settings.budget * 3 // 6)


def _moments(evidence: Evidence, landscape: Landscape) -> AdamMoments | None:
    from spectra.checkpoint import DamagedStateError, adam_moments
    from volume.preconditioners import adam_curvature

    if evidence.checkpoint is None or not evidence.checkpoint.optimizer:
        return None
    try:
        moments = adam_moments(evidence.checkpoint, landscape.model)
    except DamagedStateError:
        raise
    except UserError:
        return None
    used = adam_curvature(moments, landscape.parameters, "second")
    return moments if bool((used > 0.0).any()) else None


def star_domain(evidence: Evidence, **options: Any) -> Reading:
    """Log mass of the star domain around the checkpoint under ``N(0, s^2 I)``; its bits beside it.

    Args:
        evidence: of a checkpoint.
        **options: those of the measure's row.

    Returns:
        The reading; a lower bound, and cautioned as such, where few directions carry it.
    """
    return _reading(evidence, "star-domain", _Asked(**options))


def ellipsoid_slice(evidence: Evidence, **options: Any) -> Reading:
    """``log V_n + log mean r(u)^n`` over random directions u, r the distance to the cutoff.

    Args:
        evidence: of a checkpoint.
        **options: those of the measure's row.

    Returns:
        The reading; a lower bound, and cautioned as such, where few directions carry it.

    Reference:
        Huang et al., Understanding generalization through visualizations, 2020.
    """
    return _reading(evidence, "ellipsoid-slice", _Asked(**options))


def _reading(evidence: Evidence, method: str, asked: _Asked) -> Reading:
    from volume.noise import noise_caution

    result, cutoff = method_result(evidence, method, asked), asked.cutoff or evidence.settings.cutoff
    assert result.sampled is not None
    details = {"bits": -result.log_volume / math.log(2.0), "largest share": result.sampled.largest_share}
    size, dtype = evidence.landscape.size, dtype_title(evidence.landscape.dtype)
    noisy = noise_caution(_noise(evidence), cutoff, size, dtype, fixed=True)
    found = reading_of(result.known, details=details)
    if result.trusted and not noisy:
        return found
    # The bootstrap's error means nothing where few directions carry the sum, or rounding does.
    cautions = (() if result.trusted else (result.verdict,)) + ((noisy,) if noisy else ())
    return replace(found, standard_error=math.inf, cautions=cautions)


def _noise(evidence: Evidence) -> float:
    """The rounding noise of the basin's cost, as the stored study has it or measured."""
    from volume.noise import cost_noise

    def build(tally: Tally) -> float:
        stored = evidence.stored_study
        if stored is not None and not math.isnan(stored.cost_noise):
            return stored.cost_noise
        landscape = basin_landscape(evidence)
        with counting(landscape, tally, evidence):
            tally.gradients += 1
            return cost_noise(landscape)

    return evidence.item("basin-noise", build)


def _work(method: str, evaluations: int) -> Work:
    """So many evaluations of the cost a direction; of a method with a search of its preconditioner some more."""

    def work(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
        if method in extent.stored and _Asked(**values) == _USUAL:
            return {}
        many = values["directions"] or _directions(extent.settings)
        return {method: GRADIENTS_PER_EVALUATION * evaluations * many, "basin-noise": 1.0}

    return work


_DIRECTIONS = Option("directions", None, "number of random directions", int, usual="--directions", least=1)

MEASURES = (
    Measure(
        "star-domain",
        "log mass of the star domain",
        "volumes",
        "nat",
        "Scherlis and Belrose 2025",
        "larger",
        frozenset({"permutation", "parameter-scale"}),
        ("volume",),
        star_domain,
        extensive=True,
        options=(
            CUTOFF,
            _DIRECTIONS,
            PRIOR,
            Option(
                "preconditioner",
                None,
                "from which directions are drawn",
                str,
                usual="adam-second with an optimizer state, else diagonal",
                words=PRECONDITIONERS,
            ),
        ),
        work=_work("star-domain", 28),
    ),
    Measure(
        "ellipsoid-slice",
        "log volume of a slice",
        "volumes",
        "nat",
        "Huang et al. 2020",
        "larger",
        frozenset({"permutation"}),
        ("volume",),
        ellipsoid_slice,
        extensive=True,
        options=(CUTOFF, _DIRECTIONS),
        work=_work("ellipsoid-slice", 6),
    ),
)
