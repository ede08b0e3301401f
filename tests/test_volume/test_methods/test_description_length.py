"""Description lengths against balls, ellipsoids, chi-square distributions and boxes."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from spectra.costs import kl_from_anchor, mean_squared_error
from spectra.landscape import Landscape
from volume.methods import DescriptionLength, description_length
from volume.preconditioners import diagonal_preconditioner
from volume.priors import GaussianPrior, Lebesgue, Prior, UniformPrior
from volume.rays import (
    StarDomainSettings,
    log_ball,
    log_ellipsoid,
    log_gaussian_ball,
    restricted_prior,
    star_domain_volume,
)

SIZE = 12
ANCHOR = torch.linspace(-0.4, 0.6, SIZE, dtype=torch.float64)
LN2 = math.log(2.0)
# The prior restricted to a basin this much smaller than its standard deviation is uniform there.
WIDE = 1e3


class Itself(torch.nn.Module):
    """Theta as the output: the cost makes any quadratic of it."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(ANCHOR.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def bowl(values: torch.Tensor, offset: float = 0.0, samples: int = 1) -> Landscape:
    """``offset + 1/2 sum_i l_i x_i^2`` in every sample, x the displacement from the anchor."""

    def half_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return offset + 0.5 * (values * (outputs - targets) ** 2).sum(-1)

    return Landscape(Itself(), half_square, (torch.ones(samples, SIZE).double(), ANCHOR.expand(samples, SIZE)))


ROUND = 2.5 * torch.ones(SIZE, dtype=torch.float64)
LONG = torch.logspace(0, 1.0, SIZE, dtype=torch.float64)


def length(
    values: torch.Tensor, cutoff: float, prior: Prior, directions: int = 1000, **options: object
) -> DescriptionLength:
    landscape = bowl(values)
    settings = StarDomainSettings(cutoff=cutoff, directions=directions, nats=1e-5, block=500, seed=3)
    estimate = star_domain_volume(landscape, settings, prior=prior)
    return description_length(landscape, estimate, prior, seed=3, **options)  # type: ignore[arg-type]


def test_a_flat_prior_on_a_ball() -> None:
    """``E |theta|^2 = |theta*|^2 + n/(n+2) r^2``; the cross term averages out within 4.5 standard errors."""
    radius, s = 0.8, WIDE
    found = length(ROUND, 2.5 * radius**2 / 2.0, GaussianPrior(s))
    square = float(ANCHOR.square().sum()) + SIZE / (SIZE + 2.0) * radius**2
    assert abs(found.mean_square.value - square) < 4.5 * found.mean_square.standard_error
    assert found.mean_square.standard_error < 0.02
    nats = SIZE / 2.0 * math.log(2.0 * math.pi) + SIZE * math.log(s) + square / (2 * s**2) - log_ball(radius, SIZE)
    assert abs(found.parameter_bits.value - nats / LN2) < 4.5 * found.parameter_bits.standard_error + 1e-4
    assert found.bits.value == found.parameter_bits.value
    assert found.data_bits is None


def test_a_flat_prior_on_an_ellipsoid_with_one_standard_deviation_a_parameter() -> None:
    """``E x_i^2 = 2 T / (l_i (n + 2))``: 4.5 bootstrap errors of 4,000 directions, a chance below 1e-4."""
    cutoff, s = 0.4, WIDE * torch.linspace(0.5, 2.0, SIZE, dtype=torch.float64)
    found = length(LONG, cutoff, GaussianPrior(s), directions=4000)
    squares = ANCHOR**2 + 2.0 * cutoff / (LONG * (SIZE + 2.0))
    nats = SIZE / 2.0 * math.log(2.0 * math.pi) + float(s.log().sum() + (squares / s**2).sum() / 2.0)
    expected = (nats - log_ellipsoid(LONG.numpy(), cutoff)) / LN2
    assert abs(found.parameter_bits.value - expected) < 4.5 * found.parameter_bits.standard_error
    assert found.parameter_bits.standard_error < 0.2
    assert abs(found.mean_square.value - float(squares.sum())) < 4.5 * found.mean_square.standard_error


def test_the_restricted_prior_costs_its_mass() -> None:
    radius, s = 0.8, 0.7
    found = length(ROUND, 2.5 * radius**2 / 2.0, GaussianPrior(s))
    exact = -log_gaussian_ball(radius, SIZE, s, float(ANCHOR.norm())) / LN2
    assert abs(found.parameter_bits.value - exact) < 4.5 * found.parameter_bits.standard_error


def test_a_uniform_prior_costs_the_ratio_of_volumes() -> None:
    radius = 0.3
    found = length(ROUND, 2.5 * radius**2 / 2.0, UniformPrior(1.0))
    assert found.parameter_bits.value == pytest.approx((SIZE * LN2 - log_ball(radius, SIZE)) / LN2, abs=1e-4)


