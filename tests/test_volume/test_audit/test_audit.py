"""The audit itself: planted noise and bias are found, truths agree with independent ones, facts come out."""

import dataclasses
import math

import h5py
import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chi2

from volume.audit import (
    BY_NAME,
    SETS,
    STAR,
    SUBLEVEL,
    TRACE,
    VOLUME,
    AuditCase,
    AuditReading,
    AuditReport,
    AuditRow,
    AuditTable,
    NotApplicable,
    Share,
    Truth,
    audit,
    audit_figure,
    bridge_truth,
    degenerate_case,
    estimators,
    is_audit_file,
    known_cases,
    measured_case,
    read_report,
    sampler_facts,
    wells_case,
    write_report,
)
from volume.audit.cases import ball_case, ellipsoid_case, power_case, thin_star_case
from volume.audit.convolution import log_product_wells
from volume.audit.facts import HOLDS
from volume.audit.reading import DETERMINANT
from volume.audit.spectral import CountingOperator
from volume.audit.statistics import directions_needed, error_by_directions

BALL = ball_case(2)
TRUTH = BALL.truths[VOLUME].value


def planted(bias: float, told: float = 0.5):
    """Normal noise of standard deviation 0.5 around the truth plus a bias."""

    def estimator(case: AuditCase, seed: int) -> AuditReading:
        noise = 0.5 * np.random.default_rng(seed).standard_normal()
        return AuditReading(case.truths[VOLUME].value + bias + noise, told)

    return estimator


def lognormal_terms(deviation: float, count: int):
    """Unbiased terms ``exp(N(-v/2, v))`` times the truth."""

    def estimator(case: AuditCase, seed: int) -> AuditReading:
        draws = np.random.default_rng(seed).standard_normal(count)
        terms = case.truths[VOLUME].value + deviation * draws - deviation**2 / 2
        return AuditReading(float(logsumexp(terms)) - math.log(count), log_terms=terms)

    return estimator


def test_planted_noise_without_bias_is_found_unbiased_and_covered() -> None:
    """400 repeats: bias and spread within 4 errors (6e-5 each); 95 % coverage within 4.4 of its own (1e-5)."""
    row = audit([BALL], {"mine": planted(0.0)}, repeats=400).rows[0]
    assert abs(row.bias.value) < 4.0 * row.bias.error
    assert row.bias.error == pytest.approx(0.5 / math.sqrt(400), rel=0.15)
    assert abs(row.spread.value - 0.5) < 4.0 * row.spread.error
    assert row.spread.error == pytest.approx(0.5 / math.sqrt(2 * 400), rel=0.4)
    assert row.rms.value == pytest.approx(0.5, rel=0.16)
    assert abs(row.coverage.value - 0.95) < 4.4 * math.sqrt(0.95 * 0.05 / 400)
    assert not row.biased


def test_a_planted_bias_is_caught_and_not_covered() -> None:
    row = audit([BALL], {"mine": planted(1.0)}, repeats=60).rows[0]
    assert row.biased
    # 4 errors either way: 6e-5.
    assert abs(row.bias.value - 1.0) < 4.0 * row.bias.error
    # Its bars hold the truth with probability 0.48: 47 or more of 60 would have 1e-6.
    assert row.coverage.hits < 47


def test_bars_that_are_too_short_are_caught() -> None:
    row = audit([BALL], {"mine": planted(0.0, told=0.1)}, repeats=60).rows[0]
    assert row.coverage.interval[1] < 0.95
    assert not row.biased


