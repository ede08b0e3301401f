"""Volumes as measures: the sampled mass of the basin, and the slice of an ellipsoid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from comparisons.evidence import Evidence, Tally
from comparisons.flatness import Measure, Reading, reading_of
from spectra.errors import UserError
from spectra.words import dtype_title
from volume.study import VolumeSettings

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.checkpoint import AdamMoments
    from spectra.landscape import Landscape
    from volume.method_result import MethodResult

# Under this name the strategy of the basin's curvature is kept.
BASIN = "basin"


@contextmanager
def counting(landscape: Landscape, tally: Tally) -> Iterator[None]:
    """Costs at k points are counted as k forward passes."""
    costs = landscape.many_costs

    def counted(thetas: Tensor) -> Tensor:
        tally.evaluations += len(thetas)
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


def method_result(evidence: Evidence, method: str) -> MethodResult:
    """What a method of ``volume`` says of the basin, from the store where that fits.

    Args:
        evidence: of a checkpoint.
        method: ``star-domain`` or ``ellipsoid-slice``.

    Returns:
        The result.
    """
    from volume.estimator import VolumeEstimator
    from volume.priors import GaussianPrior

    def build(tally: Tally) -> MethodResult:
        stored = evidence.stored_study
        if stored is not None and method in stored.results and not stored.results[method].failure:
            return stored.results[method]
        landscape = basin_landscape(evidence)
        moments = _moments(evidence, landscape)
        if moments is None and method == "star-domain":
            reason = evidence.missing("adam") or "its optimizer state has no second moments of these parameters"
            evidence.notes += (f"star-domain takes the diagonal preconditioner, not Adam's: {reason}",)
        settings = VolumeSettings(
            methods=(method,),
            cutoff=evidence.settings.cutoff,
            preconditioner="diagonal" if moments is None else "adam-second",
            directions=_directions(evidence),
            seed=evidence.settings.seed,
        )
        prior = GaussianPrior.from_parameters_rms(landscape.theta)
        known = evidence.strategies.get(BASIN, "")
        estimator = VolumeEstimator(landscape, settings, prior, moments=moments, strategy=known, memory=evidence.memory)
        with counting(landscape, tally):
            found = estimator.run(method)
        evidence.keep_strategy(BASIN, estimator)
        return found

    return evidence.item(method, build)


def _directions(evidence: Evidence) -> int:
    """As the settings say, or what the budget allows at some six evaluations a direction."""
    budget = evidence.settings.budget
    return evidence.settings.directions if budget is None else max(2, budget * 3 // 6)


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


def star_domain(evidence: Evidence) -> Reading:
    """Log mass of the star domain around the checkpoint under ``N(0, s^2 I)``; its bits beside it.

    Args:
        evidence: of a checkpoint.

    Returns:
        The reading; a lower bound, and cautioned as such, where few directions carry it.
    """
    return _reading(evidence, method_result(evidence, "star-domain"))


def ellipsoid_slice(evidence: Evidence) -> Reading:
    """``log V_n + log mean r(u)^n`` over random directions u, r the distance to the cutoff.

    Args:
        evidence: of a checkpoint.

    Returns:
        The reading; a lower bound, and cautioned as such, where few directions carry it.

    Reference:
        Huang et al., Understanding generalization through visualizations, 2020.
    """
    return _reading(evidence, method_result(evidence, "ellipsoid-slice"))


def _reading(evidence: Evidence, result: MethodResult) -> Reading:
    from volume.noise import noise_caution

    assert result.sampled is not None
    details = {"bits": -result.log_volume / math.log(2.0), "largest share": result.sampled.largest_share}
    size, dtype = evidence.landscape.size, dtype_title(evidence.landscape.dtype)
    noisy = noise_caution(_noise(evidence), evidence.settings.cutoff, size, dtype, fixed=True)
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
        with counting(landscape, tally):
            tally.gradients += 1
            return cost_noise(landscape)

    return evidence.item("basin-noise", build)


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
    ),
)
