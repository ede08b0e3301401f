"""A comparison as one self-contained page: summary, tables that sort, figures, cautions, provenance."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from comparisons.comparison import Comparison, Outcome
from comparisons.findings import Findings
from comparisons.measures import REGISTRY
from comparisons.plots import comparison_figure
from comparisons.report.words import summary_sentences
from comparisons.statistics import ALIKE, Agreement, GranulatedRanking, agreement_figure, ranking_figure
from comparisons.tables import Row, remarks, rows, short_names
from spectra.files import counted, replace_file
from spectra.interval import RULE
from spectra.plots import drawn

# Up to this many checkpoints a measure has a row, beyond it a checkpoint has one.
FEW = 6
DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        key: what it sorts by: a number, a text, or None for nothing.
        cautions: sentences shown on hovering.
    """

    text: str
    key: float | str | None = None
    cautions: tuple[str, ...] = ()

    @property
    def sort(self) -> str:
        """The key with every digit: what is sorted by is what was measured."""
        return "" if self.key is None else self.key if isinstance(self.key, str) else repr(float(self.key))

    @property
    def kinds(self) -> str:
        """Its classes in the style sheet."""
        return " ".join(["text"] * isinstance(self.key, str) + ["caution"] * bool(self.cautions))


@dataclass(frozen=True)
class Table:
    """A table that sorts by a click on its head.

    Attributes:
        head: titles of the columns.
        body: lines of cells, the first of each its title.
    """

    head: Sequence[str]
    body: Sequence[Sequence[Cell]]

    @property
    def words(self) -> list[bool]:
        """Which columns hold words."""
        return [any(isinstance(line[place].key, str) for line in self.body) for place in range(len(self.head))]


@dataclass(frozen=True)
class Picture:
    """A figure inside the page, with a sentence beneath, which is its text for those who do not see it."""

    figure: Figure
    caption: str

    @cached_property
    def data(self) -> str:
        """The image in base 64."""
        return base64.b64encode(drawn(self.figure, "png", DOTS_PER_INCH)).decode()


def _number(value: float, form: str) -> Cell:
    """A cell of a number, a dash where there is none."""
    return Cell(format(value, form), value) if math.isfinite(value) else Cell("–")


def write_report(path: str | Path, findings: Findings) -> None:
    """Write the page, replacing what is there in one step."""
    replace_file(path, report_page(findings).encode("utf-8", "backslashreplace"))


