"""The registry: every measure, one row each, from the tuples ``MEASURES`` of the files of this room."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from comparisons.flatness import Measure
from comparisons.words import FAMILIES
from spectra.errors import UserError
from spectra.members import members

# Family by family; within one in the order of the files' names.
REGISTRY = tuple(
    sorted(members("comparisons.measures", Measure, "MEASURES"), key=lambda measure: FAMILIES.index(measure.family))
)


# Asked for most: done in about 1,000 gradients on a network of the digits' size, three quarters of them its spectrum.
DEFAULT = frozenset(
    {
        "hessian-trace",
        "largest-eigenvalue",
        "hessian-frobenius",
        "largest-over-trace",
        "first-over-fifth",
        "negative-mass",
        "keskar",
        "sam",
        "asam",
        "worst-case",
        "adaptive-worst-case",
        "average-case",
        "adaptive-average-case",
        "critical-sharpness",
        "parameter-norm",
        "distance-from-initialisation",
        "path-norm",
        "spectral-product",
        "frobenius-product",
        "margin",
        "normalised-margin",
        "fisher-rao",
        "gradient-norm",
    }
)
# A measure that bears the name of its family has a name of its own too.
ALONE = {"llc": "learning-coefficient"}


def measures_named(words: Sequence[str]) -> tuple[Measure, ...]:
    """The measures that words stand for.

    Args:
        words: names of measures or families, ``default``, ``all``, ``llc`` (the learning coefficient by chains alone),
            or beginnings of names.

    Returns:
        The measures, in the registry's order.

    Raises:
        UserError: if a word is neither, with the nearest that is; or there is none.

    >>> [measure.name for measure in measures_named(["hessian-t"])]
    ['hessian-trace']
    """
    wanted: set[str] = set()
    for word in words:
        found = _called(word) or {m.name for m in REGISTRY if word and m.name.startswith(word)}
        if not found:
            raise UserError(no_measure(word, ("default", "all")))
        wanted |= found
    if not wanted:
        raise UserError("measures must be some of the registry's, got none")
    return tuple(measure for measure in REGISTRY if measure.name in wanted)


def _called(word: str) -> set[str]:
    if word == "default":
        return set(DEFAULT)
    if word in ALONE:
        return {ALONE[word]}
    return {m.name for m in REGISTRY if word in ("all", m.name, m.family)}


def no_measure(word: str, others: tuple[str, ...] = ()) -> str:
    """What is said of a word that is no measure and no family, with the nearest that is, or one of other words."""
    names = [*others, *FAMILIES, *ALONE, *(measure.name for measure in REGISTRY)]
    near = [name for name in names if word in name.split("-")][:3] or get_close_matches(word, names, n=2, cutoff=0.6)
    families = f"; families are {', '.join(FAMILIES)}, and --measures list shows all measures"
    offer = f"; did you mean {' or '.join(near)}?" if near else families
    return f"there is no measure or family {word!r}{offer}"


def measures_of(names: Sequence[str]) -> tuple[Measure, ...]:
    """The measures that bear these very names, as files hold them: some names are families' too.

    Args:
        names: of measures; those that the registry does not know are left out.

    Returns:
        The measures, in the registry's order.

    >>> [measure.name for measure in measures_of(["learning-coefficient", "of another version"])]
    ['learning-coefficient']
    """
    return tuple(measure for measure in REGISTRY if measure.name in set(names))
