"""The adaptive worst case of normalised logits: what a scale of the weights or of the logits does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, Extent, Tally
from comparisons.flatness import EVERY_INVARIANCE, Measure, Reading
from comparisons.options import Option

if TYPE_CHECKING:
    from comparisons.sharpness_result import Sharpness

_STEPS, _LEAST = 20, 5
_NAME = "logit-normalised-worst-case"


def logit_normalised_worst_case(
    evidence: Evidence, *, size: int = 128, radius: float = 0.002, steps: int | None = None, starts: int = 2
) -> Reading:
    """Mean over batches of m samples of the largest rise within ``|d_i| <= rho |w_i|``, by Auto-PGD.

    The best of several starts may be below the maximum: the height of the best above the second best is its error.
    """

    def build(tally: Tally) -> Sharpness:
        from comparisons.searches import normalised_worst_case

        found = normalised_worst_case(
            evidence.landscape,
            size=size,
            radius=radius,
            steps=steps or _steps(evidence.settings.budget, starts),
            starts=starts,
            seed=evidence.settings.seed,
        )
        tally.evaluations += found.cost_evaluations
        tally.gradients += found.gradient_evaluations
        return found

    found = evidence.item(_NAME, build)
    return Reading(found.value, cautions=found.cautions, truncation_error=found.search_error)


def _steps(budget: int | None, starts: int) -> int:
    return _STEPS if budget is None else max(_LEAST, min(_STEPS, 3 * budget // (4 * starts)))


def _work(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
    steps = values["steps"] or _steps(extent.settings.budget, values["starts"])
    return {_NAME: (1.0 + GRADIENTS_PER_EVALUATION) * steps * values["starts"]}


MEASURES = (
    Measure(
        _NAME,
        "worst case, normalised logits",
        "sharpness",
        "cost",
        "Andriushchenko et al. 2023",
        "smaller",
        EVERY_INVARIANCE,
        ("gradients", "classes", "drawn-rows"),
        logit_normalised_worst_case,
        options=(
            Option("size", 128, "m, samples of a batch", least=1),
            Option("radius", 0.002, "rho, half width of the box, as a share of the weights", above=0.0),
            Option("steps", None, "gradients from each start", int, f"{_STEPS}, or what --budget leaves", least=1),
            Option("starts", 2, "starts, the first from the checkpoint", least=1),
        ),
        work=_work,
    ),
)
