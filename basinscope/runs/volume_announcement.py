"""What a volume study of a large model is going to do and take, said before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from basinscope.runs.announcement import WORTH_SAYING, memory_line
from spectra.operators import Curvature
from spectra.plan import PRODUCT_VECTORS, footprint, in_bytes, plan_route
from volume.estimator import VolumeEstimator
from volume.method_result import stating_methods
from volume.preconditioners import Identity
from volume.priors import GaussianPrior
from volume.rays import StarDomainSettings

# A direction, its draw and the point at hand, as measured with a diagonal preconditioner (2.99; 2.05 without one).
DIRECTION_VECTORS = 3


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
            f"plan: {', '.join(sampled)}, {asked.directions:,} directions, {at_once:,} at a time: "
            f"about {held} above the model{beside}"
        )
    operator = estimator.operator if products else None
    if not isinstance(operator, Curvature):
        return
    settings = estimator.spectrum_settings
    plan = plan_route(operator, settings)
    anchor = f" and {2 * asked.steps} of the anchor's run" if isinstance(estimator.prior, GaussianPrior) else ""
    yield "; ".join(
        (f"plan: {', '.join(products)} by the {plan.route} route, {plan.products:,} products{anchor}", *plan.notes)
    )
    if plan.route == "slq":
        need = footprint(operator.graph_memory, plan, settings, operator.size, operator.dtype)
        if line := memory_line(need):
            yield line
