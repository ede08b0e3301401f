"""Whether the quadratic mass says what the true cost is where its mass lies."""

import numpy as np
import pytest
import torch

from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from volume.estimator import estimate_volumes
from volume.method_result import MethodResult
from volume.priors import GaussianPrior
from volume.study import VolumeSettings


class Power(torch.nn.Module):
    """Inputs times ``theta + bend theta^3``: quadratic under squared error where bend is zero."""

    def __init__(self, bend: float) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
        self.bend = bend

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * (self.theta + self.bend * self.theta.pow(3))


def mass(bend: float, prior: GaussianPrior, cutoff: float = 0.05) -> MethodResult:
    inputs = torch.logspace(0.0, 1.0, 6, dtype=torch.float64).unsqueeze(0)
    landscape = Landscape(Power(bend), mean_squared_error, (inputs, torch.zeros(1, 6, dtype=torch.float64)))
    settings = VolumeSettings(methods=("quadratic-mass",), cutoff=cutoff)
    return estimate_volumes(landscape, settings, prior=prior)["quadratic-mass"]


@pytest.mark.parametrize("deviations", [torch.tensor(1.0).double(), torch.linspace(0.5, 2.0, 6).double()])
def test_a_quadratic_cost_is_what_its_mass_says(deviations: torch.Tensor) -> None:
    found = mass(0.0, GaussianPrior(deviations if deviations.ndim else float(deviations)))
    assert found.figures["cost_ratio"] == pytest.approx(1.0, abs=1e-9)
    assert found.trusted
    assert found.verdict == (
        "nothing speaks against it: at points typical of this mass the true cost is the quadratic one to 0%"
    )


def test_a_cost_that_grows_faster_is_told() -> None:
    found = mass(3.0, GaussianPrior(1.0), cutoff=2.0)
    # Points scaled to a quadratic cost of T: the true one is larger term by term.
    ratio = found.figures["cost_ratio"]
    assert ratio > 1.5
    assert not found.trusted
    assert f"the true cost is {ratio:.3g} times the quadratic one" in found.verdict


def test_the_check_costs_no_digit_of_the_mass() -> None:
    one, two = mass(0.0, GaussianPrior(1.0)), mass(3.0, GaussianPrior(1.0))
    assert np.isclose(one.log_volume, two.log_volume, rtol=1e-12)  # the same curvature at the anchor
