"""Rows of the registry as they are read: against dense matrices where spectra are sampled, PyHessian and papers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from comparisons.evidence import Evidence, EvidenceSettings, hessian_spectrum
from comparisons.evidence.spectra import gauss_newton_spectrum
from comparisons.measures import measures_of
from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.operators import GaussNewton, Hessian
from spectra.pyhessian import inside_pyhessian, pyhessian_trace
from tests.test_comparisons.conftest import classified, quadratic, relu_network

# Two-sided, for each statistical comparison below.
ALPHA = 1e-4
NORMAL = float(stats.norm.ppf(1.0 - ALPHA / 2.0))


def t_of(samples: int) -> float:
    return float(stats.t.ppf(1.0 - ALPHA / 2.0, samples - 1))


def read(name: str, evidence: Evidence):
    (measure,) = measures_of([name])
    return measure.compute(evidence)


@pytest.fixture(scope="module")
def wide() -> Landscape:
    """20-24-5 with ReLU: 629 parameters, so many that spectra are sampled and so few that they are known."""
    return Landscape(relu_network(24, 20, 5), cross_entropy, classified(rows=200, inputs=20, classes=5))


@pytest.fixture(scope="module")
def sampled(wide: Landscape) -> Evidence:
    return Evidence(wide, settings=EvidenceSettings(probes=6, steps=48))


@pytest.fixture(scope="module")
def hessian(wide: Landscape) -> np.ndarray:
    return np.linalg.eigvalsh(Hessian(wide).to_dense().numpy())


@pytest.fixture(scope="module")
def gauss_newton(wide: Landscape) -> np.ndarray:
    return np.maximum(np.linalg.eigvalsh(GaussNewton(wide).to_dense().numpy()), 0.0)


# Curvature where it is sampled


def assert_within(name: str, evidence: Evidence, truth: float, close: float) -> None:
    reading = read(name, evidence)
    # Student t over six probes, and the truncation error: fails with probability 1e-4.
    allowed = t_of(6) * reading.standard_error + reading.truncation_error
    assert abs(reading.value - truth) <= allowed + 1e-9 * abs(truth), name
    assert abs(reading.value - truth) < close * abs(truth), name


def test_sampled_hessians_against_the_dense_matrix(sampled: Evidence, hessian: np.ndarray) -> None:
    assert hessian_spectrum(sampled).route == "slq"
    trace, sizes = hessian.sum(), np.sort(np.abs(hessian))[::-1]
    expected = {
        "hessian-trace": trace,
        "largest-eigenvalue": hessian[-1],
        "hessian-frobenius": math.sqrt((hessian**2).sum()),
        "largest-over-trace": hessian[-1] / trace,
        "first-over-fifth": sizes[0] / sizes[4],
        "smallest-over-largest": -hessian[0] / hessian[-1],
        "negative-mass": -hessian[hessian < 0.0].sum() / np.abs(hessian).sum(),
    }
    for name, value in expected.items():
        assert_within(name, sampled, float(value), 0.25 if name == "negative-mass" else 0.05)


def test_sampled_gauss_newton_matrices_against_the_dense_one(sampled: Evidence, gauss_newton: np.ndarray) -> None:
    assert gauss_newton_spectrum(sampled).route == "slq"
    values, landscape = gauss_newton, sampled.landscape
    variance = float(landscape.theta.square().mean())
    nb = 200.0 / math.log(200.0)
    share = values[values > 0.0] / values.sum()
    expected = {
        "log-determinant": np.log1p(values * variance).sum(),
        "effective-dimension": (values / (values + 1.0 / (200.0 * variance))).sum(),
        "participation-ratio": values.sum() ** 2 / (values**2).sum(),
        "effective-rank": math.exp(-(share * np.log(share)).sum()),
        "local-entropy": -0.5 * np.log1p(200.0 * variance * values).sum(),
        "half-effective-dimension": 0.5 * (nb * values / (nb * values + 100.0)).sum(),
    }
    for name, value in expected.items():
        assert_within(name, sampled, float(value), 0.05)


def test_trace_and_largest_eigenvalue_against_pyhessian(sampled: Evidence, wide: Landscape) -> None:
    (top,), _ = inside_pyhessian(wide, 0, lambda hessian: hessian.eigenvalues(maxIter=2000, tol=1e-10, top_n=1))
    assert read("largest-eigenvalue", sampled).value == pytest.approx(float(top), rel=1e-5)
    theirs, ours = pyhessian_trace(wide, 400), read("hessian-trace", sampled)
    error = NORMAL * theirs.standard_error + t_of(6) * ours.standard_error + ours.truncation_error
    assert abs(theirs.value - ours.value) < error
    assert theirs.standard_error < 0.02 * abs(ours.value)


# One step of ascent, as published


def plain_cost(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x), y)


def sam(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rho: float = 0.05) -> float:
    """``L(w + rho g / |g|) - L(w)`` by the steps of Foret et al."""
    before = plain_cost(model, x, y)
    slopes = torch.autograd.grad(before, list(model.parameters()))
    length = torch.stack([slope.norm() for slope in slopes]).norm()
    moved = [part + rho * slope / length for part, slope in zip(model.parameters(), slopes, strict=True)]
    return at(model, moved, x, y) - before.item()


def asam(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rho: float = 0.5, eta: float = 0.01) -> float:
    """Kwon et al.: weights' slopes times ``|w| + eta`` once for the length, twice for the step; biases plain."""
    before = plain_cost(model, x, y)
    slopes = torch.autograd.grad(before, list(model.parameters()))
    scaled, steps = [], []
    for (name, part), slope in zip(model.named_parameters(), slopes, strict=True):
        size = part.abs() + eta if "weight" in name else torch.ones_like(part)
        scaled.append((size * slope).norm())
        steps.append(size * size * slope)
    length = torch.stack(scaled).norm()
    moved = [part + rho * step / length for part, step in zip(model.parameters(), steps, strict=True)]
    return at(model, moved, x, y) - before.item()