def test_an_estimator_is_held_against_the_truth_of_the_set_that_it_claims() -> None:
    """Truths 5 nats apart: each estimator meets its own; one above its superset is caught, one below is not."""
    whole, star = Truth(-10.0, 0.0, "given"), Truth(-15.0, 0.0, "given", of=STAR)
    both, upper, lower = (
        dataclasses.replace(BALL, name=name, truths={VOLUME: whole} if sub else {}, star=star if arms else None)
        for name, sub, arms in (("both", True, True), ("upper", True, False), ("lower", False, True))
    )

    def claiming(value: float, claims: str):
        return lambda case, seed: AuditReading(value + 1e-3 * (-1) ** seed, claims=claims)  # noqa: ARG005

    said = {f"{claims} {value:g}": claiming(value, claims) for claims in SETS for value in (-9.0, -12.0, -16.0)}
    table = audit([both, upper, lower], said, repeats=2)
    biases = {name: table.row("both", name).bias.value for name in said}
    for name, bias in biases.items():
        claims, value = name.split()
        assert bias == pytest.approx(float(value) - {"sublevel": -10.0, "star": -15.0}[claims])
    assert table.row("upper", "star -9").truth is None
    assert math.isnan(table.row("upper", "star -9").bias.value)
    assert table.row("upper", "star -9").bound == dataclasses.replace(whole, of=SUBLEVEL)
    outside = {(row.case, row.estimator) for row in table.rows if row.outside}
    assert outside == {("upper", "star -9"), ("lower", "sublevel -16")}
    # A truth that becomes known later is taken up by readings that are there.
    again = audit([dataclasses.replace(both, name="upper")], said, repeats=2, earlier=table)
    assert again.row("upper", "star -9").bias.value == pytest.approx(6.0)
    assert audit_figure(table).axes[1].get_xlabel().endswith("hollow: less a bound")


def test_the_sublevel_sets_of_known_cases_are_star_domains() -> None:
    """The cost never falls along 8 rays from the anchor of each case, so that one truth is of both sets."""
    for case in known_cases():
        source = torch.Generator().manual_seed(0)
        rays = torch.randn(8, case.size, generator=source, dtype=torch.float64)
        steps = torch.linspace(0.0, 3.0, 11, dtype=torch.float64)
        costs = torch.stack([case.surface.costs(case.surface.theta + step * rays) for step in steps])
        assert bool((costs.diff(dim=0) >= -1e-9 * costs[1:].abs()).all()), case.name
        assert case.known(VOLUME, STAR) == case.known(VOLUME, SUBLEVEL) == (case.truths[VOLUME], None)


def test_few_repeats_accuse_nobody() -> None:
    """3 errors of 3 repeats are no evidence: with Student's t 0.27 % are accused, of 500 at most 8 but for 1e-4."""
    accused = [audit([BALL], {"mine": planted(0.0)}, repeats=3, seed=3 * j).rows[0].biased for j in range(500)]
    assert sum(accused) <= 8


def test_jensen_gap_and_markov_on_lognormal_estimates() -> None:
    """A single log-normal term: the gap is v/2, and Markov's bound is kept with room."""
    row = audit([BALL], {"mine": lognormal_terms(1.0, 1)}, repeats=1000).rows[0]
    error = math.hypot(row.jensen_seen.error, row.jensen_predicted.error)
    assert abs(row.jensen_seen.value - row.jensen_predicted.value) < 4.0 * error
    assert row.jensen_predicted.value == pytest.approx(0.5, rel=0.2)
    for share, factor in zip(row.overestimates, (2.0, 10.0), strict=True):
        assert not share.excludes(1.0 / factor)
    assert row.largest_share.value == pytest.approx(1.0)


def test_a_biased_estimate_breaks_markov() -> None:
    row = audit([BALL], {"mine": planted(2.0)}, repeats=40).rows[0]
    assert row.overestimates[0].excludes(0.5)


def test_directions_needed_agree_with_drawing_them() -> None:
    """Extrapolated from 64 directions of log-normal terms, v = 16, within a factor of 10 of what drawing more says."""
    deviation = 4.0
    few = audit([BALL], {"mine": lognormal_terms(deviation, 64)}, repeats=200).rows[0]
    assert few.directions_needed.extrapolated
    many = audit([BALL], {"mine": lognormal_terms(deviation, 2**14)}, repeats=60).rows[0]
    assert not many.directions_needed.extrapolated
    assert abs(few.directions_needed.log10 - many.directions_needed.log10) < 1.0


def test_the_curve_starts_with_single_terms() -> None:
    terms = [np.array([-2.0, -1.0]), np.array([-4.0, -1.0])]
    counts, means, roots = error_by_directions(terms, 0.0)
    assert counts.tolist() == [1, 2]
    assert means[0] == pytest.approx(-3.0)
    assert roots[0] == pytest.approx(math.sqrt(10.0))
    assert math.isnan(directions_needed(counts, np.array([np.inf, 0.0])).log10)


