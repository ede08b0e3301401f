"""Sentences on why a spectral sum is not to be trusted, and the rules for negative eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from spectra.density.measure import Array, SpectralMeasure
from spectra.errors import UserError
from spectra.interval import short
from spectra.words import NEGATIVE_RULES, operator_title

_MAPS: tuple[Callable[[Array], Array], ...] = (lambda x: x, lambda x: np.maximum(x, 0.0), np.abs)
_RULES = dict(zip(NEGATIVE_RULES, _MAPS, strict=True))


class IndefiniteError(UserError):
    """What was asked for does not exist because of negative eigenvalues.

    Attributes:
        fact: the message without its advice, for callers who know more of what can be done.
        needed: a shift from which on it exists; inf where no shift helps.
    """

    def __init__(self, fact: str, advice: str, *, needed: float = math.inf) -> None:
        """Takes the fact and what may be done about it."""
        super().__init__(f"{fact}; {advice}")
        self.fact, self.needed = fact, needed


def negative_rule(name: str) -> Callable[[Array], Array]:
    """The map applied to eigenvalues under a rule for negative ones.

    Args:
        name: ``raise`` (leave as they are), ``clip`` (at zero) or ``abs``.

    Returns:
        An elementwise function.

    Raises:
        UserError: if the name is none of these.

    >>> negative_rule("clip")(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    if name not in _RULES:
        raise UserError(f"negative must be one of {', '.join(_RULES)}; got {name!r}")
    return _RULES[name]


def _mass(density: SpectralMeasure, threshold: float) -> str:
    count = density.mass_below(np.nextafter(threshold, np.inf))
    if count.exact:
        return f"{count.value:,.0f} of {density.size:,} eigenvalues"
    low, high = count.interval()
    return f"about {short(count.value)} ({short(low)} to {short(high)}) of {density.size:,} eigenvalues"


def refuse_pole(density: SpectralMeasure, shift: float) -> NoReturn:
    """Refuses an effective dimension whose pole lies inside the spectrum."""
    raise IndefiniteError(
        f"shift {shift:.3g} is inside the negative eigenvalues: {_mass(density, -shift)} lie at or below "
        f"{0.0 - shift:.3g} (smallest node {density.support[0]:.3g}), so the effective dimension has no meaning there",
        _shift_or_rule(density),
        needed=-density.support[0],
    )


def refuse_dimension(density: SpectralMeasure, shift: float, taken: float, made: float) -> NoReturn:
    """Refuses a sum that is no count of dimensions, because negative eigenvalues outweigh the others."""
    raise IndefiniteError(
        f"the effective dimension at shift {shift:.3g} would be below zero: {_mass(density, 0.0)} are negative and "
        f"take {short(taken)} away from the {short(made)} of the others",
        "use a larger shift, or state a rule for negative eigenvalues (clip or abs)",
    )


def refuse_determinant(density: SpectralMeasure, shift: float) -> NoReturn:
    """Refuses a shift inside the negative eigenvalues."""
    raise IndefiniteError(
        f"the {operator_title(density.operator)} plus {shift:.3g} is not positive definite: "
        f"{_mass(density, -shift)} lie at or below {0.0 - shift:.3g} (smallest node {density.support[0]:.3g}), so its "
        "log-determinant does not exist",
        _shift_or_rule(density),
        needed=-density.support[0],
    )


def _shift_or_rule(density: SpectralMeasure) -> str:
    rule = "state a rule for negative eigenvalues (clip or abs)"
    return f"use a shift above {-density.support[0]:.3g}, or {rule}"


def for_shift(density: SpectralMeasure, shift: float, negative: str) -> tuple[str, ...]:
    """Why a function with a singularity at ``-shift`` is not to be trusted on this density.

    Args:
        density: where the function is integrated.
        shift: distance of the singularity from zero, unit of the eigenvalues.
        negative: the rule for negative eigenvalues in force.

    Returns:
        Sentences; empty if nothing speaks against it.
    """
    found = []
    lowest = density.support[0]
    if lowest <= -shift:
        rule = "" if negative == "raise" else f"; they were taken by the rule '{negative}'"
        found.append(
            f"shift {shift:.3g} is inside the negative eigenvalues: {_mass(density, -shift)} lie at or below "
            f"{0.0 - shift:.3g} (smallest node {lowest:.3g}){rule}"
        )
    elif negative != "raise" and lowest < 0.0:
        found.append(f"{_mass(density, 0.0)} are negative and were taken by the rule '{negative}'")
    outer = density.outer_support[0]
    if outer <= -shift < lowest < 0.0:
        found.append(
            f"shift {shift:.3g} may be inside the negative eigenvalues: the lowest node {lowest:.3g} is known to "
            f"within {lowest - outer:.3g} only; more steps"
        )
    # The footnote of the primer: c must be large against the resolution of SLQ near zero; and where negative
    # eigenvalues come closer to the singularity, what counts is the distance to them and the resolution there.
    resolution = max(density.resolution(at) for at in ((0.0, lowest) if lowest < 0.0 else (0.0,)))
    if lowest >= 0.0:
        resolution = max(resolution, -outer)  # as far below zero as the lowest node may belong
    distance = shift + min(lowest, 0.0)
    if math.isinf(resolution):
        found.append("one Lanczos step resolves nothing near the shift: more steps")
    elif 0.0 < distance < resolution:
        found.append(
            f"shift {shift:.3g} leaves {distance:.3g} to the lowest eigenvalue, below the quadrature's resolution "
            f"{resolution:.3g} there: more steps, or a larger shift"
        )
    return tuple(found)
