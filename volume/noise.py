"""How finely the cost can be told: its rounding noise at the anchor, and what that does to crossings."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spectra.lanczos import dots, draw_probes
from spectra.landscape import Landscape
from volume.chunks import at_once
from volume.descent import Descent

DRAWS = 16
# The descent looks at 24 costs, the noise at 16: a fall within this many noises may be one.
_FALLS = 4.0


def cost_noise(landscape: Landscape) -> float:
    """The rounding noise of the cost near the anchor, unit of the cost.

    Every parameter is moved by a few roundings of its own, up or down at random; the true cost hardly changes, so what
    changes is noise. The largest change over the draws is returned, less what the gradient explains. Of a divergence
    averaged over 773 samples it is about 3e-9 in float32 and 1e-17 in float64.
    """
    slope = landscape.gradient()
    count = at_once(landscape.size, DRAWS)
    return max(_noise(landscape, slope, first, min(count, DRAWS - first)) for first in range(0, DRAWS, count))


def _noise(landscape: Landscape, slope: Tensor, first: int, count: int) -> float:
    theta = landscape.theta
    # A model in half precision rounds what it is given; theta does not.
    roundings = 4.0 * torch.finfo(landscape.parameters.computed).eps
    signs = draw_probes(
        landscape.size,
        count,
        seed=0,
        first=first,
        kind="rademacher",
        stream="noise",
        dtype=theta.dtype,
        device=theta.device,
    )
    moved = signs.mul_(theta).mul_(roundings).add_(theta)
    changes = landscape.costs(moved) - landscape.anchor_cost
    explained = dots(moved.sub_(theta), slope.expand_as(moved))
    return float((changes - explained).abs().max())


def above_noise(below: Descent, noise: float) -> Descent:
    """A descent whose fall is none if it may be noise.

    >>> above_noise(Descent(1e-8, 3e-9, 1e-6), 1e-9).fall
    0.0
    """
    return replace(below, fall=0.0, distance=0.0) if below.fall <= _FALLS * noise else below


def noise_caution(noise: float, cutoff: float, size: int, dtype: str, *, fixed: bool = False) -> str:
    """A sentence if the noise moves crossings of the cutoff by more than a nat, else nothing.

    A relative error e of the cost is ``n/2 e`` nats of a ray's log term, where the cost is quadratic.

    Args:
        noise: rounding noise of the cost.
        cutoff: T, the lowest that rays are followed to.
        size: number of parameters n.
        dtype: dtype of the cost.
        fixed: whether it cannot be chosen where the sentence is read, and so is not advised.

    Returns:
        The sentence, or an empty text.

    >>> noise_caution(1e-8, 1e-3, 1000, "float32")
    ''
    """
    nats = size / 2.0 * noise / cutoff
    if nats <= 1.0:
        return ""
    advice = "; use --dtype float64" if dtype == "float32" and not fixed else ""
    return (
        f"the cost's rounding noise of {noise:.2g} in {dtype} moves a ray's log term by about {nats:.2g} nats at the "
        f"cutoff {cutoff:g}, and by less than one only above {size / 2.0 * noise:.2g}{advice}"
    )
