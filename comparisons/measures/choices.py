"""Options of measures as they are given, in words, TOML files or Python: checked, and turned into those of each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from comparisons.flatness import Measure
from comparisons.measures.registry import ALONE, REGISTRY, no_measure
from comparisons.options import Chosen, Value
from spectra.errors import UserError


def chosen_options(given: Mapping[str, Mapping[str, object]], measures: Sequence[Measure] = REGISTRY) -> Chosen:
    """Options of measures, checked.

    Args:
        given: by the name of a measure, or of a family for all its measures that have the option, the options by
            name; what is said of a measure goes before what is said of its family.
        measures: those that are going to be read; an option that none of them has is refused.

    Returns:
        The options by measure, each in its type.

    Raises:
        UserError: if there is no such measure or option, with the nearest that is; if a value is of another type or
            out of range; or if no measure that is read has the option.

    >>> chosen_options({"keskar": {"epsilon": "5e-4"}})
    {'keskar': {'epsilon': 0.0005}}
    """
    found: dict[str, dict[str, Value]] = {}
    # Families first: what is said of a measure itself comes over it.
    for name in sorted(given, key=lambda one: len(_meant(one)) == 1):
        if not isinstance(given[name], Mapping):
            raise UserError(
                f"options of {name} must be given by name, such as {name}.option=value, got {given[name]!r}"
            )
        for word, value in given[name].items():
            having = [one for one in _meant(name) if any(_same(option.name, word) for option in one.options)]
            if not having:
                raise UserError(_no_option(name, word))
            read = [one for one in having if one in measures]
            if not read:
                raise UserError(
                    f"{name}.{word} has no effect: {', '.join(one.name for one in having)} is not among the measures "
                    "asked for; add it to them"
                )
            for measure in read:
                option = next(one for one in measure.options if _same(one.name, word))
                found.setdefault(measure.name, {})[option.name] = option.checked(measure.name, value)
    return found


def _same(name: str, word: str) -> bool:
    return name == word.replace("_", "-")


def _meant(name: str) -> tuple[Measure, ...]:
    """The measures of a family, or the one of that name."""
    alone = ALONE.get(name, name)
    found = tuple(one for one in REGISTRY if one.family == name) or tuple(one for one in REGISTRY if one.name == alone)
    if not found:
        raise UserError(no_measure(name))
    return found


def _no_option(name: str, word: str) -> str:
    known = list(dict.fromkeys(option.name for measure in _meant(name) for option in measure.options))
    if not known:
        return f"{name} has no option {word!r}: it has none"
    near = get_close_matches(word, known, n=2, cutoff=0.6)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{name} has no option {word!r}: it has {', '.join(known)}{offer}"


def options_in_words(words: Sequence[str]) -> dict[str, dict[str, object]]:
    """Options written as ``measure.option=value``, by measure and name; the last of one name counts.

    Raises:
        UserError: if a word is written otherwise.

    >>> options_in_words(["keskar.epsilon=5e-4"])
    {'keskar': {'epsilon': '5e-4'}}
    """
    found: dict[str, dict[str, object]] = {}
    for word in words:
        path, equals, value = word.partition("=")
        measure, dot, option = "".join(path.split()).partition(".")
        if not (equals and dot and measure and option and value.strip()):
            raise UserError(
                f"--set must be measure.option=value, such as keskar.epsilon=5e-4, got {word!r}; --measures list has "
                "the names"
            )
        found.setdefault(measure, {})[option] = value.strip()
    return found


def options_in_file(path: Path) -> dict[str, dict[str, object]]:
    """Options that a TOML file has, in a table for each measure.

    Raises:
        UserError: if it is no TOML.
        OSError: if it cannot be read.
    """
    try:
        found: dict[str, dict[str, object]] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML file with a table for each measure, such as [keskar]: {error}") from error
    return found
