"""PAC-Bayes sharpness: the noise on the parameters that costs a given share of the accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from comparisons.evidence import accuracy_function
from comparisons.searches.worst import Scaling, scales
from comparisons.sharpness_result import Sharpness, counted, positive
from spectra.errors import UserError
from spectra.estimate import from_samples
from spectra.landscape import Landscape
from spectra.model import generator

LARGEST = 2.0


@dataclass(frozen=True)
class _Found:
    """The end of one search.

    Attributes:
        deviation: s.
        evaluations: passes over the data.
        within: whether the accuracy there is within the tolerance of the target.
    """

    deviation: float
    evaluations: int
    within: bool


def pac_bayes_sharpness(
    landscape: Landscape,
    *,
    scaling: Scaling = "plain",
    drop: float = 0.1,
    tolerance: float = 0.01,
    depth: int = 15,
    draws: int = 10,
    repeats: int = 3,
    seed: int = 0,
) -> Sharpness:
    r"""``1 / s^2``, s the standard deviation of noise ``s T z`` at which the accuracy is lower by ``drop``.

    s is bisected in [0, 2]. The draws z are the same at every s of a search, so that the accuracy bisected is a
    function of s; searches are repeated with draws of their own, for the error.

    Args:
        landscape: the cost; cross-entropy with classes as targets.
        scaling: T: ``plain`` 1, ``adaptive`` |x| (magnitude-aware), as for ``comparisons.searches.worst_case``.
        drop: accuracy lost on average.
        tolerance: the search ends when the accuracy is this near the target.
        depth: bisections at most.
        draws: draws of the noise for each accuracy.
        repeats: searches.
        seed: seed of the draws.

    Returns:
        The mean of 1 / s^2 over the repeats; its unit is that of T squared over parameters squared.

    Raises:
        UserError: if the cost is not cross-entropy with classes, or a setting is out of range.

    Reference:
        Jiang et al., Fantastic generalization measures and where to find them, 2020, appendix C.5.
    """
    positive(drop=drop, tolerance=tolerance)
    counted(depth=depth, draws=draws, repeats=repeats)
    scale, count = scales(landscape, scaling), accuracy_function(landscape)
    start = count(landscape.theta)
    if start <= drop:
        raise UserError(f"drop must be below the accuracy at the checkpoint, {start:.3g}; got {drop}")
    found = [_bisect(count, landscape, scale, start - drop, tolerance, depth, (draws, seed, r)) for r in range(repeats)]
    samples = np.array([one.deviation**-2 for one in found])
    estimate = from_samples(samples)
    return Sharpness(
        value=estimate.value,
        standard_error=estimate.standard_error,
        samples=samples,
        cost_evaluations=1 + sum(one.evaluations for one in found),
        cautions=_cautions(found, tolerance, draws),
    )


def _bisect(
    count: Callable[[Tensor], float],
    landscape: Landscape,
    scale: Tensor,
    target: float,
    tolerance: float,
    depth: int,
    stream: tuple[int, int, int],
) -> _Found:
    draws, seed, repeat = stream
    low, high = 0.0, LARGEST
    middle, evaluations = 0.0, 0
    for _ in range(depth):
        middle = 0.5 * (low + high)
        random = generator(seed, "pac-bayes", repeat, device=scale.device)
        total = 0.0
        for _ in range(draws):
            noise = torch.randn(scale.shape, generator=random, dtype=torch.float64, device=scale.device).to(scale)
            total += count(landscape.theta + middle * scale * noise)
        evaluations += draws
        reached = total / draws
        if abs(reached - target) <= tolerance:
            return _Found(middle, evaluations, True)
        low, high = (middle, high) if reached > target else (low, middle)
    return _Found(middle, evaluations, False)


def _cautions(found: list[_Found], tolerance: float, draws: int) -> tuple[str, ...]:
    missed = [one for one in found if not one.within]
    if not missed:
        return ()
    if any(one.deviation > 0.999 * LARGEST for one in missed):
        return (f"the accuracy drops by less than asked even at s = {LARGEST:g}: 1/s^2 is an upper bound only",)
    return (
        f"{len(missed)} of {len(found)} searches ended farther than {tolerance:g} from the accuracy aimed at: with "
        f"{draws} draws it moves in jumps; use more draws",
    )
