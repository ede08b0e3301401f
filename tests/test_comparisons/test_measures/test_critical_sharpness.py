"""The critical sharpness against the closed form of a quadratic, and where there is none."""

import pytest
import torch
from torch import Tensor, nn

from basinscope.tasks.uci_digits import data_folder, digits
from comparisons.evidence import Evidence
from comparisons.measures import measures_of
from comparisons.measures.sharpness.critical import critical_sharpness
from spectra.checkpoint import read_checkpoint
from spectra.landscape import Landscape

CHECKED = {"critical-sharpness": ("test_the_gradients_own_curvature_on_a_quadratic",)}


class Point(nn.Module):
    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta.expand(len(inputs), -1)


def at(theta: Tensor, cost) -> Landscape:
    inputs = torch.zeros(4, 1, dtype=theta.dtype)
    return Landscape(Point(theta), lambda outputs, targets: cost(outputs) + 0.0 * targets[:, 0], (inputs, inputs))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradients_own_curvature_on_a_quadratic(scale: float, dtype: torch.dtype) -> None:
    """``g^T H g / |g|^2``, whether the first step is far too long or far too short."""
    values = scale * torch.tensor([5.0, 2.0, 0.5, 0.0, -0.1], dtype=dtype)
    theta = torch.linspace(1.0, 2.0, 5, dtype=dtype)
    landscape = at(theta, lambda x: 0.5 * (x.square() @ values))
    g = values * theta
    truth = float(g @ (values * g) / (g @ g))
    (measure,) = measures_of(["critical-sharpness"])
    reading = measure.compute(Evidence(landscape))
    assert reading.value == pytest.approx(truth, rel=1e-3)
    assert 0.0 < reading.truncation_error < 2e-3 * truth
    assert reading.interval[0] < truth < reading.interval[1]


@pytest.mark.parametrize("step", ["00008", "00064", "00256", "00640"])
def test_a_trained_network_takes_fewer_than_ten_costs(step: str) -> None:
    """Ten is what the paper's search stays below."""
    found = critical_sharpness(digits(read_checkpoint(data_folder() / "digits_mlp" / f"clean_seed0_step{step}.pt")))
    assert found.cost_evaluations < 10
    assert found.gradient_evaluations == 1


def test_the_step_at_which_a_quartic_rises() -> None:
    """Along the gradient of ``x^4`` at one, ``|1 - 4 h| = 1`` at h = 1/2."""
    assert critical_sharpness(at(torch.ones(1).double(), lambda x: x[:, 0] ** 4)).value == pytest.approx(4.0, rel=1e-3)


def test_a_wall_of_no_finite_cost_is_a_rise() -> None:
    """``-log(1 - x^2)`` at 1/2 falls to 0 and is not finite beyond -1: the cost is the same again at -1/2."""
    landscape = at(torch.full((1,), 0.5).double(), lambda x: -torch.log1p(-x[:, 0].square()))
    assert critical_sharpness(landscape).value == pytest.approx(2.0 / 0.75, rel=1e-3)


def test_no_minimum_and_no_bound_are_refused() -> None:
    with pytest.raises(ValueError, match="gradient at the checkpoint is zero"):
        critical_sharpness(at(torch.zeros(2).double(), lambda x: 1.0 + x.square().sum(1)))
    with pytest.raises(ValueError, match="stationary"):
        critical_sharpness(at(torch.full((2,), 1e-12).double(), lambda x: 1.0 + x.square().sum(1)))
    with pytest.raises(ValueError, match="raises the cost"):
        critical_sharpness(at(torch.ones(2).double(), lambda x: x.sum(1)))
