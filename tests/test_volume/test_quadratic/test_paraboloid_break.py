"""Where the paraboloid breaks: never for a quadratic, in closed form for a quartic term."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spectra.landscape import Landscape
from spectra.operators import MatrixOperator
from volume.priors import GaussianPrior
from volume.quadratic import BasinGaussian

SIZE = 10
PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "paraboloid_break.py"
SPEC = importlib.util.spec_from_file_location("paraboloid_break", PATH)
assert SPEC is not None
assert SPEC.loader is not None
BENCHMARK = importlib.util.module_from_spec(SPEC)
# Its dataclass looks its module up.
sys.modules[SPEC.name] = BENCHMARK
SPEC.loader.exec_module(BENCHMARK)
ParaboloidBreak, paraboloid_break = BENCHMARK.ParaboloidBreak, BENCHMARK.paraboloid_break


class Point(torch.nn.Module):
    def __init__(self, anchor: torch.Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(anchor.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def landscape(curvature: float, quartic: float, anchor: torch.Tensor) -> Landscape:
    """``l/2 |x|^2 + q |x|^4`` around the anchor: the ratio at T is ``1 + 4 q T / l^2`` in every direction."""

    def cost(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        square = (outputs - targets).square().sum(-1)
        return 0.5 * curvature * square + quartic * square.square()

    return Landscape(Point(anchor), cost, (torch.ones(1, SIZE).double(), anchor.unsqueeze(0)))


@pytest.mark.parametrize("distance", [0.0, 0.7])
def test_a_quadratic_never_breaks_and_says_so(distance: float) -> None:
    found = paraboloid_break(landscape(2.0, 0.0, torch.full((SIZE,), distance).double()), GaussianPrior(1.0), draws=8)
    assert found.cutoff == math.inf
    assert found.interval() == (math.inf, math.inf)
    assert found.ratios == pytest.approx(np.ones_like(found.ratios), abs=1e-9)
    assert "no break was found" in found.verdict


@pytest.mark.parametrize("scales, directions", [(1.0, "mass"), (None, "mass"), (1.0, "sphere")])
def test_a_quartic_breaks_where_it_is_a_tenth(scales: float | None, directions: str) -> None:
    curvature, quartic = 3.0, 0.5
    s = torch.linspace(0.5, 2.0, SIZE).double() if scales is None else scales
    bowl = landscape(curvature, quartic, torch.full((SIZE,), 0.3).double())
    found = paraboloid_break(bowl, GaussianPrior(s), draws=8, directions=directions)
    exact = 0.1 * curvature**2 / (4 * quartic)
    # The ratio is linear in T; interpolation linear in log T over a quarter of a decade is off by 4 % at most.
    assert found.cutoff == pytest.approx(exact, rel=0.05)
    assert found.ratios == pytest.approx(1 + 4 * quartic * found.cutoffs[:, None] / curvature**2 + 0 * found.ratios)
    low, high = found.interval()
    assert low == pytest.approx(high)
    assert f"up to the cutoff {found.cutoff:.3g}" in found.verdict


@pytest.mark.slow
def test_the_interval_of_the_break_covers_it() -> None:
    # Ratios 1 + T exp(g), g standard normal: the median breaks at T = 0.1. Over 150 repetitions a 95 % bootstrap
    # interval that covers with probability 0.9 or more covers fewer than 115 times with probability below 1e-5.
    generator, cutoffs = np.random.default_rng(5), np.geomspace(1e-2, 1.0, 25)
    covered = 0
    for _ in range(150):
        ratios = 1.0 + cutoffs[:, None] * np.exp(generator.standard_normal(64))
        low, high = ParaboloidBreak(cutoffs, ratios, 0.1, "hessian").interval()
        covered += low <= 0.1 <= high
    assert covered >= 115


def test_a_paraboloid_that_is_broken_from_the_start_is_said() -> None:
    found = ParaboloidBreak(np.array([0.1, 1.0]), np.full((2, 4), 1.5), 0.1, "hessian")
    assert found.cutoff == 0.0
    assert "broken at the lowest cutoff" in found.verdict


def test_typical_displacements_have_the_mean_and_the_covariance_of_the_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * torch.logspace(-1, 1, SIZE, dtype=torch.float64)) @ basis.T
    theta, shift, inverse = torch.linspace(-1, 2, SIZE, dtype=torch.float64), 0.3, 7.0
    typical = BasinGaussian(MatrixOperator((matrix + matrix.T) / 2), theta, steps=SIZE)
    draws = torch.cat([block.displacements(shift, inverse) for _, block in typical.blocks(1500)])
    shifted = matrix + shift * torch.eye(SIZE, dtype=torch.float64)
    mean = -shift * torch.linalg.solve(shifted, theta)
    # Whitened, means and covariances are standard: six standard errors over 65 numbers fail with probability 1e-7.
    white = (draws - mean) @ torch.linalg.cholesky(inverse * shifted)
    assert white.mean(0).abs().max() < 6 / math.sqrt(1500)
    assert (white.T @ white / 1500 - torch.eye(SIZE)).abs().max() < 6 * math.sqrt(2 / 1500)


def test_bad_input_is_refused() -> None:
    bowl = landscape(2.0, 0.0, torch.zeros(SIZE).double())
    with pytest.raises(ValueError, match="draws must be at least 2"):
        paraboloid_break(bowl, GaussianPrior(1.0), draws=1)
    with pytest.raises(ValueError, match="directions must be one of mass, sphere"):
        paraboloid_break(bowl, GaussianPrior(1.0), directions="cube")
    with pytest.raises(ValueError, match="no cutoff is below the mean quadratic cost"):
        paraboloid_break(bowl, GaussianPrior(1.0), cutoffs=np.array([100.0]))
