"""What a prior is: a measure on parameter space, all centred at the origin, and the word that names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from spectra.errors import UserError
from spectra.members import member, stated

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spectra.model import ParameterLayout
    from volume.priors.ray_density import RayDensity


class Prior(Protocol):
    """A measure on parameter space.

    Attributes:
        name: what it is, for messages and stores.
        proper: whether it integrates to one.
    """

    @property
    def name(self) -> str:
        """What it is, for messages and stores."""

    @property
    def proper(self) -> bool:
        """Whether it integrates to one."""

    def log_density(self, theta: Tensor) -> float:
        """Log density at theta (n,), nats."""

    def ray(self, anchor: Tensor, directions: Tensor) -> RayDensity:
        """The log density from the anchor (n,) along the rows of directions (k, n)."""

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Independent draws (count, size), float64."""

    def scale(self, size: int) -> Tensor:
        """Standard deviation (size,) of each parameter, float64; inf for Lebesgue measure."""


@runtime_checkable
class SmoothPrior(Prior, Protocol):
    """A prior whose density is positive and differentiable everywhere, as the bridge needs where it is not Gaussian."""

    def log_densities(self, thetas: Tensor) -> Tensor:
        """Log densities (k,) at rows of thetas (k, n) in float64, differentiable, nats."""


@dataclass(frozen=True)
class Anchor:
    """What a prior may be made of.

    Attributes:
        theta: (n,) the parameters.
        layout: their names and order; None where they have no names.
        metadata: of the checkpoint.
    """

    theta: Tensor
    layout: ParameterLayout | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class PriorRow:
    """A prior that options and files know by a word.

    Attributes:
        name: the word.
        read: the numbers that follow the word, positive and finite, and the anchor -> the prior.
        forms: how it is written, with a letter for each number after a colon -> what that means, or nothing.
        gaussian: whether it is Gaussian, as the methods of the quadratic model need.
        smooth: whether its density is positive and differentiable everywhere, as the bridge needs.
    """

    name: str
    read: Callable[[tuple[float, ...], Anchor], Prior]
    forms: Mapping[str, str]
    gaussian: bool = False
    smooth: bool = False


def prior_forms(flag: str = "") -> dict[str, str]:
    """How each prior is written, as options and files have it, and what that means; nothing is imported.

    Args:
        flag: leaves those whose row states this option; empty leaves all.

    Returns:
        What a form means, or nothing, by form.

    >>> prior_forms()["gaussian"]
    'width: root mean square of the parameters'
    """
    rows = (row.constants for row in stated("volume.priors").values() if not flag or row.constants.get(flag))
    return {form: words for row in rows for form, words in row["forms"].items()}


def parse_prior(
    text: str, theta: Tensor, *, layout: ParameterLayout | None = None, metadata: Mapping[str, Any] | None = None
) -> Prior:
    """The prior that a word names.

    Args:
        text: one of ``prior_forms``, with numbers in the place of the letters.
        theta: (n,) the anchor.
        layout: names and order of the parameters, needed by ``init``.
        metadata: of the checkpoint, needed by ``init``.

    Returns:
        The prior.

    Raises:
        UserError: if the word is none of these, or its number is not positive and finite.

    >>> import torch
    >>> parse_prior("gaussian:0.5", torch.ones(2)).name
    'gaussian:0.5 (given)'
    """
    kind, *numbers = text.strip().split(":")
    *others, last = prior_forms()
    if (kind, len(numbers)) not in {(form.partition(":")[0], form.count(":")) for form in (*others, last)}:
        raise UserError(f"prior must be {', '.join(others)} or {last}; got {text!r}")
    values = tuple(_number(text, number) for number in numbers)
    return member("volume.priors", kind, PriorRow).read(values, Anchor(theta, layout, metadata or {}))


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise UserError(f"prior {text!r} needs a number after the colon, got {number!r}") from None
    if not (math.isfinite(value) and value > 0.0):
        raise UserError(f"prior {text!r} needs a positive finite number, got {value:g}")
    return value
