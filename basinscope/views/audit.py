"""An audit for reading and as JSON: a table a case, the truth above it, what does not apply beneath."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views.layout import NONE, finite, plain, table
from basinscope.views.sheet import Column, Sheet
from spectra.files import counted
from spectra.interval import RULE, with_error
from volume.audit import FACTORS, SETS, TRACE, VOLUME, AuditReport, AuditRow, Figure, Share, Truth


def report_json(report: AuditReport, files: Mapping[str, str]) -> dict[str, Any]:
    """An audit in plain values; ``files`` says what was written where, by kind."""
    return {
        "title": report.title,
        "command": report.command,
        "repeats": report.table.repeats,
        "seed": report.table.seed,
        "rows": [_row(row) for row in report.table.applied],
        "skipped": [
            {"case": row.case, "estimator": row.estimator, "reason": row.skipped}
            for row in report.table.rows
            if row.skipped
        ],
        "facts": [plain(asdict(fact)) for fact in report.facts],
        "notes": list(report.notes),
        "files": dict(files),
    }


def _row(row: AuditRow) -> dict[str, Any]:
    counts, means, roots = row.curve
    needed = row.directions_needed
    figures = ("mean", "bias", "spread", "rms", "largest_share", "effective_samples", "jensen_predicted", "jensen_seen")
    return {
        **{name: getattr(row, name) for name in ("case", "size", "estimator", "quantity")},
        "claims": row.claims or None,
        "truth": None if row.truth is None else _truth(row.truth),
        "bound": None if row.bound is None else _truth(row.bound),
        "excess_over_bound": None if row.bound is None else _number(row.excess),
        "outside": row.outside,
        "values": [finite(reading.value) for reading in row.readings],
        "infinite": row.infinite,
        "biased": row.biased,
        **{name: _number(getattr(row, name)) for name in figures},
        "coverage95": _share(row.coverage),
        "overestimates": [
            {"factor": factor, "allowed": 1.0 / factor, **_share(share)}
            for factor, share in zip(FACTORS, row.overestimates, strict=False)
        ],
        "gradients": row.gradients,
        "evaluations": row.evaluations,
        "error_by_directions": [
            {"directions": int(count), "mean_error": finite(float(mean)), "rms_error": finite(float(root))}
            for count, mean, root in zip(counts, means, roots, strict=True)
        ],
        "log10_directions_within_1_nat": {"value": finite(needed.log10), "extrapolated": needed.extrapolated},
    }


def _truth(truth: Truth) -> dict[str, Any]:
    found = {"value": truth.value, "error": truth.error, "how": truth.how, "of": truth.of or None}
    return {**found, "half_width95": finite(truth.half_width)}


def _number(figure: Figure) -> dict[str, float | None]:
    names = {"value": figure.value, "standard_error": figure.error, "half_width95": figure.half_width}
    return {name: finite(value) for name, value in names.items()}


def _share(share: Share) -> dict[str, Any]:
    return {"hits": share.hits, "of": share.of, "value": finite(share.value), "interval95": list(share.interval)}


_COLUMNS = (
    "bias",
    "spread",
    "rms",
    "95 % bar covers",
    "largest share",
    "for 1 nat",
    "gradient evals",
    "cost evals",
)
_CAPTION = (
    f"nats, traces in % of the truth; {RULE}; ! a bias beyond what 3 standard errors are in many repeats. covers: "
    "repeats whose own 95 % interval holds the truth. for 1 nat: directions for an rms error of 1 nat, ~ extrapolated "
    "as if log terms were normal. A curvature product counts as 2 gradients."
)
_SETS = (
    "set: whose log-volume is claimed, and whose truth it is held against: sublevel, all that costs less than the "
    "cutoff; star, the part of it that straight lines from the anchor reach. In brackets, where the truth of the other "
    "set alone is known: mean less that bound; ! beyond the bound, so certainly wrong. In known cases the two sets are "
    "one."
)


def report_table(report: AuditReport, files: Mapping[str, str]) -> Group:
    """An audit laid out for a terminal; ``files`` says what was written where, by kind."""
    repeats = report.table.repeats
    parts: list[RenderableType] = [Text(f"Audit of {report.title}, {counted(repeats, 'repeat')} a row", style="bold")]
    for name in dict.fromkeys(row.case for row in report.table.rows):
        rows = [row for row in report.table.rows if row.case == name]
        parts += _case(name, rows)
    parts.append(Padding(Text(_CAPTION, style="dim"), (1, 0, 0, 0)))
    parts.append(Text(_SETS, style="dim"))
    parts.append(_markov(report))
    if report.facts:
        parts.append(_facts(report))
    parts += [Text(f"note: {note}", style="dim") for note in report.notes]
    parts += written(files)
    return Group(*parts)


def _case(name: str, rows: list[AuditRow]) -> list[RenderableType]:
    applied = [row for row in rows if row.readings]
    parts: list[RenderableType] = [Padding(_heading(name, rows), (1, 0, 0, 0))]
    if applied:
        parts.append(_table(name, applied))
    reasons = Counter(row.skipped for row in rows if row.skipped)
    if reasons:
        # Their names are in the JSON; here they would bury what applies.
        words = "; ".join(f"{count} as {reason}" for reason, count in reasons.items())
        apply = "does" if reasons.total() == 1 else "do"
        parts.append(Text(f"{reasons.total()} {apply} not apply: {words}", style="dim"))
    return parts


def _table(name: str, rows: list[AuditRow]) -> Sheet:
    first = _COLUMNS[0] if any(row.truth is not None or row.bound is not None for row in rows) else "mean"
    found = table(("estimator", "set", first, *_COLUMNS[1:]), of=name, padding=1, justify="right")
    for row in rows:
        style = "yellow" if row.biased or row.outside else ""
        found.add_row(row.estimator, row.claims or NONE, *_cells(row), style=style)
    return found


def _heading(name: str, rows: list[AuditRow]) -> RenderableType:
    known = [(row.truth, row.bound) for row in rows if row.readings and row.quantity == VOLUME]
    truths = dict.fromkeys(truth for pair in known for truth in pair if truth is not None)
    text = Text.assemble((name, "bold"), f", n = {rows[0].size:,}: ")
    if not truths:
        if any(row.truth is not None for row in rows):
            return text.append("truth of each quantity exact")
        return text.append("no truth is known: spread and mutual differences only")
    return text.append("; ".join(map(_true, sorted(truths, key=lambda truth: truth.of, reverse=True))))


def _true(truth: Truth) -> str:
    # A hundredth of a nat is read by nobody where the truth is a closed form.
    value = with_error(truth.value, truth.half_width) if truth.half_width > 0.005 else f"{truth.value:.2f}"
    whose = f" of {SETS[truth.of]}" if truth.of in SETS else ""
    return f"true log volume{whose} {value} nat ({truth.how})"


def _cells(row: AuditRow) -> tuple[str, ...]:
    scale = 100.0 / abs(row.truth.value) if row.quantity == TRACE and row.truth is not None else 1.0
    unit = " %" if row.quantity == TRACE and row.truth is not None else ""
    if row.bound is not None:
        first = f"({_figure(row.excess, 1.0)})" + (" !" if row.outside else "")
    elif row.truth is None:
        first = _figure(row.mean, 1.0)
    else:
        first = _figure(row.bias, scale) + unit + (" !" if row.biased else "")
    if row.infinite:
        first = f"{row.infinite} infinite" if not len(row.values) else f"{first} ({row.infinite} inf)"
    share = row.largest_share.value
    return (
        first,
        _short(row.spread.value * scale),
        _short(row.rms.value * scale),
        f"{row.coverage.hits}/{row.coverage.of}" if row.coverage.of else NONE,
        NONE if math.isnan(share) else f"{share:.0%}",
        str(row.directions_needed),
        _count(row.gradients),
        _count(row.evaluations),
    )


def _figure(figure: Figure, scale: float) -> str:
    if not math.isfinite(figure.value):
        return NONE
    value, half = figure.value * scale, figure.half_width * scale
    if half > 1e-4:
        return with_error(value, half)
    return f"{value:.4f}" if abs(value) >= 5e-5 else f"{value:.1g}" if abs(value) >= 1e-6 else "0"


def _short(value: float) -> str:
    if math.isnan(value):
        return NONE
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}" if value >= 0.001 else "0"


def _count(value: float) -> str:
    return NONE if not value else f"{value:.0f}" if value < 99_999.5 else f"{value:.1e}"


def _markov(report: AuditReport) -> RenderableType:
    """How often log-volumes from unbiased terms lie above the truth, and what Markov allows."""
    sampled = [row for row in report.table.applied if row.overestimates and row.consistent]
    if not sampled:
        return Text("")
    words = []
    broken = []
    for place, factor in enumerate(FACTORS):
        worst = max(sampled, key=lambda row: row.overestimates[place].value)
        share = worst.overestimates[place]
        words.append(f"by {factor:g} times in at most {share.value:.0%} of repeats (allowed {1.0 / factor:.0%})")
        broken += [f"{r.estimator} on {r.case}" for r in sampled if r.overestimates[place].excludes(1.0 / factor)]
    text = Text(f"Markov: sampled volumes exceed the truth {', '.join(words)}")
    if broken:
        names = ", ".join(dict.fromkeys(broken))
        text.append(f"\n! beyond Markov's bound, so not unbiased for this volume: {names}", style="yellow")
    return text


def _facts(report: AuditReport) -> RenderableType:
    title = "The facts of the star-domain sampler"
    columns = [Column(""), *(Column(name, words=True) for name in ("claim", "measured", "verdict"))]
    found = Sheet(title, columns, spaced=True)
    for fact in report.facts:
        found.add_row(fact.letter, fact.claim, fact.measured, fact.verdict)
    return Padding(Group(Text(title, style="bold"), found), (1, 0, 0, 0))
