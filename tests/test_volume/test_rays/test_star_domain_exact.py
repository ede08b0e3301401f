"""The sampler against closed forms, over random dimensions, shapes and seeds, under every prior.

Where a test compares with 5 standard errors of its directions, the terms are light-tailed by construction (radii within
a factor of two), so that a comparison fails by chance below 1e-6.
"""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from spectra.landscape import Landscape
from volume.preconditioners import diagonal_preconditioner, full_preconditioner
from volume.priors import GaussianPrior, Lebesgue, Prior, UniformPrior
from volume.rays import StarDomainSettings, star_domain_volume
from volume.rays import closed_forms as exact
from volume.result import VolumeEstimate

SEEDS = range(4)


class Theta(torch.nn.Module):
    """The parameters themselves as outputs."""

    def __init__(self, anchor: torch.Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(anchor.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def quadratic(matrix: torch.Tensor, anchor: torch.Tensor | None = None) -> Landscape:
    """``1/2 x^T matrix x`` in float64, x the displacement from the anchor."""
    centre = torch.zeros(len(matrix), dtype=torch.float64) if anchor is None else anchor
    return landscape_of(lambda x: 0.5 * ((x @ matrix) * x).sum(-1), centre)


def landscape_of(cost, centre: torch.Tensor) -> Landscape:  # noqa: ANN001
    targets = centre.unsqueeze(0)
    return Landscape(
        Theta(centre), lambda outputs, targets: cost(outputs - targets), (torch.ones_like(targets), targets)
    )


def random_case(seed: int) -> tuple[int, np.ndarray, torch.Tensor, np.random.Generator]:
    """Dimension, eigenvalues within a factor of four, and a rotation."""
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 16))
    basis = stats.ortho_group.rvs(size, random_state=random)
    return size, random.uniform(1.0, 4.0, size), torch.from_numpy(basis), random


def sample(landscape: Landscape, cutoff: float, prior: Prior | None = None, seed: int = 0) -> VolumeEstimate:
    settings = StarDomainSettings(cutoff=cutoff, directions=4000, nats=1e-5, seed=seed, block=1000, scan=0)
    return star_domain_volume(landscape, settings, prior=prior or Lebesgue())


