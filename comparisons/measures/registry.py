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


def measures_named(words: Sequence[str]) -> tuple[Measure, ...]:
    """The measures that words stand for.

    Args:
        words: names of measures or families, or ``all``.

    Returns:
        The measures, in the registry's order.

    Raises:
        UserError: if a word is neither, with the nearest that is; or there is none.

    >>> [measure.name for measure in measures_named(["hessian-trace"])]
    ['hessian-trace']
    """
    wanted: set[str] = set()
    for word in words:
        found = {m.name for m in REGISTRY if word in ("all", m.name, m.family)}
        if not found:
            names = ["all", *FAMILIES, *(measure.name for measure in REGISTRY)]
            near = get_close_matches(word, names, n=2, cutoff=0.6)
            offer = f"; did you mean {' or '.join(near)}?" if near else f"; families are {', '.join(FAMILIES)}"
            raise UserError(f"there is no measure or family {word!r}{offer}")
        wanted |= found
    if not wanted:
        raise UserError("measures must be some of the registry's, got none")
    return tuple(measure for measure in REGISTRY if measure.name in wanted)


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
