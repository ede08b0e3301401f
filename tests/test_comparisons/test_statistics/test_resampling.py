import numpy as np
import pytest
from scipy import stats

from comparisons.statistics.resampling import kendalls_of, multiplicities, spearmans_of


@pytest.mark.parametrize("seed", range(5))
def test_counts_stand_for_copies(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 6, 12).astype(float), generator.normal(size=12).round(1)
    counts = multiplicities(np.repeat(np.arange(4), [1, 5, 2, 4]), 20, generator)
    taus, rhos = kendalls_of(x, y, counts), spearmans_of(x, y, counts)
    for row, tau, rho in zip(counts.astype(int), taus, rhos, strict=True):
        one, two = np.repeat(x, row), np.repeat(y, row)
        if len(np.unique(one)) == 1 or len(np.unique(two)) == 1:
            assert np.isnan(tau)
            assert np.isnan(rho)
            continue
        assert tau == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-12)
        assert rho == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)


def test_configurations_are_drawn_as_wholes() -> None:
    configurations = np.array([0, 0, 1, 2, 2, 2])
    counts = multiplicities(configurations, 500, np.random.default_rng(0))
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(1) == 3).all()
    # Each configuration is drawn once a sample in the mean; the count's variance is 2/3: 4.5 errors fail in 7e-6.
    assert counts[:, 2].mean() == pytest.approx(1.0, abs=4.5 * (2.0 / 3.0 / 500) ** 0.5)
