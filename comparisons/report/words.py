"""What a comparison says, in sentences made from its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from comparisons.comparison import Comparison
from comparisons.findings import Findings
from comparisons.measures import REGISTRY
from comparisons.statistics import FEWEST_CONFIGURATIONS, LEVEL, Ranking
from comparisons.tables import short_names
from spectra.files import counted

# Measures named in a sentence.
NAMED = 3


def summary_sentences(findings: Findings) -> list[str]:
    """The findings in a few sentences.

    Args:
        findings: what a page tells.

    Returns:
        Sentences; at least one.
    """
    comparison = findings.comparison
    done, failed = len(comparison.done), len(comparison.checkpoints) - len(comparison.done)
    readings = [cell for one in comparison.done for cell in one.outcomes.values()]
    doubtful = sum(cell.reading is not None and not cell.reading.trusted for cell in readings)
    missing = sum(cell.reading is None for cell in readings)
    told = [
        f"{counted(len(comparison.measures), 'measure')} of {counted(done, 'checkpoint')}: {len(readings)} numbers, "
        f"{doubtful} with a caution, {missing} without a value"
        + (f"; {counted(failed, 'checkpoint')} failed" if failed else "")
        + "."
    ]
    if findings.rankings:
        told += _ranked(findings.rankings, findings.against)
    else:
        told += _two(findings.comparison) if done == 2 else []
        told.append("There are too few checkpoints with a target to rank measures by.")
    known = [one for one in findings.granulated if one.information == one.information]
    if known:
        best = max(known, key=lambda one: one.information)
        told.append(
            f"Beyond any two hyperparameters the most that a measure says about the order by {findings.against} is "
            f"{100 * best.information:.1f}\u00a0% ({_title(best.measure)}{_given(best.information_given)})."
        )
    told += _held_fixed(findings) + _robust(findings)
    if findings.agreement is not None and findings.agreement.groups:
        largest = max(findings.agreement.groups, key=len)
        if len(largest) > 1:
            told.append(
                f"{len(largest)} measures order the checkpoints nearly alike ({', '.join(map(_title, largest[:NAMED]))}"
                f"{' and others' if len(largest) > NAMED else ''}): they are not independent support for each other."
            )
    return told


def _two(comparison: Comparison) -> list[str]:
    """Which of two checkpoints is flatter, by measures whose intervals do not overlap."""
    names, _ = short_names(comparison)
    votes, known = [0, 0], 0
    for measure in REGISTRY:
        outcomes = [one.outcomes.get(measure.name) for one in comparison.done]
        one, two = (None if outcome is None else outcome.reading for outcome in outcomes)
        if one is None or two is None or not (math.isfinite(one.value) and math.isfinite(two.value)):
            continue
        known += 1
        if one.interval[1] < two.interval[0] or two.interval[1] < one.interval[0]:
            votes[(one.value < two.value) != (measure.flatter == "smaller")] += 1
    first = f"By {votes[0]} of {known} measures {names[0]} is flatter, by {votes[1]} {names[1]}"
    return [f"{first}; by {known - sum(votes)} their 95 % intervals overlap."]


def _ranked(rankings: Sequence[Ranking], against: str) -> list[str]:
    sure = [one for one in rankings if one.p_holm < LEVEL]
    if not sure:
        return [
            f"No measure ranks the checkpoints by {against} better than chance (p < {LEVEL:g}, {len(rankings)} tried)."
        ]
    found = []
    for words, chosen in (
        ("smaller", sorted((one for one in sure if one.tau > 0), key=lambda one: -one.tau)),
        ("larger", sorted((one for one in sure if one.tau < 0), key=lambda one: one.tau)),
    ):
        if chosen:
            named = ", ".join(f"{_title(one.measure)} ({one.tau:+.2f})" for one in chosen[:NAMED])
            rest = ", strongest" if len(chosen) > NAMED else ""
            found.append(
                f"By {len(chosen)} of {len(rankings)} measures flatter goes with {words} {against}{rest}: {named}."
            )
    return found


def _held_fixed(findings: Findings) -> list[str]:
    """What is left of the rankings given each column, by intervals that exclude 0."""
    many = len(findings.comparison.done)
    if findings.partials and many < FEWEST_CONFIGURATIONS:
        return [
            f"The intervals of {many} checkpoints mean little, even those that exclude 0: a bootstrap over fewer than "
            f"{FEWEST_CONFIGURATIONS} draws the same few again and again."
        ]
    told = []
    plain = {one.measure for one in findings.rankings if one.tau_interval[0] > 0.0 or one.tau_interval[1] < 0.0}
    for given, rows in findings.partials:
        kept = [one for one in rows if one.tau_interval[0] > 0.0 or one.tau_interval[1] < 0.0]
        first = (
            f"{len(plain)} of {len(findings.rankings)} intervals of tau exclude 0; given {given}, {len(kept)} of "
            f"{len(rows)} do"
        )
        turned = [_title(one.measure) for one in kept if one.reversed]
        told.append(first + (f", and {', '.join(turned[:NAMED])} with the other sign." if turned else "."))
    return told


def _robust(findings: Findings) -> list[str]:
    """The least of the worst sign errors."""
    known = [(one, one.sign_errors) for one in findings.granulated]
    errors = [(one.measure, wrong) for one, wrong in known if wrong is not None and wrong.environments]
    if not errors:
        return []
    name, best = min(errors, key=lambda one: (one[1].worst, one[1].mean))
    better = sum(wrong.worst < 0.5 for _, wrong in errors)
    return [
        f"In its worst pair of configurations that differ in one hyperparameter, {better} of {len(errors)} measures "
        f"order runs better than a coin does; the least worst sign error is {best.worst:.2f} ({_title(name)})."
    ]


def _given(names: Sequence[str]) -> str:
    return f", given {' and '.join(names)}" if names else ", with no hyperparameter held fixed"


def _title(name: str) -> str:
    return next((measure.title for measure in REGISTRY if measure.name == name), name)
