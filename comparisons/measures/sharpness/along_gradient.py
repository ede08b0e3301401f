"""The curvature along the optimizer's next step, by itself and against the largest at which the optimizer is stable."""

from __future__ import annotations

from collections.abc import Callable

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    adam_preconditioner,
    gradient,
    stored_optimizer,
)
from comparisons.flatness import Measure, Reading
from spectra.errors import UserError


def gradient_sharpness(evidence: Evidence) -> Reading:
    """``g^T H g / |g|^2``, the directional sharpness of gradient descent, from one product with the Hessian.

    It lies between the smallest eigenvalue and the largest, and near the largest where training is at the edge of
    stability.

    Reference:
        Pan and Li, Toward understanding why Adam converges faster than SGD for transformers, 2023.
    """
    return Reading(_curvature(evidence, preconditioned=False))


def gradient_sharpness_share(evidence: Evidence) -> Reading:
    """The curvature along the step as a share of the largest that the checkpoint's optimizer is stable at.

    For SGD the one above over ``2 / eta``, eta the learning rate, or over what momentum makes of it. For Adam
    ``d^T H d / d^T g`` along ``d = P^-1 g`` over ``2 (1 + beta_1) / ((1 - beta_1) eta)``. The gradient is that of all
    data, the momentum is left out of the direction.

    Reference:
        Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, 2021.
    """
    optimizer = stored_optimizer(evidence)
    details = {"limit": optimizer.limit, "learning rate": optimizer.learning_rate}
    value = _curvature(evidence, preconditioned=optimizer.adam) / optimizer.limit
    return Reading(value, cautions=optimizer.cautions, details=details)


def _curvature(evidence: Evidence, *, preconditioned: bool) -> float:

    def build(tally: Tally) -> float:
        from spectra.operators import Hessian

        slope = gradient(evidence).double()
        step = slope / adam_preconditioner(evidence) if preconditioned else slope
        if not float(slope.norm()) > 0.0:
            raise UserError("the gradient at the checkpoint is zero: it has no direction to measure along")
        direction = step / step.norm()
        tally.products += 1
        # One product: by the core, as timing others would cost more.
        product = Hessian(evidence.landscape, strategy="double-backward").matvec(direction).double()
        # For P = 1 the length of the step over the slope is one: the plain quotient.
        return float((direction @ product) / (direction @ slope) * step.norm())

    return evidence.item(f"step-sharpness {preconditioned}", build)


def _work(preconditioned: bool) -> Callable[[Extent, object], dict[str, float]]:
    return lambda _, __: {"gradient": 1.0, f"step-sharpness {preconditioned}": GRADIENTS_PER_PRODUCT}


_PERMUTATION = frozenset({"permutation"})

MEASURES = (
    Measure(
        "gradient-sharpness",
        "curvature along the gradient",
        "sharpness",
        "cost / parameter²",
        "Pan and Li 2023",
        "smaller",
        _PERMUTATION,
        ("gradient",),
        gradient_sharpness,
        work=_work(False),
    ),
    Measure(
        "gradient-sharpness-share",
        "curvature along the step / limit",
        "sharpness",
        "1",
        "Cohen et al. 2021",
        "smaller",
        _PERMUTATION,
        ("gradient", "optimizer"),
        gradient_sharpness_share,
        work=_work(True),
    ),
)
