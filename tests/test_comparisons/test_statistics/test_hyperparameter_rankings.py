import itertools
import math

import numpy as np
import pytest
from scipy import stats

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.statistics import agreement_of
from comparisons.statistics.clusters import clustered
from comparisons.statistics.granulated import (
    conditional_information,
    granulated_kendall,
    least_information,
    mean_granulated,
)
from comparisons.statistics.hyperparameters import groups, varying
from comparisons.statistics.seed_variance import variance_shares
from spectra.files import Provenance

GRID = list(itertools.product(range(2), range(3), range(2)))
CODES = {name: np.array([row[i] for row in GRID]) for i, name in enumerate(("width", "rate", "batch"))}


def test_what_another_decides_or_lacks_is_left_out() -> None:
    rows = [{"rate": r, "batch": b, "step": 64 // b, "seed": s, "task": "t"} for r, b, s in GRID if b]
    # Two batch sizes: the steps follow from them; the task is the same, and the seed is no choice.
    assert set(varying(rows)) == {"rate", "batch"}
    rows = [{"rate": r, "batch": 2**b, "step": 64 // 2**b, "kind": "ab"[w]} for w, r, b in GRID]
    assert set(varying(rows)) == {"rate", "batch", "kind"}
    del rows[0]["kind"]
    assert set(varying(rows)) == {"rate", "batch"}
    assert varying([]) == {}


def test_granulated_against_loops() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 5, len(GRID)).astype(float), generator.normal(size=len(GRID))
    found = granulated_kendall(x, y, CODES)
    for axis, name in enumerate(CODES):
        parts: dict[tuple[int, ...], list[float]] = {}
        for (i, one), (j, two) in itertools.permutations(enumerate(GRID), 2):
            rest = one[:axis] + one[axis + 1 :]
            if rest == two[:axis] + two[axis + 1 :]:
                parts.setdefault(rest, []).append(float(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])))
        assert found[name] == pytest.approx(np.mean([np.mean(part) for part in parts.values()]))
    assert mean_granulated(found) == pytest.approx(np.mean(list(found.values())))


def test_a_measure_that_follows_one_hyperparameter_gets_no_credit_from_others() -> None:
    # The measure is the width, which drives the gap too: tau_b is high, Psi a third.
    width = CODES["width"].astype(float)
    gap = 10.0 * width + np.random.default_rng(1).normal(size=len(GRID))
    assert stats.kendalltau(width, gap).statistic > 0.7
    assert granulated_kendall(width, gap, CODES) == {"width": 1.0, "rate": 0.0, "batch": 0.0}
    assert math.isnan(granulated_kendall(width, gap, {"width": CODES["width"]}, np.arange(len(GRID)))["width"])


def by_counting(x: np.ndarray, y: np.ndarray, conditions: list[np.ndarray]) -> float:
    """The definition as the paper writes it: probabilities given each U, weighted by p(U)."""
    pairs = [(i, j) for i, j in itertools.permutations(range(len(x)), 2) if x[i] != x[j] and y[i] != y[j]]
    told: dict[tuple[int, ...], list[tuple[bool, bool]]] = {}
    for i, j in pairs:
        told.setdefault(tuple(c[k] for c in conditions for k in (i, j)), []).append((x[i] > x[j], y[i] > y[j]))
    information = entropy = 0.0
    for signs in told.values():
        share = len(signs) / len(pairs)
        mine = {v: np.mean([a == v for a, _ in signs]) for v in (True, False)}
        theirs = {v: np.mean([b == v for _, b in signs]) for v in (True, False)}
        for a, b in itertools.product((True, False), repeat=2):
            joint = np.mean([one == (a, b) for one in signs])
            if joint > 0:
                information += share * joint * math.log(joint / (mine[a] * theirs[b]))
        entropy -= share * sum(p * math.log(p) for p in theirs.values() if p > 0)
    return information / entropy


@pytest.mark.parametrize("seed", range(4))
def test_information_against_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 6, len(GRID)).astype(float), generator.normal(size=len(GRID))
    shares = {}
    for size in range(3):
        for names in itertools.combinations(CODES, size):
            conditions = [CODES[name] for name in names]
            shares[names] = conditional_information(x, y, conditions)
            assert shares[names] == pytest.approx(by_counting(x, y, conditions), abs=1e-10)
    least, names = least_information(x, y, CODES)
    assert least == min(shares.values()) == shares[names]


