"""The preconditioned sharpness: the largest curvature as Adam's steps see it, and its share of Adam's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    adam_preconditioner,
    spectrum_settings,
    stored_optimizer,
)
from comparisons.flatness import Measure, Reading, reading_of
from spectra.errors import UserError
from spectra.estimate import Estimate

if TYPE_CHECKING:
    from spectra.lanczos import Eigenpairs

# Products of a block Krylov space with room for one eigenpair, which it usually finds, and for its residual.
_SPACE = 35
# A residual above this share of the eigenvalue is worth a caution.
_CONVERGED = 0.01


def preconditioned_sharpness(evidence: Evidence) -> Reading:
    """Largest eigenvalue of ``P^-1/2 H P^-1/2``, P Adam's preconditioner at the checkpoint, its residual as error.

    Reference:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022.
    """
    return _reading(evidence, 1.0, ())


def preconditioned_sharpness_share(evidence: Evidence) -> Reading:
    """The same as a share of Adam's limit ``2 (1 + beta_1) / ((1 - beta_1) eta)``, 38 / eta for the usual beta_1."""
    optimizer = stored_optimizer(evidence)
    return _reading(evidence, optimizer.limit, optimizer.cautions)


def _reading(evidence: Evidence, limit: float, cautions: tuple[str, ...]) -> Reading:
    found = evidence.item("preconditioned-sharpness", lambda tally: _largest(evidence, tally))
    value, residual = float(found.values[0]), float(found.residuals[0])
    if value <= 0.0:
        raise UserError(f"the largest eigenvalue found is {value:.3g}, not positive: there is no sharpness")
    if residual > _CONVERGED * value:
        cautions += ("the largest eigenvalue has not converged: give more --budget",)
    estimate = Estimate(value / limit, truncation_error=residual / limit, cautions=cautions)
    return reading_of(estimate, details={} if limit == 1.0 else {"limit": limit})


def _largest(evidence: Evidence, tally: Tally) -> Eigenpairs:
    from spectra.lanczos import top_eigenpairs
    from spectra.plan import make_operator
    from volume.prior_units import ScaledOperator

    weights = adam_preconditioner(evidence).rsqrt()
    settings = spectrum_settings(evidence, "hessian")
    operator = make_operator(evidence.landscape, settings)
    budget = evidence.settings.budget

    def count(products: int) -> None:
        tally.products += products
        evidence.tell(tally)

    found = top_eigenpairs(
        ScaledOperator(operator, weights),
        1,
        which="largest",
        max_products=None if budget is None else max(budget // 2, _SPACE),
        seed=settings.seed,
        progress=count,
    )
    tally.products = found.products
    evidence.keep_strategy("hessian", operator)
    return found


def _work(extent: Extent, _: object) -> dict[str, float]:
    products = min(2 * _SPACE, extent.size + 1)
    budget = extent.settings.budget
    found = products if budget is None else min(products, max(budget // 2, _SPACE))
    return {"preconditioned-sharpness": GRADIENTS_PER_PRODUCT * found}


_PERMUTATION, _SOURCE, _NEEDS = frozenset({"permutation"}), "Cohen et al. 2022", ("hessian", "optimizer")

MEASURES = (
    Measure(
        "preconditioned-sharpness",
        "largest eigenvalue, by Adam",
        "sharpness",
        "1 / parameter",
        _SOURCE,
        "smaller",
        _PERMUTATION,
        _NEEDS,
        preconditioned_sharpness,
        work=_work,
    ),
    Measure(
        "preconditioned-sharpness-share",
        "largest eigenvalue, by Adam / its limit",
        "sharpness",
        "1",
        _SOURCE,
        "smaller",
        _PERMUTATION,
        _NEEDS,
        preconditioned_sharpness_share,
        work=_work,
    ),
)
