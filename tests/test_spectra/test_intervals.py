"""The one rule for intervals: against scipy and closed forms, its coverage, and that ends keep to what is possible."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.density import IndefiniteError, SpectralDensity
from spectra.estimate import Estimate, difference, from_samples, independent
from spectra.interval import bars, ends, half_width, joint_freedom, quantile, with_ends
from spectra.lanczos import BREAKDOWN_ROUNDINGS, Deflation, Tridiagonal
from spectra.operators import MatrixOperator
from spectra.slq import slq_density
from spectra.spectrum import SpectrumSettings

SIZE = 40


def test_quantiles_are_those_of_closed_forms() -> None:
    """Student's t of one and two degrees of freedom, and the normal, have inverses in closed form."""
    for level in (0.5, 0.95, 0.999):
        half = level / 2.0
        assert quantile(1, level) == pytest.approx(math.tan(math.pi * half), rel=1e-9)
        assert quantile(2, level) == pytest.approx(2.0 * half * math.sqrt(2.0 / (1.0 - 4.0 * half**2)), rel=1e-9)
        assert quantile(math.inf, level) == pytest.approx(stats.norm.ppf(0.5 + half), rel=1e-9)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="level must lie"):
            quantile(3, level)


@pytest.mark.parametrize("count", [2, 4, 30])
def test_intervals_of_a_mean_cover_as_they_say(count: int) -> None:
    """Normal samples: 20,000 intervals cover 95 % to 4 binomial standard errors (failure 6e-5)."""
    draws = np.random.default_rng(0).normal(3.0, 2.0, (20_000, count))
    covered = [low <= 3.0 <= high for low, high in (from_samples(row).interval() for row in draws)]
    assert abs(np.mean(covered) - 0.95) < 4.0 * math.sqrt(0.95 * 0.05 / len(draws))


def test_differences_of_independent_means_are_welchs() -> None:
    generator = np.random.default_rng(1)
    one, two = generator.normal(1.0, 1.0, 5), generator.normal(0.0, 7.0, 9)
    theirs = stats.ttest_ind(one, two, equal_var=False)
    found = independent(from_samples(one), from_samples(two))
    assert found.degrees == pytest.approx(theirs.df, rel=1e-9)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    assert joint_freedom([(0.0, 3.0)]) == math.inf
    assert joint_freedom([(1.0, 0.0), (1.0, 5.0)]) == 0.0


def test_a_difference_from_an_exact_value_has_the_freedom_of_the_other() -> None:
    sampled = from_samples(np.array([1.0, 2.0, 4.0]))
    for found in (difference(sampled, Estimate(1.0)), difference(Estimate(1.0), sampled)):
        assert found.half_width() == pytest.approx(sampled.half_width(), rel=1e-12)


def test_an_error_without_samples_is_taken_at_its_word() -> None:
    assert Estimate(1.0, 0.5).half_width() == pytest.approx(stats.norm.ppf(0.975) * 0.5, rel=1e-9)
    assert Estimate(1.0, 0.5, freedom=3.0).half_width() == pytest.approx(stats.t.ppf(0.975, 3) * 0.5, rel=1e-9)
    assert Estimate(1.0, 0.5, freedom=0.0).half_width() == math.inf
    assert half_width(math.nan, 3.0) == math.inf


def test_truncation_widens_and_ranges_cut() -> None:
    wide = Estimate(1.0, 0.5, truncation_error=2.0, lowest=0.0, highest=3.0)
    assert wide.half_width() > 2.9
    assert wide.interval() == (0.0, 3.0)
    halved = wide.transform(lambda x: -0.5 * x, lambda _: -0.5)
    assert (halved.lowest, halved.highest, halved.interval()) == (-1.5, 0.0, (-1.5, 0.0))
    # Rounding may put a value just outside: its interval is inside all the same.
    assert ends(-1e-12, 0.0, lowest=0.0) == (0.0, 0.0)


def test_cut_intervals_are_written_with_both_ends() -> None:
    assert with_ends(3.0, Estimate(3.0, truncation_error=5.0, lowest=0.0).interval()) == "3 (0 to 8)"
    assert with_ends(3.0, Estimate(3.0, truncation_error=1.0, lowest=0.0).interval()) == "3.0 ± 1.0"
    assert with_ends(3.0, Estimate(3.0, math.inf, lowest=0.0, highest=4810.0).interval()) == "3 (0 to 4,810)"
    assert with_ends(math.nan, (math.nan, math.nan)) == "unknown"
    reach, known = bars([3.0, 3.0], [(0.0, 8.0), (0.0, math.inf)])
    assert reach.tolist() == [[3.0, 3.0], [5.0, 0.0]]
    assert known.tolist() == [True, False]


def indefinite(seed: int, probes: int = 3, steps: int = 6) -> SpectralDensity:
    """A sampled density of a random matrix with as many negative eigenvalues as positive ones."""
    matrix = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    settings = SpectrumSettings(probes=probes, steps=steps, seed=seed, deflate=0)
    return slq_density(MatrixOperator(matrix + matrix.T), settings)


