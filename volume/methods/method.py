"""What a method of a study is: a way to a log-volume at one cutoff or at many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from spectra.members import member
from volume.method_result import MethodResult
from volume.methods.work import VolumeWork
from volume.preconditioners import Preconditioner
from volume.priors import Prior

Cutoffs = Sequence[float] | NDArray[float64]


@dataclass(frozen=True)
class Sampling:
    """How a sampled method goes along rays.

    Attributes:
        measure: whose mass, or volume, it is.
        preconditioner: of the directions.
        eps: of the preconditioner; nan if it has none.
        correction: (n,) c: ``1/2 sum_i c_i x_i^2`` is added to the cost; None adds nothing.
    """

    measure: Prior
    preconditioner: Preconditioner
    eps: float
    correction: Tensor | None = None


@dataclass(frozen=True)
class MethodRow:
    """A method that options and files know by name; it has ``at`` or, if it is sampled, ``rays``.

    Attributes:
        name: words joined by hyphens.
        at: the work and cutoffs (q,) -> one result a cutoff; raises UserError where there is none.
        rays: the work, and an earlier result or None -> how it samples.
        finish: the work, the result at the study's own cutoff and how it was sampled -> that result with what is added
            there alone.
        caption: sentence beneath the table on what a result is made of, with the names of its figures in braces.
        sampled: whether it goes direction by direction, and can be continued.
        gaussian: whether it needs a Gaussian prior.
        mass: whether it is a mass under the prior, and not a Lebesgue volume.
        shifted: whether it has the shift k / s^2.
        preconditioned: whether its directions are preconditioned.
        two_sets: whether it needs the data that the anchor was trained on besides that which is measured on.
        colour: in figures: blue, orange, sky, vermillion, green, purple or grey.
        marker: in figures, as matplotlib has it.
    """

    name: str
    at: Callable[[VolumeWork, Cutoffs], tuple[MethodResult, ...]] | None = None
    rays: Callable[[VolumeWork, MethodResult | None], Sampling] | None = None
    finish: Callable[[VolumeWork, MethodResult, Sampling | None], MethodResult] = lambda _, result, __: result
    caption: str = ""
    sampled: bool = False
    gaussian: bool = False
    mass: bool = False
    shifted: bool = False
    preconditioned: bool = False
    two_sets: bool = False
    colour: str = "grey"
    marker: str = "."


def method_row(name: str) -> MethodRow:
    """The row of a method, one of ``volume.method_result.METHODS``."""
    return member("volume.methods", name, MethodRow)
