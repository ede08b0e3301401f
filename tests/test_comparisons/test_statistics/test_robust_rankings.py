"""Rankings once something is held fixed: permutations of wholes, partial correlations, the worst pair's sign error."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.findings import findings_of
from comparisons.flatness import Reading
from comparisons.measures import measures_of
from comparisons.statistics import granulated_rankings, partial_rankings, rank_measures
from comparisons.statistics.permutation import PERMUTATIONS, block_orders, permutation_chance
from comparisons.statistics.rank_correlation import kendall, partial, spearman
from comparisons.statistics.worst_pairs import noise_weights, sign_errors
from spectra.files import Provenance

NAMES = ("hessian-trace", "largest-eigenvalue", "quadratic-mass")
GRID = list(itertools.product(range(2), range(3), range(2)))
CODES = {name: np.array([row[i] for row in GRID]) for i, name in enumerate(("width", "rate", "batch"))}


def made(columns: dict[str, np.ndarray], gaps: np.ndarray, costs: np.ndarray, rows: list[dict]) -> Comparison:
    done = []
    for place, (gap, cost, known) in enumerate(zip(gaps, costs, rows, strict=True)):
        outcomes = {name: Outcome(Reading(float(values[place])), ComputeCost()) for name, values in columns.items()}
        scores = {"cost": cost, "held_out_cost": cost + gap, "error": 0.0, "held_out_error": 0.1 * gap}
        done.append(
            Examined(
                Provenance(f"run{place}.pt", ""),
                held_out_samples=1000.0,
                hyperparameters=known,
                outcomes=outcomes,
                **scores,
            )
        )
    return Comparison(EvidenceSettings(), tuple(columns), tuple(done))


# Permutations


@pytest.mark.parametrize("seed", range(4))
def test_single_checkpoints_against_scipys_exact_p(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=7), generator.normal(size=7)
    found = permutation_chance(x, y, np.arange(7), generator)
    assert found == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue)


def test_blocks_exchange_as_wholes_by_brute_force() -> None:
    # Three blocks of two, two of three, one alone: 3! x 2! orders, each block's members in their order.
    wholes = np.array([0, 1, 0, 2, 3, 1, 2, 3, 3, 4, 4, 4, 5])
    generator = np.random.default_rng(0)
    orders, exact = block_orders(wholes, generator)
    assert exact
    expected = set()
    places = [np.flatnonzero(wholes == number) for number in range(6)]
    for pairs in itertools.permutations((0, 1, 2)):
        for triples in itertools.permutations((3, 4)):
            order = np.empty(13, dtype=int)
            for block, source in zip((0, 1, 2, 3, 4, 5), (*pairs, *triples, 5), strict=True):
                order[places[block]] = places[source]
            expected.add(tuple(order.tolist()))
    assert {tuple(order) for order in orders.tolist()} == expected
    assert len(orders) == 12
    x, y = generator.normal(size=13), generator.normal(size=13)
    own = abs(stats.kendalltau(x, y).statistic)
    share = np.mean([abs(stats.kendalltau(x, y[list(order)]).statistic) >= own - 1e-12 for order in expected])
    assert permutation_chance(x, y, wholes, generator) == pytest.approx(share)


def test_many_blocks_are_drawn_at_random() -> None:
    wholes = np.repeat(np.arange(8), 2)
    orders, exact = block_orders(wholes, np.random.default_rng(0))
    assert not exact
    assert orders.shape == (PERMUTATIONS, 16)
    assert (np.sort(orders, axis=1) == np.arange(16)).all()
    assert (orders[:, 0::2] % 2 == 0).all()
    assert (orders[:, 1::2] == orders[:, 0::2] + 1).all()
    # Each block comes first in an eighth of the draws: 4.5 standard errors of a binomial count fail in 7e-6, times 8.
    counts = np.bincount(orders[:, 0] // 2, minlength=8)
    assert np.abs(counts - PERMUTATIONS / 8).max() < 4.5 * math.sqrt(PERMUTATIONS * 7 / 64)


@pytest.mark.slow
def test_seeds_of_one_configuration_are_no_evidence() -> None:
    # Seeds that are copies: 12 configurations by chance, each 5 times. By checkpoint tau looks sure far too often.
    generator, low, wrongly = np.random.default_rng(0), 0, 0
    wholes = np.repeat(np.arange(12), 5)
    for _ in range(60):
        x, y = (np.repeat(generator.normal(size=12), 5) + 1e-3 * generator.normal(size=60) for _ in range(2))
        low += permutation_chance(x, y, wholes, generator) <= 0.2
        wrongly += stats.kendalltau(x, y).pvalue <= 0.2
    # Binomial(60, 0.2): at most 26 but for 9e-5.
    assert low <= 26
    assert wrongly > 30


# Given a column


@pytest.mark.parametrize("seed", range(4))
def test_partial_spearman_is_the_correlation_of_residual_ranks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    z = generator.integers(0, 5, 20).astype(float)
    x, y = (z + generator.normal(size=20)).round(), z - generator.normal(size=20)
    ranks = [stats.rankdata(values) for values in (x, y)]
    design = np.stack([np.ones(20), stats.rankdata(z)], axis=1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks]
    found = partial(spearman(x, y), spearman(x, z), spearman(y, z))
    assert found == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_partial_kendall_is_the_association_of_agreements(seed: int) -> None:
    # Kendall's own definition: over pairs, whether x agrees with z against whether y does, as a fourfold table.
    generator = np.random.default_rng(seed)
    x, y, z = generator.normal(size=(3, 14))
    table = np.zeros((2, 2))
    for i, j in itertools.combinations(range(14), 2):
        with_x, with_y = ((values[i] - values[j]) * (z[i] - z[j]) > 0 for values in (x, y))
        table[int(with_x), int(with_y)] += 1
    (a, b), (c, d) = table
    association = (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    assert partial(kendall(x, y), kendall(x, z), kendall(y, z)) == pytest.approx(association, abs=1e-12)


def test_what_only_follows_the_cost_is_left_with_nothing() -> None:
    # x and y follow the cost, each with noise of its own: tau is high, and given the cost it is 0 within its interval.
    generator = np.random.default_rng(0)
    cost = np.arange(40.0)
    x, y = (cost + 6.0 * generator.normal(size=40) for _ in range(2))
    mass = -(y + 0.01 * generator.normal(size=40))
    comparison = made({"hessian-trace": x, "quadratic-mass": mass}, y, cost, [{}] * 40)
    trace, same = partial_rankings(comparison, measures_of(NAMES), "gap", "loss")
    assert kendall(x, y) > 0.5
    assert trace.tau_interval[0] < 0.0 < trace.tau_interval[1]
    assert abs(trace.tau) < 0.25
    assert not trace.reversed
    # A larger mass is flatter: its sign is turned, and it tells the gap whatever the cost.
    assert same.tau > 0.9
    assert same.tau_interval[0] > 0.5
    expected = [stats.kendalltau(*pair).statistic for pair in ((x, y), (x, cost), (y, cost))]
    assert trace.tau == pytest.approx(partial(*expected))
    assert trace.rho == pytest.approx(partial(*(stats.spearmanr(*p).statistic for p in ((x, y), (x, cost), (y, cost)))))


def test_a_reversal_is_marked() -> None:
    # Within each cost the measure falls as the gap rises, over costs both rise: Simpson's paradox.
    cost = np.repeat(np.arange(6.0), 6)
    inner = np.tile(np.arange(6.0), 6) + 1e-3 * np.random.default_rng(0).normal(size=36)
    comparison = made({"hessian-trace": 10.0 * cost - inner}, 10.0 * cost + inner, cost, [{}] * 36)
    (found,) = partial_rankings(comparison, measures_of(NAMES), "gap", "loss")
    assert rank_measures(comparison, measures_of(NAMES))[0].tau > 0.5
    assert found.tau < -0.5
    assert found.reversed


def test_columns_that_cannot_be_given() -> None:
    x = np.arange(6.0)
    comparison = made({"hessian-trace": x, "largest-eigenvalue": x[::-1]}, x, np.ones(6), [{"rate": 0.1}] * 6)
    measures = measures_of(NAMES)
    for given, sentence in (("gap", "another column"), ("loss", "is the same at all"), ("colour", "no checkpoint has")):
        with pytest.raises(ValueError, match=sentence):
            partial_rankings(comparison, measures, "gap", given)
    # The column itself is left out, and so is what it decides.
    assert partial_rankings(comparison, measures, "gap", "hessian-trace") == ()
    rankings = rank_measures(comparison, measures)
    assert findings_of(comparison, "gap", rankings).partials == ()
    with pytest.raises(ValueError, match="given rate need at least 4"):
        findings_of(comparison, "gap", (), ["rate"])


# Sign errors


def alike(gap: float) -> float:
    del gap
    return 1.0


def by_counting(x: np.ndarray, y: np.ndarray, rows: list[tuple], weigh=alike) -> dict[tuple, tuple]:
    """Over all ordered pairs of runs that differ in one entry, as published: sum of weights and of weighted errors."""
    found: dict[tuple, tuple] = {}
    for (i, one), (j, two) in itertools.permutations(enumerate(rows), 2):
        differing = [axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
        if len(differing) != 1:
            continue
        weight, wrong = weigh(abs(y[i] - y[j])), (1.0 - np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])) / 2.0
        key = (frozenset((one, two)), differing[0])
        total, errors = found.get(key, (0.0, 0.0))
        found[key] = (total + weight, errors + weight * wrong)
    return found


@pytest.mark.parametrize("samples", [None, 300.0])
def test_sign_errors_by_counting(samples: float | None) -> None:
    generator, rows = np.random.default_rng(1), GRID * 3
    codes = {name: np.tile(values, 3) for name, values in CODES.items()}
    x, y = generator.integers(0, 6, 36).astype(float), generator.uniform(0.0, 0.3, 36).round(2)

    def hoeffding(gap: float) -> float:
        sure = max(0.0, 1.0 - 2.0 * math.exp(-2.0 * 300.0 * (gap / 2.0) ** 2)) ** 2
        return max(sure - 0.5, 0.0)

    counted = by_counting(x, y, rows, alike if samples is None else hoeffding)
    errors = {key: wrong / total for key, (total, wrong) in counted.items() if total > 0.0}
    found = sign_errors(x, y, codes, held_out_samples=samples)
    assert found is not None
    assert found.environments == len(errors)
    assert found.discarded == len(counted) - len(errors)
    assert found.mean == pytest.approx(np.mean(list(errors.values())))
    assert found.worst == pytest.approx(max(errors.values()))
    for axis, name in enumerate(CODES):
        assert found.by_hyperparameter[name] == pytest.approx(max(e for (_, a), e in errors.items() if a == axis))
    assert found.by_hyperparameter[found.worst_in] == found.worst


def test_one_wrong_environment_is_the_worst_case() -> None:
    # The gap is the width's and the rate's; the measure follows, but for the batch at one corner, ordered wrongly.
    width, rate, batch = (CODES[name].astype(float) for name in ("width", "rate", "batch"))
    gap = 4.0 * width + 2.0 * rate + 0.5 * batch
    corner = (width == 1) & (rate == 2)
    measure = gap - 1.0 * batch * corner
    found = sign_errors(measure, gap, CODES)
    assert found is not None
    assert (found.worst, found.worst_in) == (1.0, "batch")
    assert found.by_hyperparameter == {"width": 0.0, "rate": 0.0, "batch": 1.0}
    assert found.mean == pytest.approx(1.0 / found.environments)
    # Pairs: 6 of the width, 3 rates by 4, 6 of the batch.
    assert found.environments == 6 + 12 + 6
    ties = sign_errors(np.zeros(12), gap, CODES)
    assert ties is not None
    assert (ties.mean, ties.worst) == (0.5, 0.5)


def test_nothing_to_compare() -> None:
    # Two configurations that differ in two entries, and error rates that the sample does not tell apart.
    both = {"width": np.array([0, 1]), "rate": np.array([0, 1])}
    assert sign_errors(np.arange(2.0), np.arange(2.0), both) is None
    found = sign_errors(np.arange(12.0), 1e-3 * np.arange(12.0), CODES, held_out_samples=100.0)
    assert found is not None
    assert (found.environments, found.discarded) == (0, 24)
    assert math.isnan(found.worst)
    assert noise_weights(np.array([0.0, 1.0]), 1e6)[0, 1] == pytest.approx(0.5)


def test_error_rates_are_weighed_by_the_held_out_sample() -> None:
    rows = [{"width": w, "rate": r, "batch": b, "seed": 0} for w, r, b in GRID]
    gap = np.arange(12.0)
    comparison = made({"hessian-trace": gap}, gap, np.ones(12), rows)
    (plain,), (weighed,) = granulated_rankings(comparison, "gap"), granulated_rankings(comparison, "error-gap")
    assert plain.sign_errors is not None
    assert weighed.sign_errors is not None
    assert (plain.sign_errors.environments, plain.sign_errors.discarded) == (24, 0)
    # Error rates 0.1 apart are told apart by 1,000 samples, as all are here.
    assert weighed.sign_errors.environments == 24
    assert weighed.sign_errors.worst == 0.0