def test_information_by_hand() -> None:
    x = np.arange(len(GRID), dtype=float)
    assert least_information(x, x**3, CODES)[0] == pytest.approx(1.0)
    # Of six ordered pairs four agree: 1 - H(1/3) / H(1/2).
    share = conditional_information(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), [])
    assert share == pytest.approx(1.0 + (math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3) / math.log(2))
    # The width decides the order between its values, and nothing is left within: no information is to be had.
    width = np.array([0.0, 1.0])
    assert math.isnan(conditional_information(width, width, [np.array([0, 1])]))
    assert math.isnan(conditional_information(np.zeros(3), np.arange(3.0), []))


def test_information_that_a_condition_explains_vanishes() -> None:
    width = CODES["width"].astype(float)
    noise = np.array([0.1, -0.2, 0.3, 0.05, -0.1, 0.25])
    gap = 10.0 * width + np.tile(noise, 2)
    measure = 10.0 * width + np.repeat(noise[::-1], 2)
    share, names = least_information(measure, gap, CODES)
    # Within a width the order of 15 pairs is all that is left; across widths, where measure and gap agree, nothing is.
    assert "width" in names
    assert share < 0.5 * conditional_information(measure, gap, [])


def test_shares_by_hand_and_against_anova() -> None:
    generator = np.random.default_rng(0)
    place = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    values = generator.normal(size=9) + 3.0 * place
    found = variance_shares(values, place, np.full(9, 0.5))
    assert found is not None
    statistic = stats.f_oneway(*(values[place == number] for number in range(3))).statistic
    typical = (9 - (9 + 4 + 16) / 9) / 2
    assert 1.0 + typical * found.between / found.within == pytest.approx(statistic)
    assert found.estimator == 0.25
    assert variance_shares(values, np.arange(9), np.zeros(9)) is None
    assert variance_shares(values, np.zeros(9, dtype=np.int64), np.zeros(9)) is None


def test_shares_are_unbiased() -> None:
    generator = np.random.default_rng(0)
    place, runs = np.repeat(np.arange(6), [2, 3, 2, 4, 2, 3]), 4000
    found = []
    for _ in range(runs):
        one = variance_shares(2.0 * generator.normal(size=6)[place] + generator.normal(size=16), place, np.zeros(16))
        assert one is not None
        found.append((one.between, one.within))
    # Means of 4,000 runs, normal but for their size: 4.5 standard errors fail in 7e-6 each.
    error = np.std(found, axis=0) / math.sqrt(runs)
    assert (np.abs(np.mean(found, axis=0) - [4.0, 1.0]) < 4.5 * error).all()


def test_volumes_of_different_sizes_agree_with_nothing() -> None:
    names = ("hessian-trace", "parameter-norm", "star-domain")
    rows = []
    for place in range(4):
        outcomes = {name: Outcome(Reading(float(place)), ComputeCost()) for name in names}
        rows.append(Examined(Provenance(f"{place}.pt", ""), size=10 + place % 2, outcomes=outcomes))
    found = agreement_of(Comparison(EvidenceSettings(), names, tuple(rows)))
    assert found is not None
    assert sorted(found.names) == ["hessian-trace", "parameter-norm"]
    assert found.left_out == ("star-domain",)


def test_clusters_of_planted_blocks() -> None:
    taus = np.full((6, 6), -0.2)
    for block in ([0, 3, 5], [1, 2], [4]):
        taus[np.ix_(block, block)] = 0.9
    np.fill_diagonal(taus, 1.0)
    order, labels = clustered(taus)
    assert sorted(order) == list(range(6))
    assert [len(set(labels[block])) for block in ([0, 3, 5], [1, 2])] == [1, 1]
    assert len(set(labels)) == 3
    assert max(abs(order.index(i) - order.index(j)) for i, j in ((0, 3), (3, 5), (0, 5))) == 2
    assert abs(order.index(1) - order.index(2)) == 1
    assert groups([labels], 6).max() == 2
