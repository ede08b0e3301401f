"""Several bridges of one checkpoint side by side: whose mass each one is, and whether the nested sets are in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from spectra.estimate import Estimate, independent
from volume.bridge.result import BridgeResult
from volume.chains import window_of

# Standard errors by which a set may seem larger than one that holds it.
_APART = 3.0


@dataclass(frozen=True, eq=False)
class SetMass:
    """The mass of one set of parameters.

    Attributes:
        name: of the set.
        definition: which parameters are in it, in words.
        mass: log of the prior's mass, nats.
        window: share of the line from the checkpoint that has to stay below the cutoff; None for another kind of set.
        file: name of the file that it is from.
    """

    name: str
    definition: str
    mass: Estimate
    window: float | None
    file: str


def set_mass(result: BridgeResult, cutoff: float, file: str) -> SetMass:
    """The mass of the set that a complete bridge was aimed at, at a cutoff that it reaches."""
    settings = result.settings
    window = window_of(settings.target)
    if window:
        part = "the whole" if window == 1.0 else f"the last {window:.0%}"
        words = f"those that do so on {part} of the straight line from the checkpoint"
    else:
        reach = "wherever they lie" if settings.origin == "prior" else "as far as chains from the checkpoint come"
        words = f"all parameters that cost less than the cutoff, {reach}"
    return SetMass(settings.target, words, result.volume(cutoff).mass, window, file)


def disorders(masses: Sequence[SetMass]) -> tuple[str, ...]:
    """Sentences on sets that seem larger, by more than 3 standard errors, than sets that hold them.

    The sets are nested: the star domain lies in the set of every window, that of a longer window in that of a shorter
    one, and all lie in the sublevel set.
    """
    nested = [one for one in masses if one.window is not None]
    found = []
    for large, small in combinations(sorted(nested, key=lambda one: one.window or 0.0), 2):
        excess = independent(small.mass, large.mass)
        if excess.value > _APART * excess.standard_error:
            found.append(
                f"{small.name} lies in {large.name}, and comes out larger by {excess.value:.3g} nat, more than "
                f"{_APART:g} standard errors of {excess.standard_error:.2g}: one of the two ladders is wrong"
            )
    return tuple(found)