def test_wilson_interval_of_all() -> None:
    """Wilson's lower end for n of n is ``n / (n + z^2)``."""
    assert Share(20, 20).interval[0] == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)


def test_product_wells_against_chi_square_and_the_bounds_close_in() -> None:
    size, cutoff = 12, 3.0

    def inner(y: np.ndarray) -> np.ndarray:
        return chi2.cdf(2.0 * y, 1)

    exact = math.log(chi2.cdf(2.0 * cutoff, size))
    errors = []
    for cells in (2**10, 2**14):
        value, error = log_product_wells(inner, size, cutoff, cells=cells)
        assert abs(value - exact) <= error
        errors.append(error)
    assert errors[1] < 0.1 * errors[0]


def test_the_thin_star_by_direct_integration() -> None:
    """``V = V_n E[exp(n a t^2)]``, t a coordinate on the sphere, of density ``(1 - t^2)^((n - 3) / 2)``."""
    case = thin_star_case(20, 1.0)
    t, weights = np.polynomial.legendre.leggauss(400)
    density = (1.0 - t**2) ** 8.5
    mean = (weights @ (density * np.exp(20.0 * t**2))) / (weights @ density)
    ball = 10.0 * math.log(math.pi) - math.lgamma(11.0)
    assert case.truths[VOLUME].value == pytest.approx(ball + math.log(mean), abs=1e-9)
    # Its cost is the cutoff on the boundary.
    edge = torch.zeros(1, 20, dtype=torch.float64)
    edge[0, 0] = math.exp(1.0)
    assert float(case.surface.costs(edge)[0]) == pytest.approx(case.cutoff)


def test_truths_of_cases_by_brute_force() -> None:
    """Draws of the prior on the degenerate case and the wells, both of one part in a thousand or more: 4 errors."""
    source = torch.Generator().manual_seed(1)
    for case in (degenerate_case(12, 4, 0.5), wells_case(4, 2.0, 1.5)):
        draws = case.prior.sample(source, 200_000, case.size)
        share = float((case.surface.costs(draws) < case.cutoff).double().mean())
        error = math.sqrt((1.0 - share) / (share * 200_000))
        assert share > 1e-3
        assert abs(math.log(share) - case.truths[VOLUME].value) < 4.0 * error + case.truths[VOLUME].error


def test_trace_and_determinant_of_cases_are_those_of_the_matrix() -> None:
    case = ellipsoid_case("e", np.linspace(0.5, 2.0, 30))
    matrix = case.curvature.to_dense()
    assert float(matrix.trace()) == pytest.approx(case.truths[TRACE].value)
    shifted = matrix + case.shift * torch.eye(30, dtype=torch.float64)
    assert float(torch.linalg.slogdet(shifted)[1]) == pytest.approx(case.truths[DETERMINANT].value)


def test_a_measured_spectrum_keeps_its_eigenvalues_on_the_random_basis() -> None:
    values = np.concatenate([np.zeros(900), np.logspace(-6, 0, 124)])
    case = measured_case("m", values)
    found = torch.linalg.eigvalsh(case.curvature.to_dense())
    assert np.allclose(found.numpy(), np.sort(values), atol=1e-12)
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_product = 0.5 * (case.curvature.matmat(x) * x).sum(-1)
    assert torch.allclose(case.surface.costs(case.surface.theta + x), by_product)


@pytest.fixture(scope="module")
def table() -> AuditTable:
    cases = [ellipsoid_case("ellipsoid", np.linspace(0.85, 1.15, 40)), degenerate_case(12, 4), power_case(4.0, 10)]
    every = estimators(directions=200, products=12)
    return audit(cases, {name: every[name] for name in every if name not in BY_NAME}, repeats=12)


def test_unbiased_estimators_are_found_so(table: AuditTable) -> None:
    """Where log terms hardly spread nothing is biased by 5 errors and 0.05 nat (1e-5 by Student's t, 12 repeats)."""
    for name in ("identity", "diagonal", "low-rank", "full"):
        row = table.row("ellipsoid", f"star-domain/{name}")
        assert abs(row.bias.value) < 5.0 * row.bias.error + 0.05
        assert row.directions_needed.log10 < 1.5
    for name in ("hutchinson", "hutch++", "xtrace"):
        assert not table.row("ellipsoid", f"trace/{name}").biased
    assert table.row("degenerate-12", "quadratic-mass").rms.value < 0.5


