"""What chains have seen of an ensemble, against Gaussians whose precision is known."""

import math

import numpy as np
import pytest
import torch

import volume.chains.rung_sampler as rung_sampler
from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from volume.bridge import bridge_volume
from volume.chains import BridgeSettings, Correction, RungState
from volume.chains.cost import SublevelCost
from volume.chains.metric import MOST_GRADIENTS, Metric, curvature_metric, learned_correction
from volume.priors import GaussianPrior
from volume.quadratic import LeadingCurvature, QuadraticEnsemble


def orthonormal(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64))[0].T.contiguous()


def model(curvature: list[float], size: int, b: float = 10.0, g: float = 2.0) -> QuadraticEnsemble:
    """Precision ``b l_i + g + 1`` in the first directions, ``g + 1`` in all others."""
    values = torch.tensor(curvature, dtype=torch.float64)
    vectors = torch.eye(size, dtype=torch.float64)[: len(curvature)]
    return QuadraticEnsemble(LeadingCurvature(values, vectors), torch.zeros(size, dtype=torch.float64), b, g)


def draws(precision: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Draws (count, n) of ``N(0, A^-1)``, by another way than the sampler's."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(precision), generator=generator, dtype=torch.float64)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(precision).T, noise.T, upper=True).T


def dense(metric: QuadraticEnsemble | Metric, size: int) -> torch.Tensor:
    return metric.precision(torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("count", [60, 500])
def test_a_model_that_is_right_needs_no_correction(count: int) -> None:
    known = model([40.0, 7.0, 0.5], 200)
    points = draws(dense(known, 200), count, 1)
    found = learned_correction(points, points @ dense(known, 200), known)
    assert len(found.precisions) == 0
    # The mean of 200 count squares of normals is within 5.5 standard deviations of one but for 4e-8.
    assert abs(found.rest - 1.0) <= 5.5 * math.sqrt(2.0 / (200 * count))


@pytest.mark.parametrize("count", [120, 900])
def test_what_the_model_lacks_is_found_where_it_stands_out(count: int) -> None:
    size, known = 300, model([40.0], 300)
    direction = orthonormal(1, size, 3)[0]
    true = dense(known, size) + 600.0 * torch.outer(direction, direction)
    points = draws(true, count, 2)
    found = learned_correction(points, points @ true, known)
    metric = Metric(known, found)
    assert len(found.precisions) == 1
    along = metric.precision(direction.unsqueeze(0))[0] @ direction
    # A second moment of count normals: relative deviation sqrt(2 / count), 5.5 of them; the direction is off by
    # n / (count 200), which costs that share.
    assert float(along) == pytest.approx(float(direction @ true @ direction), rel=5.5 * math.sqrt(2.0 / count) + 0.02)
    across = orthonormal(2, size, 9)
    exact = torch.einsum("ki,ij,kj->k", across, true, across)
    assert torch.allclose((metric.precision(across) * across).sum(1), exact, rtol=0.3)


def test_a_metric_is_one_matrix_its_inverse_and_its_deviations() -> None:
    size, vectors = 40, orthonormal(3, 40, 5)
    known = model([30.0, 4.0], size)
    found = Correction(np.array([50.0, 9.0, 1.5]), vectors.numpy(), 2.5, np.zeros(size))
    metric = Metric(known, found)
    matrix = dense(metric, size)
    root = torch.linalg.matrix_power(torch.eye(size, dtype=torch.float64), 1)
    root[0, 0], root[1, 1] = math.sqrt(303.0 / 3.0), math.sqrt(43.0 / 3.0)
    root *= math.sqrt(3.0)
    middle = 2.5 * torch.eye(size).double() + vectors.T @ torch.diag(torch.as_tensor(found.precisions) - 2.5) @ vectors
    assert torch.allclose(matrix, root @ middle @ root, rtol=1e-12)
    assert torch.allclose(metric.inverse(matrix), torch.eye(size, dtype=torch.float64), atol=1e-10)
    sample = metric.deviations(torch.Generator().manual_seed(4), 20_000)
    squares = ((sample @ matrix) * sample).sum(1)
    # A chi square of n degrees: its mean over 20,000 is within 5 standard errors but for 6e-7.
    assert abs(float(squares.mean()) - size) <= 5.0 * math.sqrt(2.0 * size / 20_000)
    white = sample @ torch.linalg.cholesky(matrix)
    assert torch.allclose(white.T @ white / 20_000, torch.eye(size).double(), atol=6.0 * math.sqrt(2.0 / 20_000))


def test_on_a_colder_rung_what_the_model_lacks_is_as_much_stiffer() -> None:
    size, known = 60, model([40.0], 60)
    direction = torch.eye(size, dtype=torch.float64)[7]
    extra = 5.0  # curvature of the cost along it, which the model has as none
    one = 1.0 + 10.0 * extra / 3.0  # b 10, g + 1 = 3
    found = Correction(np.array([one]), direction.unsqueeze(0).numpy(), 1.0, np.zeros(size))
    moved = Metric(known.at(40.0, 1.0), found.stiffer(40.0 / 10.0 * 3.0 / 2.0))
    assert float(moved.precision(direction.unsqueeze(0))[0] @ direction) == pytest.approx(40.0 * extra + 2.0)


def test_the_mean_curvature_is_one_matrix_its_inverse_and_its_deviations() -> None:
    """Of a linear model it is the same everywhere, and known."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    data = inputs, torch.zeros(30, 1, dtype=torch.float64)
    place = Landscape(torch.nn.Linear(4, 1, bias=False).double(), mean_squared_error, data, l2=0.3)
    cost = SublevelCost(place, GaussianPrior(2.0))
    points = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    seen = Correction(np.empty(0), np.empty((0, 4)), 1.0, np.arange(4.0), points.numpy())
    metric = curvature_metric(cost, seen, RungState(50.0, 3.0), spent=2**20)
    assert cost.spent.gradients == MOST_GRADIENTS
    curvature = 2.0**2 * (2.0 * inputs.T @ inputs / 30 + 0.3 * torch.eye(4))
    exact = 50.0 * curvature + 4.0 * torch.eye(4)
    # The root mean square of the second moment's error is 1.8 % of the norm, and its largest entry is asked for.
    assert torch.allclose(metric.matrix, exact, atol=0.08 * float(exact.norm()))
    identity = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(metric.inverse(metric.precision(identity)), identity, atol=1e-10)
    sample = metric.deviations(torch.Generator().manual_seed(4), 20_000)
    squares = ((sample @ metric.matrix) * sample).sum(1)
    # A chi square of n degrees: its mean over 20,000 is within 5 standard errors but for 6e-7.
    assert abs(float(squares.mean()) - 4.0) <= 5.0 * math.sqrt(2.0 * 4.0 / 20_000)
    assert torch.allclose(metric.mean, torch.arange(4.0).double())


def test_nothing_is_learned_from_where_the_chains_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # A metric that spans the forces at the chains' last points has them begin at rest in all its other directions.
    seen, last = [], []

    def watched(points: torch.Tensor, scores: torch.Tensor, model: QuadraticEnsemble) -> Correction:
        seen.append(points)
        return learned_correction(points, scores, model)

    monkeypatch.setattr(rung_sampler, "learned_correction", watched)

    class Point(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))

        def forward(self, ones: torch.Tensor) -> torch.Tensor:
            return ones * self.theta

    ones = torch.ones(1, 6, dtype=torch.float64)
    cost = Landscape(Point(), lambda outputs, _: 0.5 * outputs.square().sum(-1), (ones, ones))
    settings = BridgeSettings(cutoffs=(0.1,), origin="prior", chains=4, draws=20, warm_up=5, seed=3)
    result = bridge_volume(cost, GaussianPrior(1.5), settings, on_rung=lambda now: last.append(now.passes[0][-1].last))
    assert len(seen) >= 3
    for points, ends in zip(seen, last[1:], strict=False):
        assert len(points) == 10 * 4
        apart = np.abs(points.numpy()[:, None, :] - ends[None]).max(-1)
        assert apart.min() > 1e-9
    assert result.complete