def report_page(findings: Findings) -> str:
    """The page: no network, no other file, every text from outside escaped.

    Args:
        findings: what it tells.

    Returns:
        HTML.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import

    comparison = findings.comparison
    many = len(comparison.done)
    parts: dict[str, tuple[str, Any]] = {
        "summary": ("Summary", summary_sentences(findings)),
        "rankings": (f"Rank correlation with {findings.against}", _rankings(findings) if findings.rankings else None),
        "measures": ("Measures", _measures(comparison)),
        "agreement": ("Which measures agree", None if findings.agreement is None else _agreement(findings.agreement)),
        "evidence": ("Evidence", [Picture(figure, caption) for caption, figure in findings.figures]),
        "cautions": ("Cautions", _cautions(comparison)),
        "provenance": ("Provenance", _provenance(comparison)),
    }
    shown = {name: heading for name, (heading, content) in parts.items() if content or name == "cautions"}
    loader = PackageLoader("comparisons.report", "")
    # Nothing stands before the page's first tag, by which a page is known as one that may be replaced.
    engine = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    return engine.get_template("report.html").render(
        {name: content for name, (_, content) in parts.items()},
        title=f"{len(comparison.measures)} flatness measures of {many} checkpoint{'s' * (many != 1)}",
        subtitle=_subtitle(comparison),
        sections=shown,
    )


def _subtitle(comparison: Comparison) -> str:
    first, settings = comparison.done[0], comparison.settings
    sizes = sorted({one.size for one in comparison.done})
    span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return (
        f"basinscope {first.provenance.versions.get('basinscope', '')}, {first.provenance.created}; {span} parameters, "
        f"{counted(round(first.samples), 'sample')}, {first.provenance.cost} cost; seed {settings.seed}"
    )


def _rankings(findings: Findings) -> dict[str, Any]:
    titles = {measure.name: measure for measure in REGISTRY}
    standings = {one.measure: one for one in findings.granulated}
    names = list(findings.granulated[0].granulated) if findings.granulated else []
    head = ["measure", "family", "Kendall tau", "95 % from", "to", "Spearman", "p (Holm)", "checkpoints"]
    if standings:
        head += ["Psi", *(f"tau by {name}" for name in names), "information", "variance between configurations"]
        head += ["sign error", "worst sign error", "in"]
    held = [(given, {one.measure: one for one in rows}) for given, rows in findings.partials]
    head[8:8] = [f"tau given {given}" for given, _ in held]
    body = []
    for row in sorted(findings.rankings, key=lambda one: -one.tau):
        measure, ranking = titles[row.measure], standings.get(row.measure)
        cells = [Cell(measure.title, measure.title), Cell(measure.family, measure.family), _number(row.tau, "+.2f")]
        cells += [_number(end, "+.2f") for end in row.tau_interval]
        cells += [_number(row.rho, "+.2f"), _number(row.p_holm, ".2g"), _number(row.checkpoints, ".0f")]
        cells += [_number(rows[row.measure].tau, "+.2f") if row.measure in rows else Cell("–") for _, rows in held]
        if ranking is not None:
            split = ranking.variance
            told = [(ranking.psi, "+.2f"), *((ranking.granulated[name], "+.2f") for name in names)]
            told += [(ranking.information, ".3f"), (float("nan") if split is None else split.share_between, ".2f")]
            cells += [_number(value, form) for value, form in told] + _wrong(ranking)
        elif standings:
            cells += [Cell("–")] * (len(head) - len(cells))
        body.append(cells)
    key = (
        f"Positive: flatter checkpoints have the smaller {findings.against}. Intervals by bootstrap over "
        "configurations; p by permutation of configurations, corrected for the number of measures. "
    )
    if held:
        key += "Tau given a column: Kendall's partial tau, what is left of the order once the column is held fixed. "
    if standings:
        key += (
            "Psi: mean over changes of one hyperparameter alone. Information: the share of the order told beyond any "
            "two hyperparameters, at the least (Jiang et al., 2020). Variance: the rest lies between seeds. Sign "
            "error: share of wrongly ordered runs over pairs of configurations that differ in one hyperparameter, mean "
            "and worst (Dziugaite et al., 2020); a coin has 0.5."
        )
    drawing = ranking_figure(findings.rankings, findings.against)
    figure = Picture(drawing, f"Rank correlation with {findings.against}.")
    return {"key": key, "table": Table(head, body), "figure": figure}


def _wrong(ranking: GranulatedRanking) -> list[Cell]:
    errors = ranking.sign_errors
    if errors is None:
        return [Cell("–")] * 3
    return [_number(errors.mean, ".2f"), _number(errors.worst, ".2f"), Cell(errors.worst_in or "–", errors.worst_in)]


def _measures(comparison: Comparison) -> dict[str, Any]:
    found, (names, shared) = rows(comparison), short_names(comparison)
    if len(names) <= FEW:
        head = ["measure", "family", "unit", "flatter", "invariant to", "gradients", *names]
        body = [_measure_row(comparison, row) for row in found]
    else:
        head = ["checkpoint", "cost", "gap", "error gap", *(f"{row.measure.title} {row.flat}" for row in found)]
        body = []
        for place, (name, one) in enumerate(zip(names, comparison.done, strict=True)):
            cells = [Cell(row.cells[place], *_told(one.outcomes.get(row.measure.name))) for row in found]
            scores = [_number(value, ".4g") for value in (one.cost, one.gap, one.error_gap)]
            body.append([Cell(name, name), *scores, *cells])
    key = (
        f"{RULE}. ! marks a caution (hover). Arrows: the direction that counts as flatter. A click on a heading sorts."
        f"{f' All checkpoints are of {shared}.' if shared else ''}"
    )
    figure = None
    if any(one.outcomes for one in comparison.done):
        caption = "Each measure of each checkpoint; bars are 95 % intervals, hollow points carry a caution."
        figure = Picture(comparison_figure(comparison), caption)
    return {"key": key, "table": Table(head, body), "figure": figure}


def _measure_row(comparison: Comparison, row: Row) -> list[Cell]:
    texts = (row.measure.title, row.measure.family, row.measure.unit, row.flat, row.invariances)
    outcomes = [one.outcomes.get(row.measure.name) for one in comparison.done]
    dearest = max((one.work.in_gradients for one in outcomes if one is not None), default=0.0)
    cells = [Cell(text, *_told(outcome)) for text, outcome in zip(row.cells, outcomes, strict=True)]
    return [*(Cell(text, text) for text in texts), Cell(row.gradients, dearest), *cells]


def _told(outcome: Outcome | None) -> tuple[float | None, tuple[str, ...]]:
    """What a cell sorts by, and its cautions."""
    if outcome is None:
        return None, ()
    if outcome.reading is None:
        return None, (outcome.failure,)
    value = outcome.reading.value
    return (value if value == value else None), outcome.reading.cautions


def _agreement(found: Agreement) -> dict[str, Any]:
    titles = {measure.name: measure.title for measure in REGISTRY}
    return {
        "key": f"Measures whose mean Kendall tau with each other is at least {ALIKE:g} form a group (frames):",
        "groups": [", ".join(titles[name] for name in group) for group in found.groups if len(group) > 1],
        "left_out": ", ".join(titles[name] for name in found.left_out),
        "figure": Picture(agreement_figure(found), "Kendall's tau between measures, ordered by average linkage."),
    }


def _cautions(comparison: Comparison) -> list[str]:
    told = remarks(comparison) if len(comparison.done) <= FEW else _counted(comparison)
    texts = [*comparison.cautions, *(f"{'; '.join(places)}: {text}" for text, places in told.items())]
    failed = [f"{one.provenance.checkpoint} failed: {one.failure}" for one in comparison.checkpoints if one.failure]
    return [*failed, *texts]


def _counted(comparison: Comparison) -> dict[str, list[str]]:
    """Each caution or failure with its measures and at how many checkpoints: names of dozens hide what is said."""
    told: dict[str, dict[str, int]] = {}
    for one in comparison.done:
        for name, outcome in one.outcomes.items():
            for text in _told(outcome)[1]:
                found = told.setdefault(text, {})
                found[name] = found.get(name, 0) + 1
    everyone = len(comparison.done)
    return {
        text: [f"{name} (at {count} of {everyone} checkpoints)" for name, count in places.items()]
        for text, places in told.items()
    }


def _provenance(comparison: Comparison) -> dict[str, Any]:
    first = comparison.done[0].provenance
    values = asdict(comparison.settings) | {"options": None}
    settings = [f"{name} {value}" for name, value in values.items() if value is not None]
    head = ["checkpoint", "sha256", "data sha256", "task", "created", "gradients", "seconds"]
    body = []
    for one in comparison.checkpoints:
        origin = one.provenance
        texts = [origin.checkpoint, origin.checkpoint_sha256, one.data_sha256, origin.task, origin.created]
        work = [_number(one.work.in_gradients, ",.0f"), _number(one.work.seconds, ".1f")]
        body.append([*(Cell(text or "–", text) for text in texts), *work])
    return {
        "versions": ", ".join(f"{name} {text}" for name, text in first.versions.items()),
        "settings": ", ".join((*settings, *comparison.settings.chosen)),
        "commands": dict.fromkeys(line for one in comparison.done for line in one.provenance.command.splitlines()),
        "table": Table(head, body),
    }