def test_the_primers_shift_is_biased_and_the_derived_one_less(table: AuditTable) -> None:
    chosen = table.row("degenerate-12", "shifted-determinant")
    derived = table.row("degenerate-12", "shifted-determinant/derived")
    assert chosen.biased
    assert chosen.bias.value < derived.bias.value < 0.0
    assert not table.row("degenerate-12", "ellipsoid-slice").consistent


@pytest.mark.slow
def test_the_bridge_agrees_with_a_truth_that_is_not_quadratic() -> None:
    """5.5 of its own errors, from 16 chains: below 1e-4 by Student's t of 15 degrees of freedom."""
    case = wells_case()
    truth = bridge_truth(case.landscape, case.prior, case.cutoff)
    assert truth.error < 0.2
    assert abs(truth.value - case.truths[VOLUME].value) < 5.5 * truth.error
    reading = estimators()["bridge"](case, 0)
    assert (reading.value, reading.standard_error) == (truth.value, truth.error)
    assert reading.gradients > 0
    with pytest.raises(NotApplicable, match="gaussian prior"):
        estimators()["bridge"](BALL, 0)


def test_what_does_not_apply_is_skipped_with_its_reason(table: AuditTable) -> None:
    row = table.row("l4-ball-10", "quadratic-mass")
    assert not row.readings
    assert "no curvature" in row.skipped
    assert "gaussian" in table.row("ellipsoid", "quadratic-mass").skipped


def test_costs_are_counted(table: AuditTable) -> None:
    plain, diagonal = (table.row("ellipsoid", f"star-domain/{name}") for name in ("identity", "diagonal"))
    assert 3 * 200 < plain.evaluations < 12 * 200
    # The search of eps is part of the cost, and so are n products for the diagonal.
    assert diagonal.evaluations > plain.evaluations + 8 * 32 * 3
    assert diagonal.gradients == 2.0 * 40
    assert table.row("ellipsoid", "trace/hutchinson").gradients == 2.0 * 12


def test_estimators_of_one_seed_share_a_spectrum_and_each_counts_its_whole_cost() -> None:
    names = ("shifted-determinant", "shifted-determinant/derived", "quadratic-mass")
    rows = {name: estimators(probes=4, steps=8)[name] for name in names}

    def counted_case() -> tuple[AuditCase, CountingOperator]:
        case = degenerate_case()
        operator = CountingOperator(case.curvature)
        return dataclasses.replace(case, operator=operator), operator

    together, operator = counted_case()
    found = audit([together], rows, repeats=2)
    alone, products = [], []
    for name in names:
        case, one = counted_case()
        alone.append(audit([case], {name: rows[name]}, repeats=2).rows[0])
        products.append(one.products)
    # The anchor's run and the densities of two seeds, once for all three.
    assert operator.products == max(products) > 0
    assert [row.record() for row in found.rows] == [row.record() for row in alone]
    assert alone[0].readings[0].value != alone[0].readings[1].value


def test_stored_and_read_is_the_same(table: AuditTable, tmp_path) -> None:
    path = tmp_path / "audit.h5"
    write_report(path, AuditReport(table, (), "a test", "command", ("note",)))
    assert is_audit_file(path)
    again = read_report(path)
    assert (again.title, again.notes) == ("a test", ("note",))
    for one, other in zip(table.rows, again.table.rows, strict=True):
        assert (one.case, one.estimator, one.skipped, one.truth) == (
            other.case,
            other.estimator,
            other.skipped,
            other.truth,
        )
        assert np.array_equal(one.values, other.values)
        assert one.coverage == other.coverage
        assert str(one.directions_needed) == str(other.directions_needed)
    kept = audit([BALL], {"mine": planted(0.0)}, repeats=12)
    calls: list[int] = []

    def never(case: AuditCase, seed: int) -> AuditReading:
        calls.append(seed)
        raise AssertionError

    assert audit([BALL], {"mine": never}, repeats=12, earlier=kept).rows == kept.rows
    assert not calls