def test_the_data_term_of_a_quadratic_cost() -> None:
    """Uniform on an ellipsoid, as for a prior that is almost flat: ``E C = n/(n+2) T``, exactly one power of U a draw.

    ``C = T U^(2/n)`` whatever the direction, so the standard error is known, and 4.5 of them fail less than 1e-5.
    """
    cutoff, samples, offset = 0.4, 7, 1.5
    data = bowl(ROUND, offset, samples)
    found = length(ROUND, cutoff, GaussianPrior(WIDE), data=data, draws=4000)
    assert found.data_bits is not None
    expected = samples * (offset + cutoff * SIZE / (SIZE + 2.0)) / LN2
    assert abs(found.data_bits.value - expected) < 4.5 * found.data_bits.standard_error
    assert found.data_bits.standard_error < 0.02 * samples * cutoff
    assert found.anchor_data_bits == pytest.approx(samples * offset / LN2)
    assert found.bits.value == found.parameter_bits.value + found.data_bits.value
    assert (found.samples, found.draws) == (7.0, 4000)


def test_points_are_distributed_as_the_restricted_prior() -> None:
    """Standard normals given that their square is below 6: a truncated chi-square, by Kolmogorov and Smirnov.

    The seeds are fixed; a p-value below 1e-4 has that probability.
    """
    model = Itself()
    with torch.no_grad():
        model.theta.zero_()
    landscape = Landscape(model, lambda o, _: 0.5 * o.square().sum(-1), torch.ones(1, SIZE).double())
    settings = StarDomainSettings(cutoff=3.0, directions=3000, nats=1e-5, block=500)
    prior = GaussianPrior(1.0)
    points = restricted_prior(landscape, star_domain_volume(landscape, settings, prior=prior), prior)
    drawn, chosen = points.draw(2000)
    assert np.unique(chosen).size == 2000
    squares = drawn.square().sum(1).numpy()
    chi = stats.chi2(SIZE)
    assert stats.kstest(squares, lambda x: chi.cdf(x) / chi.cdf(6.0)).pvalue > 1e-4
    # By symmetry each coordinate of the points has mean zero: 12 means, five standard errors.
    assert bool((drawn.mean(0).abs() < 5 * drawn.std(0) / 2000**0.5).all())
    assert np.allclose(points.radius, math.sqrt(6.0), rtol=1e-6)


def test_preconditioned_directions_are_drawn_again() -> None:
    """With the ellipsoid's own axes every direction says the same, so that nothing is random in the volume."""
    landscape, cutoff, flat = bowl(LONG), 0.1, GaussianPrior(WIDE)
    own = diagonal_preconditioner(LONG, eps=0.0)
    settings = StarDomainSettings(cutoff=cutoff, directions=100, nats=1e-7, seed=5)
    estimate = star_domain_volume(landscape, settings, prior=flat, preconditioner=own)
    points = restricted_prior(landscape, estimate, flat, preconditioner=own, seed=5)
    drawn, _ = points.draw(50)
    assert float((0.5 * LONG * (drawn - ANCHOR) ** 2).sum(1).max()) <= cutoff * (1 + 1e-6)
    mass = log_ellipsoid(LONG.numpy(), cutoff) + flat.log_density(ANCHOR)
    assert np.allclose(points.log_terms, mass, atol=1e-5, rtol=0.0)
    prior = GaussianPrior(1.1)
    again = star_domain_volume(landscape, settings, prior=prior, preconditioner=own)
    other = restricted_prior(landscape, again, prior, preconditioner=own, seed=5)
    assert np.allclose(other.radius, points.radius, rtol=1e-6)


def test_one_direction_that_dominates_is_said() -> None:
    found = length(torch.logspace(-5, 2, SIZE, dtype=torch.float64), 0.01, GaussianPrior(50.0), directions=20)
    assert "one direction carries" in found.cautions[0]
    assert found.bits.cautions == found.cautions


def test_refusals() -> None:
    prior, flat = GaussianPrior(1.0), torch.zeros(SIZE, dtype=torch.float64)
    whole = length(flat, 0.1, prior).parameter_bits
    assert abs(whole.value) < 4.5 * whole.standard_error
    with pytest.raises(ValueError, match="prior must be a probability distribution to code with, got lebesgue"):
        length(ROUND, 0.1, Lebesgue(), directions=4)
    for cost in (kl_from_anchor, mean_squared_error):
        data = Landscape(Itself(), cost, (torch.ones(2, SIZE).double(), torch.zeros(2, SIZE).double()))
        with pytest.raises(ValueError, match="a code length in nats, such as cross-entropy; got"):
            length(ROUND, 0.1, prior, directions=4, data=data)
    with pytest.raises(ValueError, match="draws must be at least 2, got 1"):
        length(ROUND, 0.1, prior, directions=4, data=bowl(ROUND), draws=1)
    small = Landscape(torch.nn.Linear(2, 2).double(), kl_from_anchor, torch.ones(1, 2).double())
    with pytest.raises(ValueError, match="data must be a landscape of the same 12 parameters, got 6"):
        length(ROUND, 0.1, prior, directions=4, data=small)
