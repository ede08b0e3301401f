"""The Student prior against the F distribution and quadrature; the laws of all priors are in test_priors.py."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.special import betainc, gammaln

from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from spectra.model import generator
from volume import (
    BridgeSettings,
    StarDomainSettings,
    UniformPrior,
    VolumeSettings,
    bridge_volume,
    estimate_volumes,
    star_domain_volume,
)
from volume.methods import description_length
from volume.priors.student import StudentPrior
from volume.rays import ClosedFormCost, restricted_prior


def ball(anchor: torch.Tensor) -> ClosedFormCost:
    """``1/2 |theta - theta*|^2``."""
    return ClosedFormCost(lambda x: 0.5 * x.square().sum(-1), anchor)


def bowl(anchor: torch.Tensor) -> Landscape:
    size = len(anchor)
    model, inputs = torch.nn.Linear(size, 1, bias=False).double(), math.sqrt(size / 2.0) * torch.eye(size).double()
    return Landscape(model, mean_squared_error, (inputs, (inputs @ anchor)[:, None]), theta=anchor)


@pytest.mark.parametrize("size, cutoff", [(1, 0.1), (5, 0.1), (5, 50.0), (2000, 900.0)])
def test_a_ball_around_the_origin_follows_the_f_distribution(size: int, cutoff: float) -> None:
    """``|theta|^2 / (n s^2)`` is of F(n, nu): each ray alone is exact, to the crossing's tolerance."""
    prior = StudentPrior(0.8, 4.0)
    settings = StarDomainSettings(cutoff=cutoff, directions=3, nats=1e-6)
    found = star_domain_volume(ball(torch.zeros(size, dtype=torch.float64)), settings, prior=prior)
    ratio = 2.0 * cutoff / (2.0 * 0.8**2)
    assert found.log_terms == pytest.approx(math.log(betainc(size / 2.0, 2.0, ratio / (1.0 + ratio))), abs=1e-5)


def test_a_disc_off_the_origin_by_quadrature() -> None:
    """4,000 directions; 5 standard errors fail by chance below 1e-6."""
    prior, anchor, radius = StudentPrior(0.5, 3.0), torch.tensor([1.0, -2.0], dtype=torch.float64), 0.9
    found = star_domain_volume(ball(anchor), StarDomainSettings(cutoff=radius**2 / 2.0, directions=4000), prior=prior)

    def density(r: float, angle: float) -> float:
        x, y = 1.0 + r * math.cos(angle), -2.0 + r * math.sin(angle)
        # Of two dimensions and nu s^2 = S^2: 3 / (2 pi S^2) (1 + |theta|^2 / S^2)^(-5/2).
        return r * 3.0 / (2.0 * math.pi * 0.25) * (1.0 + (x * x + y * y) / 0.25) ** -2.5

    truth = integrate.dblquad(density, 0.0, 2.0 * math.pi, 0.0, radius)[0]
    assert found.standard_error < 0.02
    assert abs(found.log_volume - math.log(truth)) < 5.0 * found.standard_error


def test_points_of_the_basin_and_its_bits() -> None:
    """Radii that are drawn have the moments of the radial density; the bits are those of the mass."""
    prior, landscape = StudentPrior(0.8, 5.0), bowl(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    found = star_domain_volume(landscape, StarDomainSettings(cutoff=2.0, directions=50), prior=prior)
    points = restricted_prior(landscape, found, prior)
    assert points.radius == pytest.approx(2.0, rel=1e-3)
    draws, chosen = points.draw(4000)
    first, second = points.radial_moments()
    radii = (draws - landscape.theta).norm(dim=1).numpy()
    assert abs((radii - first[chosen]).mean()) < 5.0 * math.sqrt((second - first**2).max() / 4000)
    length = description_length(landscape, found, prior)
    assert length.parameter_bits.value == pytest.approx(found.bits, rel=1e-9)


def test_draws_have_the_tails() -> None:
    """The share beyond three deviations in one dimension, within 5 standard errors."""
    draws = StudentPrior(1.0, 3.0).sample(generator(0, "student"), 100_000, 1).numpy()
    norm = math.exp(gammaln(2.0) - gammaln(1.5)) / math.sqrt(math.pi)
    tail = 2.0 * integrate.quad(lambda x: norm * (1.0 + x * x) ** -2.0, 3.0, np.inf)[0]
    assert abs((np.abs(draws) > 3.0).mean() - tail) < 5.0 * math.sqrt(tail / 100_000)


def test_methods_of_the_quadratic_model_refuse_it_and_name_the_way_out() -> None:
    landscape, prior = bowl(torch.ones(3).double()), StudentPrior(1.0, 5.0)
    for method in ("quadratic-mass", "importance-sampling"):
        with pytest.raises(ValueError, match=f"{method} needs a gaussian prior, got student:1:5; .* star-domain"):
            estimate_volumes(landscape, VolumeSettings(methods=(method,)), prior=prior)
    for freedom in (2.0, math.inf):
        with pytest.raises(ValueError, match="above 2"):
            StudentPrior(1.0, freedom)


@pytest.mark.parametrize("origin", ["quadratic", pytest.param("prior", marks=pytest.mark.slow)])
def test_the_bridge_finds_the_mass_of_a_ball_off_the_origin(origin: str) -> None:
    """Against 20,000 rays; 5 standard errors of both."""
    prior, landscape = StudentPrior(0.5, 4.0), bowl(torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64))
    truth = star_domain_volume(landscape, StarDomainSettings(cutoff=0.4, directions=20_000, nats=1e-3), prior=prior)
    settings = BridgeSettings((0.4,), origin=origin, chains=16, draws=100)
    found = bridge_volume(landscape, prior, settings).volumes[0]
    assert found.standard_error < 0.1
    assert abs(found.log_volume - truth.log_volume) < 5.0 * math.hypot(found.standard_error, truth.standard_error)
    with pytest.raises(ValueError, match="smooth everywhere, got uniform:3"):
        bridge_volume(landscape, UniformPrior(3.0), settings)
