"""A comparison as plain cells, for terminals, Markdown, CSV and LaTeX alike."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from comparisons.comparison import Comparison, Outcome
from comparisons.flatness import INVARIANCES, Measure
from comparisons.measures import REGISTRY
from comparisons.typeset import comma_separated, latex, markdown
from spectra.errors import UserError
from spectra.interval import short, with_error
from spectra.words import TABLES

NONE = "–"
MARKS = {"layer-rescaling": "L", "node-rescaling": "N", "permutation": "P", "parameter-scale": "S"}


@dataclass(frozen=True)
class Row:
    """One measure's row.

    Attributes:
        measure: row of the registry.
        flat: an arrow, the direction in which checkpoints count as flatter.
        invariances: letters of those under which it does not change.
        gradients: what it costs alone at the dearest checkpoint, in gradients.
        cells: one a checkpoint, value and 95 % interval; ``!`` marks a caution.
    """

    measure: Measure
    flat: str
    invariances: str
    gradients: str
    cells: tuple[str, ...]


def notebook_table(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of texts: a row a measure, a column a checkpoint; ``!`` marks a caution."""
    headings = ("measure", "unit", "flatter", *short_names(comparison)[0])
    return headings, [(one.measure.title, one.measure.unit, one.flat, *one.cells) for one in rows(comparison)]


def rows(comparison: Comparison) -> list[Row]:
    """The rows of a comparison, in the registry's order.

    Args:
        comparison: comparison of some checkpoints.

    Returns:
        A row for each of its measures that the registry knows.
    """
    known = {measure.name: measure for measure in REGISTRY}
    found = []
    for name in comparison.measures:
        if name not in known:
            continue
        measure, outcomes = known[name], [one.outcomes.get(name) for one in comparison.done]
        dearest = max((one.work.in_gradients for one in outcomes if one is not None), default=0.0)
        found.append(
            Row(
                measure=measure,
                flat="↓" if measure.flatter == "smaller" else "↑",
                invariances="".join(MARKS[kind] for kind in INVARIANCES if kind in measure.invariances) or NONE,
                gradients=f"{dearest:,.0f}" if dearest >= 1.0 or dearest == 0.0 else "<1",
                cells=tuple(cell(outcome) for outcome in outcomes),
            )
        )
    return found


def cell(outcome: Outcome | None) -> str:
    """A value with half of its 95 % interval, to the digits that the interval supports; a dash where there is none."""
    if outcome is None or outcome.reading is None:
        return NONE
    reading = outcome.reading
    mark = "" if reading.trusted else " !"
    low, high = reading.interval
    half = reading.half_width
    if math.isfinite(half) and (low > reading.value - half or high < reading.value + half):
        return f"{short(reading.value)} ({short(low)} to {short(high)}){mark}"
    return f"{_with_error(reading.value, half)}{mark}"


def _with_error(value: float, half: float) -> str:
    if not math.isfinite(value):
        return with_error(value, half)
    if not math.isfinite(half):
        return f"{value:.4g} ± ?"
    if half <= 1e-5 * abs(value):
        # Without the sign of a zero.
        return f"{value + 0.0:.5g}"
    largest = max(abs(value), half)
    exponent = math.floor(math.log10(largest)) if largest > 0.0 else 0
    plain = -3 <= exponent < 6
    scale = 1.0 if plain else 10.0**exponent
    decimals = max(0, 1 - math.floor(math.log10(half / scale))) if half > 0.0 else 4
    text = f"{value / scale:.{decimals}f} ± {half / scale:.{decimals}f}"
    return text if plain else f"({text})e{exponent:+d}"


def short_names(comparison: Comparison) -> tuple[list[str], str]:
    """Names of the checkpoints without the words that all of them share.

    Args:
        comparison: comparison of some checkpoints.

    Returns:
        The names, and the shared words joined by underscores (empty if there are none).

    >>> from comparisons.comparison import Examined
    >>> from comparisons.evidence import EvidenceSettings
    >>> from spectra.files import Provenance
    >>> both = tuple(Examined(Provenance(f"{kind}_seed0.pt", "")) for kind in ("clean", "poisoned"))
    >>> short_names(Comparison(EvidenceSettings(), (), both))
    (['clean', 'poisoned'], 'seed0')
    """
    stems = [Path(one.provenance.checkpoint).stem for one in comparison.done]
    words = [stem.split("_") for stem in stems]
    shared = [word for word in words[0] if all(word in one for one in words)] if len(words) > 1 else []
    names = ["_".join(word for word in one if word not in shared) for one in words]
    if not all(names) or max(Counter(names).values()) > 1:
        # Folders tell apart what file names do not.
        parents = [
            f"{Path(one.provenance.checkpoint).parent.name}/{stem}"
            for one, stem in zip(comparison.done, stems, strict=True)
        ]
        names, shared = (parents if len(set(stems)) < len(stems) else stems), []
    # Which weights of the file were read, where that is not as usual.
    weights = [one.provenance.chosen_weights for one in comparison.done]
    return [f"{name} ({of})" if of else name for name, of in zip(names, weights, strict=True)], "_".join(shared)


def remarks(comparison: Comparison) -> dict[str, list[str]]:
    """Every caution and failure, with the measures and checkpoints it is of.

    Args:
        comparison: comparison of some checkpoints.

    Returns:
        Sentence -> ``measure (checkpoints)``; the checkpoints are left out where it is all of them.
    """
    names, _ = short_names(comparison)
    told: dict[str, dict[str, list[str]]] = {}
    for name, one in zip(names, comparison.done, strict=True):
        for measure in comparison.measures:
            outcome = one.outcomes.get(measure)
            if outcome is None:
                continue
            texts = [outcome.failure] if outcome.reading is None else list(outcome.reading.cautions)
            for text in texts:
                told.setdefault(text, {}).setdefault(measure, []).append(name)
    everyone = len(names)
    return {
        text: [m if len(where) == everyone else f"{m} ({', '.join(where)})" for m, where in places.items()]
        for text, places in told.items()
    }


def plain_table(comparison: Comparison, kind: str) -> str:
    """The table as text of another program.

    Args:
        comparison: comparison of some checkpoints.
        kind: ``md``, ``csv`` (values, intervals and seconds at full precision) or ``latex``.

    Returns:
        The text.

    Raises:
        UserError: if the kind is unknown.
    """
    if kind not in TABLES:
        raise UserError(f"table must be one of {', '.join(TABLES)}; got {kind!r}")
    if kind == "csv":
        return _csv(comparison)
    names, _ = short_names(comparison)
    head = ["measure", "unit", "flat", "invariant to", "gradients", *names]
    body = [
        [row.measure.title, row.measure.unit, row.flat, row.invariances, row.gradients, *row.cells]
        for row in rows(comparison)
    ]
    return markdown(head, body) if kind == "md" else latex(head, body, left=4)


def _csv(comparison: Comparison) -> str:
    known = {measure.name for measure in REGISTRY}
    names = {"half_width": "half_width95"}
    numbers = ("value", "standard_error", "half_width", "low95", "high95", "gradients", "seconds")
    columns = ("checkpoint", "measure", "unit", "flatter", *numbers, "remark")
    found = [row for row in comparison.records() if row["measure"] in known]
    return comma_separated([{names.get(name, name): row[name] for name in columns} for row in found])
