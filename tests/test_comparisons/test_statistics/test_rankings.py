import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.measures import measures_named
from comparisons.plots import comparison_figure, draw_measure
from comparisons.statistics import rank_measures
from comparisons.statistics.permutation import holm
from comparisons.statistics.rank_correlation import kendall, spearman
from comparisons.statistics.rankings import agreement, ends_of, spearman_like
from comparisons.statistics.resampling import kendalls_of, multiplicities, spearmans_of
from comparisons.targets import target_values
from spectra.files import Provenance

TRACE, MASS = measures_named(["hessian-trace"])[0], measures_named(["quadratic-mass"])[0]


def made(traces: np.ndarray, gaps: np.ndarray, kinds: list[str] | None = None) -> Comparison:
    rows = []
    for place, (value, gap) in enumerate(zip(traces, gaps, strict=True)):
        outcomes = {
            TRACE.name: Outcome(Reading(value), ComputeCost()),
            MASS.name: Outcome(Reading(-value), ComputeCost()),
        }
        labels = {} if kinds is None else {"kind": kinds[place]}
        provenance = Provenance(f"run{place}.pt", "")
        rows.append(Examined(provenance, cost=0.0, held_out_cost=gap, outcomes=outcomes, hyperparameters=labels))
    return Comparison(EvidenceSettings(), (TRACE.name, MASS.name), tuple(rows))


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_against_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 6, 15).astype(float), generator.integers(0, 4, 15).astype(float)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_flatter_with_the_smaller_gap_is_positive_either_way() -> None:
    x = np.arange(6.0)
    found = rank_measures(made(x, x**2), [TRACE, MASS])
    # Of 720 orders two are as extreme.
    for ranking in found:
        assert (ranking.tau, ranking.rho) == pytest.approx((1.0, 1.0))
        assert ranking.p == pytest.approx(2.0 / 720.0)
        assert ranking.p_holm == pytest.approx(4.0 / 720.0)
    turned = rank_measures(made(x, -x), [TRACE])[0]
    assert turned.tau == pytest.approx(-1.0)


def test_chance_is_uniform_and_intervals_cover() -> None:
    generator, low, covered = np.random.default_rng(0), 0, 0
    for seed in range(60):
        found = rank_measures(made(generator.normal(size=8), generator.normal(size=8)), [TRACE], seed=seed)[0]
        low += found.p <= 0.2
        covered += found.tau_interval[0] <= 0.0 <= found.tau_interval[1]
    # Binomial(60, 0.2): at most 28 but for 2e-5; a percentile interval of 8 points covers in 70 % at the least.
    assert low <= 28
    assert covered >= 42


@pytest.mark.sampled(5)
@pytest.mark.parametrize("count", [4, 5, 8, 20])
@pytest.mark.parametrize("tau", [0.0, 0.6, 0.9, 0.99])
def test_intervals_of_few_and_of_nearly_perfect_orders_cover(count: int, tau: float) -> None:
    """Normal columns of a known tau, 400 samples: 95 % coverage falls below 90 % with probability 2e-6."""
    generator, slope = np.random.default_rng(count), np.sin(np.pi * tau / 2.0)
    covered = np.zeros(2)
    for _ in range(400):
        x = generator.normal(size=count)
        y = slope * x + np.sqrt(1.0 - slope**2) * generator.normal(size=count)
        counts, found = multiplicities(np.arange(count), 200, generator), kendall(x, y)
        low, high = ends_of(kendalls_of(x, y, counts), found, count)
        assert -1.0 <= low < high <= 1.0
        covered[0] += low <= tau <= high
        low, high = ends_of(spearmans_of(x, y, counts), found, count, spearman_like)
        covered[1] += low <= spearman_like(tau) <= high
    assert (covered >= 360).all()


@pytest.mark.parametrize("count", [4, 6, 10, 30])
def test_a_perfect_order_is_not_certain(count: int) -> None:
    """Poisson's limit of no event is log 40 at 97.5 %: of so many pairs they are that share."""
    x = np.arange(float(count))
    for sign in (1.0, -1.0):
        found = rank_measures(made(x, sign * x), [TRACE])[0]
        least = max(1.0 - 2.0 * np.log(40.0) / (count * (count - 1) / 2.0), -1.0)
        expected = sorted((sign * least, sign))
        assert found.tau_interval == pytest.approx(expected, abs=1e-9)
        assert found.rho_interval == pytest.approx(sorted((sign * spearman_like(least), sign)), abs=1e-9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_labels_and_what_cannot_be_ranked() -> None:
    x = np.arange(5.0)
    labelled = made(x, x, ["clean", "clean", "poisoned", "poisoned", "poisoned"])
    assert target_values(labelled, "kind").tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="against width: no checkpoint has it"):
        target_values(labelled, "width")
    with pytest.raises(ValueError, match="must have two values"):
        target_values(made(x[:3], x[:3], ["a", "b", "c"]), "kind")
    with pytest.raises(ValueError, match="no checkpoint has held-out data"):
        target_values(made(x, x * np.nan), "gap")
    with pytest.raises(ValueError, match="against error-gap: no checkpoint has held-out data with classes"):
        target_values(made(x, x), "error-gap")
    with pytest.raises(ValueError, match="at least 4 checkpoints with a value of gap, got 2"):
        rank_measures(made(x[:2], x[:2]), [TRACE])


def test_agreement_turns_signs() -> None:
    matrix = agreement(made(np.array([1.0, 3.0, 2.0]), np.zeros(3)), [TRACE, MASS])
    assert matrix == pytest.approx(np.ones((2, 2)))


def test_a_panel_shows_each_value_at_its_gap() -> None:
    comparison, figure = made(np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.3, 0.2])), Figure()
    trace, mass = figure.subplots(1, 2)
    draw_measure(trace, comparison, measure=TRACE.name)
    draw_measure(mass, comparison, measure=MASS.name)
    points = [container.lines[0].get_xydata()[0].tolist() for container in trace.containers]
    assert points == [[0.1, 1.0], [0.3, 2.0], [0.2, 4.0]]
    assert "flatter: larger" in mass.get_title()
    assert trace.get_xlabel().startswith("held-out less training cost")
    with pytest.raises(ValueError, match="nothing to draw"):
        comparison_figure(made(np.array([np.nan]), np.array([0.1])))
