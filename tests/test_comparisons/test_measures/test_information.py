"""Takeuchi's criterion and the soft rank against dense matrices, sample by sample, and where they are one number."""

import pytest
import torch
from torch import Tensor, nn

from comparisons.evidence import Evidence, EvidenceSettings, signed_gradients
from comparisons.measures import measures_of
from spectra.costs import CrossEntropy, cross_entropy, mean_squared_error
from spectra.landscape import Landscape
from spectra.operators import GaussNewton

CHECKED = {
    "tic": ("test_takeuchis_criterion_against_dense_matrices",),
    "soft-rank": ("test_the_soft_rank_against_the_dense_matrix",),
}


def covariance(landscape: Landscape) -> Tensor:
    """S from the gradients of all samples, one at a time."""
    rows, weights = [], []
    for batch in landscape.iterate():
        for row in range(batch.rows):
            one = landscape.derived([batch.cut(slice(row, row + 1))])
            rows.append(one.gradient())
            weights.append(one.total_weight)
    found, share = torch.stack(rows), torch.tensor(weights).double() / sum(weights)
    found = found - share @ found
    return found.T @ (share[:, None] * found)


def truth(landscape: Landscape, shift: float) -> tuple[float, float]:
    plain = Landscape(**(landscape._options() | {"l2": 0.0}))
    matrix = GaussNewton(plain).to_dense()
    inverse = torch.linalg.inv(matrix + shift * torch.eye(len(matrix), dtype=torch.float64))
    return float(torch.trace(inverse @ covariance(landscape))), float(torch.trace(inverse @ matrix))


def weighted(rows: int = 60, l2: float = 0.0) -> Landscape:
    """Classes of different weights, some ignored, in two uneven batches."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    random = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 4, generator=random, dtype=torch.float64)
    y = torch.randint(0, 3, (rows,), generator=random)
    y[::10] = -100
    cost = CrossEntropy(class_weights=torch.tensor([1.0, 2.0, 0.5]))
    return Landscape(model, cost, [(x[:17], y[:17]), (x[17:], y[17:])], l2=l2)


@pytest.mark.parametrize("shift, l2", [(0.3, 0.0), (0.01, 0.05)])
def test_takeuchis_criterion_against_dense_matrices(shift: float, l2: float) -> None:
    landscape = weighted(l2=l2)
    (measure,) = measures_of(["tic"])
    reading = measure.compute(Evidence(landscape, settings=EvidenceSettings(seed=1)), shift=shift, probes=160)
    exact, _ = truth(landscape, shift)
    # 160 vectors: five standard errors fail with probability 1e-6.
    assert abs(reading.value - exact) < 5.0 * reading.standard_error + reading.truncation_error
    assert 0.0 < reading.standard_error < 0.08 * exact
    assert reading.truncation_error < 0.02 * exact
    assert reading.details["expected gap"] == pytest.approx(reading.value / landscape.samples)


def test_the_random_vectors_have_the_gradients_covariance() -> None:
    """Their second moment over 1500 draws: each entry within six standard errors (failure below 1e-5 in all)."""
    landscape = weighted()
    rows = signed_gradients(Evidence(landscape), 1500)
    exact = covariance(landscape)
    spread = (torch.outer(exact.diagonal(), exact.diagonal()) + exact.square()).sqrt()
    off = (rows.T @ rows / 1500 - exact).abs() / (spread / 1500**0.5 + 1e-300)
    assert float(off.max()) < 6.0
    other = Landscape(landscape.model, landscape.cost_function, landscape.batches)
    assert torch.equal(signed_gradients(Evidence(other), 4), signed_gradients(Evidence(landscape), 4))


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_the_soft_rank_against_the_dense_matrix(l2: float) -> None:
    landscape = weighted(l2=l2)
    (measure,) = measures_of(["soft-rank"])
    _, exact = truth(landscape, 0.01)
    assert measure.compute(Evidence(landscape), shift=0.01).value == pytest.approx(exact, rel=1e-7)
    shift = measure.compute(Evidence(landscape)).details["shift"]
    expected = l2 or 1.0 / (landscape.samples * float(landscape.theta.square().mean()))
    assert shift == pytest.approx(expected)


def test_of_a_true_linear_model_both_are_the_number_of_parameters() -> None:
    """Regression with noise of variance 1/2, whose squared error is minus the log-likelihood: H = 2 X'X/N = S nearly.

    With 4,000 samples the trace of ``H^-1 S`` is within 8 % of five by four standard errors.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 5, generator=random, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + 0.5**0.5 * torch.randn(4_000, 1, generator=random, dtype=torch.float64)
    model = nn.Linear(5, 1, bias=False).double()
    theta = torch.linalg.lstsq(x, y).solution.reshape(-1)
    evidence = Evidence(Landscape(model, mean_squared_error, (x, y), theta=theta))
    tic, rank = measures_of(["tic"])[0], measures_of(["soft-rank"])[0]
    reading = tic.compute(evidence, shift=1e-6, probes=400)
    assert abs(reading.value - 5.0) < 0.4 + 5.0 * reading.standard_error
    assert rank.compute(evidence, shift=1e-6).value == pytest.approx(5.0, abs=1e-4)


def test_no_noise_is_no_gap() -> None:
    """All samples alike: their gradients do not scatter."""
    model = nn.Linear(2, 3).double()
    x, y = torch.ones(8, 2).double(), torch.zeros(8).long()
    (measure,) = measures_of(["tic"])
    assert measure.compute(Evidence(Landscape(model, cross_entropy, (x, y)))).value < 1e-20


def test_of_two_samples_half_of_the_random_vectors_vanish() -> None:
    """Their gradients lie on two sides of the mean, and cancel where their signs are alike."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, generator=random, dtype=torch.float64), torch.tensor([0, 2])
    landscape = Landscape(nn.Linear(2, 3).double(), cross_entropy, (x, y))
    (measure,) = measures_of(["tic"])
    reading = measure.compute(Evidence(landscape), shift=0.1, probes=200)
    exact, _ = truth(landscape, 0.1)
    assert abs(reading.value - exact) < 5.0 * reading.standard_error
