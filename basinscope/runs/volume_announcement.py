"""What a volume study of a large model is going to do and take, said before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from basinscope.runs.announcement import EVALUATIONS_A_DIRECTION, WORTH_SAYING, forecast, memory_line, seconds_of
from spectra.errors import UserError
from spectra.files import counted
from spectra.operators import Curvature
from spectra.plan import PRODUCT_VECTORS, footprint, in_bytes, plan_route
from volume.estimator import VolumeEstimator
from volume.method_result import MethodResult, stating_methods
from volume.methods import pair_count
from volume.preconditioners import Identity
from volume.priors import GaussianPrior
from volume.rays import StarDomainSettings

# A direction, its draw and the point at hand, as measured with a diagonal preconditioner (2.99; 2.05 without one).
DIRECTION_VECTORS = 3


def work_lines(estimator: VolumeEstimator, results: Mapping[str, MethodResult]) -> tuple[str, ...]:
    """What the methods will cost beside what earlier ones have done: evaluations of the cost and products, timed.

    What fails where a product is computed is left to the methods that need it.
    """
    asked, landscape = estimator.settings, estimator.landscape
    done = {name: 0 if one.sampled is None else len(one.sampled.log_terms) for name, one in results.items()}
    sampled = stating_methods("sampled", asked.methods)
    directions = sum(max(0, asked.directions - done.get(name, 0)) for name in sampled)
    drawn = asked.directions if "importance-sampling" in asked.methods and "importance-sampling" not in results else 0
    parts = []
    if evaluations := directions * EVALUATIONS_A_DIRECTION + drawn:
        seconds = seconds_of(lambda: landscape.cost(landscape.theta), landscape.device, landscape.ranks)
        parts.append(forecast(evaluations, "evaluation of the cost", seconds, bound="at least about"))
    try:
        products = _products(estimator, set(asked.methods) - set(results))
        if products and landscape.ranks.alone:
            seconds = seconds_of(lambda: estimator.operator.matvec(landscape.theta), landscape.device)
            parts.append(forecast(products, "product", seconds, bound="at least about"))
    except (UserError, RuntimeError, MemoryError):
        parts.append("products with the curvature, which fail here")
    return (f"plan: {'; '.join(parts)}",) if parts else ()


def _products(estimator: VolumeEstimator, methods: set[str]) -> int:
    """Products of the spectrum, and of the eigenpairs that precondition directions."""
    asked, landscape = estimator.settings, estimator.landscape
    beside = {*stating_methods("sampled"), *stating_methods("two_sets"), "importance-sampling"}
    found = 0
    if methods - beside:
        found += plan_route(estimator.operator, estimator.spectrum_settings).products
        found += 2 * asked.steps if isinstance(estimator.prior, GaussianPrior) else 0
    if "star-domain" in methods and asked.preconditioner == "low-rank":
        pairs, block = pair_count(landscape.size, landscape.dtype)
        found += 3 * pairs + 8 * block
    return found


def volume_lines(estimator: VolumeEstimator) -> tuple[str, ...]:
    """The plan and the memory of a study, in lines; none of a small model."""
    size, dtype = estimator.landscape.size, estimator.landscape.dtype
    if PRODUCT_VECTORS * size * dtype.itemsize < WORTH_SAYING:
        return ()
    return tuple(_lines(estimator, size * dtype.itemsize))


def _lines(estimator: VolumeEstimator, vector: int) -> Iterator[str]:
    asked = estimator.settings
    sampled = stating_methods("sampled", asked.methods)
    products = [name for name in asked.methods if name not in (*sampled, *stating_methods("two_sets"))]
    if sampled:
        at_once = StarDomainSettings(directions=asked.directions).next_block(estimator.landscape, 0)
        held = in_bytes(DIRECTION_VECTORS * at_once * vector)
        preconditioned = "star-domain" in sampled and asked.preconditioner != Identity().name
        beside = f", and what the preconditioner {asked.preconditioner} takes" if preconditioned else ""
        yield (
            f"plan: {', '.join(sampled)}, {counted(asked.directions, 'direction')}, {at_once:,} at a time: "
            f"about {held} above the model{beside}"
        )
    operator = estimator.operator if products else None
    if not isinstance(operator, Curvature):
        return
    settings = estimator.spectrum_settings
    plan = plan_route(operator, settings)
    anchor = f" and {2 * asked.steps} of the anchor's run" if isinstance(estimator.prior, GaussianPrior) else ""
    yield "; ".join(
        (
            f"plan: {', '.join(products)} by the {plan.route} route, {counted(plan.products, 'product')}{anchor}",
            *plan.notes,
        )
    )
    if plan.route == "slq":
        need = footprint(operator.graph_memory, plan, settings, operator.size, operator.dtype)
        if line := memory_line(need):
            yield line