@pytest.mark.parametrize("probes", [1, 2, 3, 8])
def test_counts_stay_within_the_matrix(probes: int) -> None:
    for seed in range(20):
        density = indefinite(seed, probes)
        for threshold in (-20.0, -1.0, 0.0, 1.0, 20.0):
            count = density.mass_below(threshold)
            low, high = count.interval()
            assert 0.0 <= low <= high <= SIZE
            assert 0.0 <= count.value <= SIZE * (1 + 1e-12)


def test_a_count_from_few_steps_knows_what_it_does_not_resolve() -> None:
    # Most eigenvalues lie near zero, as a network's do. An interval of 95 % misses more than 6 of 20 times with
    # probability 3e-5; half of 8 steps count as many beyond some of these thresholds as all of them do, and wrongly.
    values = np.linspace(-1.0, 1.0, 400) ** 3
    noise = torch.randn(400, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(noise)[0]
    operator = MatrixOperator(rotation @ torch.diag(torch.from_numpy(values)) @ rotation.T)
    settings = [SpectrumSettings(probes=4, steps=8, seed=seed, deflate=0) for seed in range(20)]
    densities = [slq_density(operator, one) for one in settings]
    for threshold in (-0.7, -0.5, -0.2, -0.1, -0.05, 0.05, 0.1):
        intervals = [density.mass_below(threshold).interval() for density in densities]
        assert sum(not low <= (values < threshold).sum() <= high for low, high in intervals) <= 6, threshold


@pytest.mark.parametrize("negative", ["raise", "clip", "abs"])
def test_an_effective_dimension_is_a_number_of_dimensions_or_refused(negative: str) -> None:
    refused = 0
    for seed in range(30):
        density = indefinite(seed)
        for shift in density.magnitude * np.array([0.01, 0.5, 1.01, 1.5, 3.0, 30.0]):
            try:
                found = density.effective_dimension(float(shift), negative=negative)
            except IndefiniteError:
                refused += 1
                continue
            low, high = found.interval()
            assert 0.0 <= low <= found.value <= high <= SIZE
    assert (refused > 0) == (negative == "raise")


def test_what_negative_eigenvalues_take_is_refused_or_said() -> None:
    """Exact spectra: 10 - 4/3 dimensions, 1/2 of 1, and less than none."""
    few = SpectralDensity.from_eigenvalues(np.array([1e9] * 10 + [-1.0, -1.0]), epsilon=0.0)
    assert few.effective_dimension(2.5).value == pytest.approx(10.0 - 4.0 / 3.0, rel=1e-6)
    assert "negative eigenvalues take 1.33 away from the 10 of the others" in few.effective_dimension(2.5).cautions[-1]
    none = SpectralDensity.from_eigenvalues(np.array([1.0, -1.0, -1.0, -1.0]))
    with pytest.raises(ValueError, match=r"would be below zero: 3 of 4 eigenvalues are negative and take 6 away from"):
        none.effective_dimension(1.5)
    assert none.effective_dimension(1.5, negative="clip").value == pytest.approx(0.4)
    assert none.effective_dimension(1.5, negative="abs").value == pytest.approx(1.6)


def test_semidefinite_sums_do_not_fall_below_zero() -> None:
    """One probe of a Fisher matrix leaves the error unknown, but not the sign."""
    runs = Tridiagonal(np.array([[1.0, 1.0]]), np.array([[0.5, 0.0]]), np.array([2]))
    density = SpectralDensity(9, runs, Deflation(np.empty(0), np.empty(0), 0), "fisher")
    assert density.trace().interval() == (0.0, math.inf)
    assert density.logdet(0.1, relative=True).interval() == (0.0, math.inf)
    assert density.logdet(0.1).interval()[0] == pytest.approx(9 * math.log(0.1))
    assert SpectralDensity(9, runs, operator="hessian").trace().interval()[0] == -math.inf


def test_what_rounding_hides_is_in_the_error_of_a_run_that_broke_down() -> None:
    """20 ones and a tail of 1e-10 to 2e-8: in float32 Lanczos takes the tail for one eigenvalue after two steps."""
    values = torch.linspace(0.01, 2.0, 5000, dtype=torch.float64) * 1e-8
    values[:20] = 1.0
    density = slq_density(_Diagonal(values.float()), SpectrumSettings(probes=8, steps=32))
    assert (density.runs.lengths < density.runs.steps).all()
    assert density.resolution(0.0) == pytest.approx(BREAKDOWN_ROUNDINGS * np.finfo(np.float32).eps, rel=1e-3)
    count, truth = density.mass_below(5e-9), float((values < 5e-9).sum())
    assert count.interval()[0] <= truth <= count.interval()[1]
    logarithm = density.logdet(1e-8, negative="clip", relative=True)
    assert "below the quadrature's resolution" in logarithm.cautions[0]
    low, high = logarithm.interval(0.9999)
    assert low <= float(torch.log1p(values / 1e-8).sum()) <= high


class _Diagonal(MatrixOperator):
    def __init__(self, values: torch.Tensor) -> None:
        super().__init__(torch.zeros(1, 1, dtype=values.dtype))
        self.values, self.size = values, len(values)

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors * self.values
