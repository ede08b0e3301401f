"""Importance sampling against closed forms: a ball under a Gaussian prior, and wells that are far from quadratic."""

import math

import pytest
import torch

from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from volume import GaussianPrior, VolumeSettings, estimate_volumes
from volume.audit import VOLUME, wells_case
from volume.method_result import MethodResult
from volume.rays import log_gaussian_ball

METHOD = "importance-sampling"


def ball(size: int) -> Landscape:
    """``1/2 |theta - theta*|^2``."""
    model, anchor = torch.nn.Linear(size, 1, bias=False).double(), torch.linspace(-0.4, 0.7, size).double()
    inputs = math.sqrt(size / 2.0) * torch.eye(size, dtype=torch.float64)
    return Landscape(model, mean_squared_error, (inputs, (inputs @ anchor)[:, None]), theta=anchor)


def found(landscape: Landscape, cutoff: float, width: float, draws: int) -> MethodResult:
    settings = VolumeSettings(methods=(METHOD,), cutoff=cutoff, directions=draws)
    return estimate_volumes(landscape, settings, prior=GaussianPrior(width))[METHOD]


@pytest.mark.parametrize("cutoff", [0.5, 30.0])
def test_the_ball_is_a_noncentral_chi_square(cutoff: float) -> None:
    """Below the prior's own mean cost and above it; 5 standard errors fail by chance below 1e-6."""
    landscape = ball(40)
    result = found(landscape, cutoff, 0.5, 4000)
    assert result.estimate is not None
    truth = log_gaussian_ball(math.sqrt(2.0 * cutoff), 40, 0.5, float(landscape.theta.norm()))
    assert result.estimate.standard_error < 0.05
    assert abs(result.log_volume - truth) < max(5.0 * result.estimate.standard_error, 1e-4)
    assert result.figures["cost_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert result.kind == "mass"
    assert result.trusted


def test_a_cost_far_from_quadratic_needs_no_model() -> None:
    case = wells_case(size=6, cutoff=8.0)
    assert case.landscape is not None
    result = found(case.landscape, case.cutoff, 1.5, 4000)
    assert result.estimate is not None
    assert result.figures["cost_ratio"] > 1.1
    assert result.estimate.standard_error < 0.1
    assert abs(result.log_volume - case.truths[VOLUME].value) < 5.0 * result.estimate.standard_error


def test_a_basin_that_no_draw_reaches_is_refused() -> None:
    """The cost is a thousandth of the quadratic model's curvature near the anchor, and a wall beyond."""
    theta = torch.zeros(3, dtype=torch.float64)
    model = torch.nn.Linear(3, 1, bias=False).double()

    def wall(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs**2 + 1e12 * outputs**4 - targets).squeeze(-1)

    inputs = 1e3 * torch.eye(3, dtype=torch.float64)
    landscape = Landscape(model, wall, (inputs, torch.zeros(3, 1).double()), theta=theta)
    with pytest.raises(ValueError, match="none of 8 draws .* method star-domain"):
        found(landscape, 1e3, 1.0, 8)
