"""The page of a comparison: numbers as in the comparison, nothing fetched, nothing unescaped."""

import base64
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.findings import Findings, findings_of
from comparisons.flatness import Reading
from comparisons.measures import measures_named
from comparisons.report import FEW, report_page, summary_sentences
from comparisons.statistics import rank_measures
from comparisons.tables import cell
from spectra.files import Provenance

NAMES = ("hessian-trace", "largest-eigenvalue", "parameter-norm")
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>$title & é'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, tables as rows of (text, data-value), and that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.open: list[str] = []
        self.words: list[str] = []
        self._table: list[list[tuple[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(found["id"] or "", [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append(("", found.get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            text, key = self._table[-1][-1]
            self._table[-1][-1] = (text + data, key)


def made(count: int, name: str = "run") -> Comparison:
    generator, rows = np.random.default_rng(0), []
    for place in range(count):
        values = generator.normal(size=3)
        outcomes = {
            measure: Outcome(
                Reading(float(value), 0.01 * abs(value), ("<b>doubt</b>",) if place == 1 else ()), ComputeCost()
            )
            for measure, value in zip(NAMES, values, strict=True)
        }
        if place == 2:
            outcomes["parameter-norm"] = Outcome(None, ComputeCost(), "it <i>failed</i>")
        provenance = Provenance(
            f"{name}{place}.pt", f"{place:064d}", versions={"torch": "9.9"}, command="basinscope <x>"
        )
        known = {"width": place % 2, "batch_size": place // 2 % 2, "seed": place // 4}
        rows.append(
            Examined(provenance, 10, 8.0, "cd" * 32, 0.1, 0.2 + place, hyperparameters=known, outcomes=outcomes)
        )
    return Comparison(EvidenceSettings(), NAMES, tuple(rows))


def findings(comparison: Comparison) -> Findings:
    rankings = rank_measures(comparison, measures_named(list(NAMES)))
    return findings_of(comparison, "gap", rankings, ["largest-eigenvalue"])


@pytest.mark.parametrize("count", [3, 8])
def test_values_are_the_comparisons(count: int) -> None:
    comparison = made(count)
    rows = Page(report_page(Findings(comparison))).tables["values"][1:]
    measures = measures_named(list(NAMES))
    order = {measure.name: place for place, measure in enumerate(measures)}
    for place, one in enumerate(comparison.done):
        for name, outcome in one.outcomes.items():
            shown = rows[order[name]][6 + place] if count <= FEW else rows[place][4 + order[name]]
            expected = "" if outcome.reading is None else repr(outcome.reading.value)
            assert shown == (cell(outcome), expected)


def test_rankings_are_the_rankings() -> None:
    found = findings(made(8))
    table = Page(report_page(found)).tables["ranking"]
    titles = {measure.title: measure.name for measure in measures_named(list(NAMES))}
    head = [text for text, _ in table[0]]
    shown = {titles[row[0][0]]: dict(zip(head, row, strict=True)) for row in table[1:]}
    assert set(shown) == {one.measure for one in found.rankings}
    for ranking in found.rankings:
        row = shown[ranking.measure]
        assert row["Kendall tau"] == (f"{ranking.tau:+.2f}", repr(ranking.tau))
        assert row["95 % from"][1] == repr(ranking.tau_interval[0])
        assert row["p (Holm)"][1] == repr(ranking.p_holm)
    for standing in found.granulated:
        assert shown[standing.measure]["Psi"][1] == repr(standing.psi)
        assert standing.sign_errors is not None
        assert shown[standing.measure]["worst sign error"][1] == repr(standing.sign_errors.worst)
        assert shown[standing.measure]["in"][0] == standing.sign_errors.worst_in
        assert shown[standing.measure]["tau by width"][1] == repr(standing.granulated["width"])
    ((given, rows),) = found.partials
    assert {one.measure for one in rows} == set(shown) - {given}
    for one in rows:
        assert shown[one.measure][f"tau given {given}"][1] == repr(one.tau)


def test_nothing_is_fetched() -> None:
    text = report_page(findings(made(8)))
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    images = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    assert len(images) == 3
    for image in images:
        assert base64.b64decode(image.partition(",")[2]).startswith(b"\x89PNG")
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "http" not in outside
    assert "url(" not in outside
    assert "@import" not in outside
    targets = {a["href"] for tag, a in page.tags if tag == "a"}
    assert targets == {f"#{a['id']}" for tag, a in page.tags if tag == "section"}


@pytest.mark.parametrize("count", [3, 8])
def test_hostile_names_stay_text(count: int) -> None:
    comparison = made(count, HOSTILE)
    rows = list(comparison.checkpoints)
    rows.append(Examined(Provenance("<svg onload=x>.pt", ""), failure="<script>no</script>"))
    page = Page(report_page(Findings(dataclasses.replace(comparison, checkpoints=tuple(rows)))))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"svg", "b", "i"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    words = "".join(page.words)
    assert "<svg onload=x>.pt failed: <script>no</script>" in words
    assert "<b>doubt</b>" in words
    assert "basinscope <x>" in words
    assert any(HOSTILE in text for row in page.tables["files"] for text, _ in row)


def test_summary_says_what_the_rankings_say() -> None:
    found = findings(made(8))
    planted = tuple(
        dataclasses.replace(one, tau=tau, p_holm=p)
        for one, tau, p in zip(found.rankings, (0.9, -0.6, 0.1), (0.01, 0.02, 0.9), strict=True)
    )
    told = summary_sentences(dataclasses.replace(found, rankings=planted))
    titles = [measures_named([one.measure])[0].title for one in planted]
    assert told[0] == "3 measures of 8 checkpoints: 24 numbers, 3 with a caution, 1 without a value."
    assert told[1] == f"By 1 of 3 measures flatter goes with smaller gap: {titles[0]} (+0.90)."
    assert told[2] == f"By 1 of 3 measures flatter goes with larger gap: {titles[1]} (-0.60)."
    none = tuple(dataclasses.replace(one, p_holm=1.0) for one in planted)
    assert "better than chance" in summary_sentences(dataclasses.replace(found, rankings=none))[1]


def test_two_checkpoints_are_told_apart_where_intervals_are() -> None:
    pair = []
    # Flatter is smaller for all three: the first by the trace, the second by the eigenvalue, the norms overlap.
    for name, values in (("one", (1.0, 5.0, 3.0)), ("two", (2.0, 4.0, 3.1))):
        outcomes = {m: Outcome(Reading(v, 0.1), ComputeCost()) for m, v in zip(NAMES, values, strict=True)}
        pair.append(Examined(Provenance(f"{name}.pt", ""), outcomes=outcomes))
    told = summary_sentences(Findings(Comparison(EvidenceSettings(), NAMES, tuple(pair))))
    assert told[1] == "By 1 of 3 measures one is flatter, by 1 two; by 1 their 95 % intervals overlap."


def test_cautions_name_few_checkpoints_and_count_many() -> None:
    few, many = ("".join(Page(report_page(Findings(made(count)))).words) for count in (3, 8))
    assert "hessian-trace (run1); largest-eigenvalue (run1); parameter-norm (run1): <b>doubt</b>" in few
    assert "hessian-trace (at 1 of 8 checkpoints); largest-eigenvalue (at 1 of 8 checkpoints)" in many
    assert "parameter-norm (at 1 of 8 checkpoints): it <i>failed</i>" in many