def test_a_file_from_before_freedom_and_strategy_were_recorded_opens(table: AuditTable, tmp_path) -> None:
    path, removed = tmp_path / "audit.h5", []
    write_report(path, AuditReport(table, (), "a test", "command", ()))

    def remove(_: str, group: h5py.Group) -> None:
        for name in {"strategy", "truth_freedom"} & set(group.attrs):
            del group.attrs[name]
            removed.append(name)

    with h5py.File(path, "r+") as file:
        remove("", file)
        file.visititems(remove)
    assert set(removed) == {"strategy", "truth_freedom"}
    again = read_report(path)
    assert again.strategy == ""
    assert all(row.truth is None or math.isinf(row.truth.freedom) for row in again.table.rows)


def test_the_figure_has_a_panel_a_case_and_the_truth(table: AuditTable) -> None:
    figure = audit_figure(table)
    assert len(figure.axes) == 3
    place = [axes.get_title().split(",")[0] for axes in figure.axes].index("ellipsoid")
    volumes = [row for row in table.applied if row.case == "ellipsoid" and row.quantity == VOLUME]
    labels = [label.get_text() for label in figure.axes[place].get_yticklabels()]
    assert labels == [row.estimator for row in volumes]
    assert any(np.allclose(line.get_xdata(), 0.0) and len(line.get_xdata()) == 2 for line in figure.axes[place].lines)


def test_the_figure_names_what_it_cannot_draw(table: AuditTable) -> None:
    """Estimates without an end, rows that have no other, and quantities that are no log-volumes."""
    endless, partly = (
        AuditRow(BALL.name, 2, name, tuple(AuditReading(value) for value in values), BALL.truths[VOLUME])
        for name, values in (("endless", (math.inf, math.inf)), ("partly", (0.5, math.inf)))
    )
    figure = audit_figure(AuditTable((*table.rows, endless, partly), table.repeats, 0))
    places = {axes.get_title().split(",")[0]: axes for axes in figure.axes}
    labels = [label.get_text() for label in places[BALL.name].get_yticklabels()]
    assert labels[-2:] == ["endless (2 infinite)", "partly (1 infinite)"]
    others = {row.estimator for row in table.applied if row.quantity != VOLUME}
    assert others
    assert all(name in " ".join(figure.get_supxlabel().split()) for name in others)


def test_the_facts() -> None:
    """Seed 0 is fixed; each verdict allows 4 standard errors."""
    facts = {fact.letter: fact for fact in sampler_facts(0)}
    assert list(facts) == list("abcdefg")
    for letter in "abefg":
        assert facts[letter].verdict == HOLDS, facts[letter]
    assert "not where v is about 1" in facts["c"].verdict
    assert "n^2, not n^3" in facts["d"].verdict
    assert facts["f"].value == pytest.approx(0.5, abs=0.15)


def test_known_cases_have_truths_and_names_of_their_own() -> None:
    cases = known_cases({"measured": np.linspace(0.0, 1.0, 30)})
    assert len({case.name for case in cases}) == len(cases)
    assert {case.size for case in cases} >= {2, 100_000}
    assert all(math.isfinite(case.truths[VOLUME].value) and case.truths[VOLUME].error < 0.01 for case in cases)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 2, got 1"):
        audit([BALL], {}, repeats=1)
    with pytest.raises(ValueError, match="earlier table has 2 repeats"):
        audit([BALL], {}, repeats=3, earlier=AuditTable((), 2, 0))
    with pytest.raises(ValueError, match="quantity must be one of"):
        AuditReading(1.0, quantity="volume")
    with pytest.raises(ValueError, match="a truth must be finite"):
        Truth(math.nan, 0.0, "nowhere")
    with pytest.raises(ValueError, match="cutoff must be positive"):
        log_product_wells(np.sqrt, 2, 0.0)
    with pytest.raises(KeyError, match="no row"):
        AuditTable((), 2, 0).row("a", "b")

    def mixed(case: AuditCase, seed: int) -> AuditReading:
        return AuditReading(1.0, quantity=TRACE if seed else VOLUME)

    with pytest.raises(ValueError, match="must keep to one quantity"):
        audit([BALL], {"mixed": mixed}, repeats=2)

    def useless(case: AuditCase, seed: int) -> AuditReading:
        raise NotApplicable("nothing to say")

    assert audit([BALL], {"useless": useless}, repeats=2).rows[0].skipped == "nothing to say"