def at(model: nn.Module, parts: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    named = dict(zip((name for name, _ in model.named_parameters()), parts, strict=True))
    return nn.functional.cross_entropy(torch.func.functional_call(model, named, (x,)), y).item()


@pytest.mark.parametrize("name, recipe", [("sam", sam), ("asam", asam)])
def test_one_step_by_the_published_recipe(name: str, recipe: Callable[..., float]) -> None:
    model, (x, y) = relu_network(), classified()
    found = read(name, Evidence(Landscape(model, cross_entropy, (x, y))))
    assert found.value == pytest.approx(recipe(model, x, y), rel=1e-9)
    assert found.value > 0.0


def test_m_sharpness_by_the_published_recipe() -> None:
    model, (x, y) = relu_network(), classified(rows=300)
    found = read("m-sharpness", Evidence(Landscape(model, cross_entropy, [(x[:100], y[:100]), (x[100:], y[100:])])))
    parts = [(128, slice(0, 128)), (128, slice(128, 256)), (44, slice(256, 300))]
    expected = sum(many * sam(model, x[rows], y[rows]) for many, rows in parts) / 300.0
    assert found.value == pytest.approx(expected, rel=1e-9)


# Draws and searches


def test_average_cases_are_traces(quadratic_evidence: Evidence) -> None:
    model, theta = quadratic_evidence.landscape.model, quadratic_evidence.landscape.theta
    diagonal = model.matrix.diagonal()
    expected = {
        "average-case": 0.01**2 / 2.0 * float(diagonal.sum()),
        "adaptive-average-case": 0.05**2 / 2.0 * float(diagonal @ theta.square()),
    }
    for name, value in expected.items():
        found = read(name, quadratic_evidence)
        assert abs(found.value - value) < t_of(50) * found.standard_error, name  # fails with probability 1e-4
        assert found.standard_error < 0.2 * value, name


def test_keskar_subspace_is_nearly_the_largest_of_all_corners() -> None:
    values = (6.0, 3.0, 1.5, 1.0, 0.5, 0.25)
    landscape = quadratic(values)
    found = read("keskar-subspace", Evidence(landscape))
    # The same six directions (the row has 100, or n if that is less), and the maximum of a convex form over a box.
    basis = torch.randn(6, 6, generator=generator(0, "keskar-subspace"), dtype=torch.float64)
    reach = 1e-3 * ((torch.linalg.pinv(basis.T) @ landscape.theta).abs() + 1.0)
    moves = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 6) * reach @ basis
    largest = 100.0 * float((0.5 * (moves @ landscape.model.matrix) * moves).sum(-1).max())
    # Of 32 pairs of corners five starts need not find the highest.
    assert 0.8 * largest < found.value <= largest * (1.0 + 1e-9)


def test_relative_flatness_of_the_last_layer_by_the_double_sum() -> None:
    model, (x, y) = relu_network(), classified()
    landscape = Landscape(model, cross_entropy, (x, y))
    found = read("relative-flatness", Evidence(landscape))
    spread = model[:2](x).detach().std(0, unbiased=False)
    spread[spread == 0.0] = 1.0
    weight = model[2].weight.detach() * spread
    rows, columns = weight.shape
    blocks = Hessian(landscape.restricted(("2.weight",))).to_dense().reshape(rows, columns, rows, columns)
    total = 0.0
    for s in range(rows):
        for t in range(rows):
            trace = float((blocks[s, :, t, :].diagonal() / spread.square()).sum())
            total += float(weight[s] @ weight[t]) * trace
    assert abs(found.value - total) < t_of(100) * found.standard_error  # fails with probability 1e-4
    assert found.standard_error < 0.2 * total


def test_a_slice_of_an_ellipsoid_is_its_volume() -> None:
    values, cutoff = (6.0, 3.0, 1.5), 0.02
    evidence = Evidence(quadratic(values), settings=EvidenceSettings(cutoff=cutoff, directions=2000))
    found = read("ellipsoid-slice", evidence)
    truth = math.log(4.0 / 3.0 * math.pi) + sum(0.5 * math.log(2.0 * cutoff / value) for value in values)
    # Fails with probability 1e-4; 2e-3 for the tolerance of the crossings.
    assert abs(found.value - truth) < NORMAL * found.standard_error + 2e-3
    assert found.standard_error < 0.03
