"""The figure of a comparison: what stands where, for one, a few and many checkpoints."""

from dataclasses import replace

import numpy as np
import pytest

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.plots import comparison_figure
from spectra.files import Provenance

NAMES = ("hessian-trace", "largest-eigenvalue", "margin", "star-domain")


def made(columns: dict[str, list[Reading | None]], gaps: list[float] | None = None) -> Comparison:
    count = len(next(iter(columns.values())))
    found = []
    for place in range(count):
        readings = {name: column[place] for name, column in columns.items()}
        outcomes = {name: Outcome(one, ComputeCost(), "" if one else "none") for name, one in readings.items()}
        gap = float("nan") if gaps is None else gaps[place]
        found.append(Examined(Provenance(f"run{place}.pt", ""), cost=0.0, held_out_cost=gap, outcomes=outcomes))
    return Comparison(EvidenceSettings(), tuple(columns), tuple(found))


def markers(axes) -> list[tuple[float, bool]]:
    """Where points stand, and whether they are filled."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1]
    return [(float(line.get_xdata()[0]), line.get_markerfacecolor() != "white") for line in lines]


def labels(axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def test_a_few_stand_over_the_first_and_logarithms_beside_it() -> None:
    pair = made(
        {
            "hessian-trace": [Reading(2.0, 0.1), Reading(6.0, cautions=("not sure",))],
            "star-domain": [Reading(-100.0), Reading(-130.0)],
            "margin": [Reading(1.0), Reading(-0.5)],
        }
    )
    figure = comparison_figure(pair)
    ratio, signed, nats = figure.axes
    assert markers(ratio) == [(1.0, True), (3.0, False)]
    assert ratio.get_xscale() == "log"
    assert labels(ratio) == ["curvature", "trace of the Hessian (cost / parameter²) ↓"]
    # 95 % of a normal error, over the first value.
    bar = next(line for line in ratio.lines if len(line.get_xdata()) == 2 and line.get_color() == "#0072B2")
    assert np.asarray(bar.get_xdata()) == pytest.approx([1.0 - 0.098, 1.0 + 0.098], abs=1e-3)
    assert markers(signed) == [(1.0, True), (-0.5, True)]
    assert signed.get_xscale() == "linear"
    assert markers(nats) == [(0.0, True), (-30.0, True)]
    assert "(nat)" in nats.get_xlabel()
    assert [text.get_text() for text in ratio.get_legend().get_texts()] == ["run0", "run1"]


def test_what_has_no_ratio_is_named() -> None:
    columns = {
        "hessian-trace": [Reading(0.0), Reading(6.0), Reading(1.0)],
        "margin": [None, Reading(1.0), Reading(1.0)],
        "largest-eigenvalue": [Reading(2.0), None, Reading(2.0)],
    }
    figure = comparison_figure(made(columns))
    (axes,) = figure.axes
    words = figure._supxlabel.get_text()
    assert "trace of the Hessian (0 at run0: no ratio to it)" in " ".join(words.split())
    assert "margin, 10th percentile (no value at run0)" in " ".join(words.split())
    assert "no value: run1" in [text.get_text() for text in axes.texts]


def test_what_does_not_compare_is_not_drawn() -> None:
    pair = made({"hessian-trace": [Reading(2.0), Reading(6.0)], "star-domain": [Reading(-100.0), Reading(-130.0)]})
    first, second = pair.checkpoints
    apart = replace(pair, checkpoints=(replace(first, size=10), replace(second, size=20)))
    assert len(comparison_figure(pair).axes) == 2
    figure = comparison_figure(apart)
    words = " ".join(figure._supxlabel.get_text().split())
    assert len(figure.axes) == 1
    assert "log mass of the star domain (networks of different sizes do not compare)" in words
    assert "the checkpoints have different numbers of parameters (10, 20)" in words


def test_one_is_a_table_of_values() -> None:
    alone = made({"hessian-trace": [Reading(2.0, 0.1)], "margin": [Reading(1.5)]})
    (axes,) = comparison_figure(alone).axes
    texts = [text.get_text() for text in axes.texts]
    assert any(text.startswith("2.0") and "±" in text for text in texts)
    assert " no sampling error" in texts
    assert [at for at, _ in markers(axes)] == pytest.approx([0.098], abs=1e-3)


def test_panels_come_from_six_on_with_tau() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 6.0, 5.0]
    columns = {"hessian-trace": list(map(Reading, values)), "margin": [Reading(-one) for one in values]}
    gaps = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    many = made(columns, gaps)
    trace, margin = comparison_figure(many).axes
    # Of 15 pairs one is turned; a larger margin is flatter.
    assert "tau +0.87" in trace.get_title()
    assert "tau +0.87" in margin.get_title()
    few = replace(many, checkpoints=many.checkpoints[:5])
    assert len(comparison_figure(few).axes) == 1
    without = made(columns)
    assert "ratio to run0" in comparison_figure(without).axes[0].get_xlabel()