def agrees(found: VolumeEstimate, expected: float, slack: float = 1e-4) -> bool:
    return abs(found.log_volume - expected) < 5 * found.standard_error + slack


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", SEEDS)
def test_balls(seed: int) -> None:
    """No variance under Lebesgue, nor under a Gaussian around the anchor; chi-square away from it."""
    size, _, _, random = random_case(seed)
    radius, deviation = random.uniform(0.3, 2.0), random.uniform(0.5, 2.0)
    matrix, cutoff = torch.eye(size, dtype=torch.float64), radius**2 / 2
    lebesgue = sample(quadratic(matrix), cutoff, seed=seed)
    assert np.allclose(lebesgue.log_terms, exact.log_ball(radius, size), atol=1e-4)
    centred = sample(quadratic(matrix), cutoff, GaussianPrior(deviation), seed)
    assert np.allclose(centred.log_terms, stats.chi2(size).logcdf((radius / deviation) ** 2), atol=1e-4)
    anchor = torch.from_numpy(random.normal(0.0, 0.5, size))
    away = sample(quadratic(matrix, anchor), cutoff, GaussianPrior(deviation), seed)
    noncentral = stats.ncx2(size, float(anchor.square().sum()) / deviation**2)
    assert agrees(away, float(noncentral.logcdf((radius / deviation) ** 2)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("turned", [False, True], ids=["axes", "rotated"])
@pytest.mark.parametrize("seed", SEEDS)
def test_ellipsoids_under_lebesgue(seed: int, turned: bool) -> None:
    size, values, basis, _ = random_case(seed)
    axes = torch.diag(torch.from_numpy(values))
    matrix = basis.T @ axes @ basis if turned else axes
    assert agrees(sample(quadratic((matrix + matrix.T) / 2), 0.3, seed=seed), exact.log_ellipsoid(values, 0.3))


def inverted(values: np.ndarray, shifts: np.ndarray, cutoff: float) -> float:
    """``log Pr[1/2 sum l_i (z_i - m_i)^2 <= T]``, z standard normal, by inversion of the characteristic function.

    Imhof, Computing the distribution of quadratic forms in normal variables, 1961, equation 3.2.
    """

    def integrand(t: float) -> float:
        angle = 0.5 * np.sum(np.arctan(values * t) + shifts**2 * values * t / (1 + (values * t) ** 2)) - t * cutoff
        decay = np.prod((1 + (values * t) ** 2) ** 0.25)
        return float(
            np.sin(angle) / (t * decay * np.exp(0.5 * np.sum((shifts * values * t) ** 2 / (1 + (values * t) ** 2))))
        )

    whole = sum(integrate.quad(integrand, a, a + 5, limit=200)[0] for a in np.arange(1e-12, 400, 5))
    return math.log(0.5 - whole / math.pi)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("turned", [False, True], ids=["axes", "rotated"])
@pytest.mark.parametrize("seed", SEEDS)
def test_ellipsoids_under_a_gaussian(seed: int, turned: bool) -> None:
    """Six dimensions and a cutoff near the median of the cost, where the inversion is accurate to 1e-6."""
    _, _, _, random = random_case(seed)
    size = 6
    values, anchor = random.uniform(1.0, 4.0, size), random.normal(0.0, 0.4, size)
    deviation = random.uniform(0.5, 1.0)
    basis = stats.ortho_group.rvs(size, random_state=random) if turned else np.eye(size)
    matrix = basis.T @ np.diag(values) @ basis
    cutoff = 0.5 * deviation**2 * values.sum()
    landscape = quadratic(torch.from_numpy((matrix + matrix.T) / 2), torch.from_numpy(anchor))
    expected = inverted(values * deviation**2, basis @ anchor / deviation, cutoff)
    assert agrees(sample(landscape, cutoff, GaussianPrior(deviation), seed), expected, 1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_unequal_standard_deviations_are_a_change_of_units(seed: int) -> None:
    """With curvature ``1 / s_i^2`` the basin is a ball in prior units: chi-square."""
    size, values, _, random = random_case(seed)
    deviations = torch.from_numpy(values)
    found = sample(quadratic(torch.diag(deviations**-2)), 0.4 * size, GaussianPrior(deviations), seed)
    assert agrees(found, float(stats.chi2(size).logcdf(0.8 * size)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_optimal_preconditioner_leaves_no_variance(seed: int) -> None:
    size, _, basis, random = random_case(seed)
    values = np.exp(random.uniform(-6.0, 6.0, size))
    settings = StarDomainSettings(cutoff=0.2, directions=50, nats=1e-6, seed=seed)
    expected = exact.log_ellipsoid(values, 0.2)
    eigenvalues = torch.from_numpy(values)
    matrix = basis.T @ torch.diag(eigenvalues) @ basis
    for landscape, preconditioner in (
        (quadratic(torch.diag(eigenvalues)), diagonal_preconditioner(eigenvalues, eps=0.0)),
        (quadratic((matrix + matrix.T) / 2), full_preconditioner(eigenvalues, basis, eps=0.0)),
    ):
        found = star_domain_volume(landscape, settings, preconditioner=preconditioner)
        assert np.allclose(found.log_terms, expected, atol=1e-4)
        plain = star_domain_volume(landscape, settings)
        assert plain.log_terms.std() > 0.5


@pytest.mark.sampled(3)
@pytest.mark.parametrize("power", [1.0, 4.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_power_balls(power: float, seed: int) -> None:
    """``sum |x_i / a_i|^p``: Dirichlet's volumes."""
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 7))
    scales = random.uniform(1.0, 1.6, size)
    divisors = torch.from_numpy(scales)
    centre = torch.zeros(size, dtype=torch.float64)
    landscape = landscape_of(lambda x: (x / divisors).abs().pow(power).sum(-1), centre)
    assert agrees(sample(landscape, 0.7, seed=seed), exact.log_power_ball(power, 0.7, scales))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_that_the_basin_exceeds(seed: int) -> None:
    """All of the box lies below the cutoff: the mass is one, whatever the anchor; no ray reaches the cutoff."""
    size, values, _, random = random_case(seed)
    anchor = torch.from_numpy(random.uniform(-0.3, 0.3, size))
    found = sample(quadratic(torch.diag(torch.from_numpy(values)), anchor), 1e4, UniformPrior(1.0), seed)
    assert found.unbounded.all()
    assert agrees(found, 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ball_cut_by_a_box(seed: int) -> None:
    """Between the box's half width and its corners: area of a disc in a square, by elementary geometry."""
    random = np.random.default_rng(seed)
    radius = random.uniform(1.05, 1.35)
    segment = radius**2 * math.acos(1 / radius) - math.sqrt(radius**2 - 1)
    area = math.pi * radius**2 - 4 * segment
    found = sample(quadratic(torch.eye(2, dtype=torch.float64)), radius**2 / 2, UniformPrior(1.0), seed)
    assert 0 < found.unbounded.sum() < 4000
    assert agrees(found, math.log(area / 4))


@pytest.mark.parametrize("size", [8, 64])
def test_variance_of_the_curvature_along_a_direction(size: int) -> None:
    """``Var[u^T A u] = 2 Var(l) / (n + 2)``; 4,000 samples know a variance to 4 %, so 20 % is 5 of that."""
    values = np.random.default_rng(size).uniform(1.0, 4.0, size)
    terms = sample(quadratic(torch.diag(torch.from_numpy(values))), 0.3).log_terms
    radii = np.exp((terms - exact.log_ball(1.0, size)) / size)
    curvature = 2 * 0.3 / radii**2
    assert curvature.mean() == pytest.approx(values.mean(), abs=5 * curvature.std() / math.sqrt(4000))
    assert curvature.var() == pytest.approx(2 * values.var() / (size + 2), rel=0.2)


def medians(terms: np.ndarray, counts: tuple[int, ...]) -> list[float]:
    """Median log estimate from as many directions each."""
    parts = (terms[: len(terms) // count * count].reshape(-1, count) for count in counts)
    return [float(np.median(special.logsumexp(part, axis=1) - math.log(part.shape[1]))) for part in parts]


def test_correcting_a_zero_eigenvalue_cures_the_growth_of_the_median() -> None:
    """Four dimensions, one flat: terms have a tail of index 3/4, and the median grows like a cube root of the number.

    With c added to every eigenvalue the terms are bounded, and the median is the volume from some directions on: the
    last two medians differ by less than a third of what they do without.
    """
    flat = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    settings = StarDomainSettings(cutoff=0.01, directions=16384, block=4096, scan=0, nats=1e-3)
    growing = medians(star_domain_volume(quadratic(flat), settings).log_terms, (4, 32, 256))
    # u is within e of the flat direction with probability of order e^3, and its term is of order e^-4; the mean of k
    # terms of tail index 3/4 is of order k^(4/3 - 1). The median of 64 such means is known to about 0.2 nats.
    for before, after in zip(growing, growing[1:], strict=False):
        assert after - before == pytest.approx(math.log(8.0) / 3, abs=0.6)
    correction = torch.full((4,), 0.1, dtype=torch.float64)
    corrected = star_domain_volume(quadratic(flat), settings, correction=correction)
    calm = medians(corrected.log_terms, (4, 32, 256))
    assert abs(calm[2] - calm[1]) < 0.3 * (growing[2] - growing[1])
    assert agrees(corrected, exact.log_ellipsoid([1.1, 1.1, 1.1, 0.1], 0.01), 1e-2)


def test_a_flat_direction_is_infinite_under_lebesgue_and_said_to_be() -> None:
    found = sample(quadratic(torch.zeros(3, 3, dtype=torch.float64)), 0.1)
    assert found.log_volume == math.inf
    assert found.verdict == "infinite: 4000 of 4000 directions have no end; use a prior"
