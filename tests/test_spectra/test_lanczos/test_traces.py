"""Trace estimators and top eigenpairs against dense matrices and scipy."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from spectra.estimate import Estimate
from spectra.lanczos import deflated_trace, draw_probes, hutch_plus_plus, hutchinson, top_eigenpairs, xtrace
from spectra.operators import MatrixOperator, SymmetricOperator
from spectra.split import integrate_within

N = 150
ESTIMATORS = [hutchinson, hutch_plus_plus, xtrace]


def beside_the_top(operator: SymmetricOperator, products: int, *, seed: int) -> Estimate:
    """The trace beside the three largest eigenpairs."""
    basis = torch.linalg.eigh(power_law())[1].T[-3:]
    return deflated_trace(operator, basis, products - 3, seed=seed)


def power_law(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))[0]
    values = torch.arange(1, N + 1, dtype=torch.float64) ** -1.5
    values[::7] *= -0.5
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2.0


@pytest.mark.parametrize("estimator", [*ESTIMATORS, beside_the_top])
def test_unbiased_with_an_honest_error(estimator) -> None:  # noqa: ANN001
    """Mean over 300 seeds within 4.5 standard errors (failure below 1e-5), error bars of the right size."""
    operator, truth = MatrixOperator(power_law()), float(torch.trace(power_law()))
    found = [estimator(operator, 60, seed=seed) for seed in range(300)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean() - truth) < 4.5 * values.std(ddof=1) / np.sqrt(len(values))
    claimed = np.sqrt(np.mean([estimate.standard_error**2 for estimate in found]))
    assert 0.6 < claimed / values.std(ddof=1) < 1.4


def test_order_of_accuracy_on_a_decaying_spectrum() -> None:
    operator, truth = MatrixOperator(power_law()), float(torch.trace(power_law()))
    errors = [np.sqrt(np.mean([(f(operator, 90, seed=s).value - truth) ** 2 for s in range(40)])) for f in ESTIMATORS]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_seeds_differ_and_repeat(estimator) -> None:  # noqa: ANN001
    operator = MatrixOperator(power_law())
    assert estimator(operator, 30, seed=1).value == estimator(operator, 30, seed=1).value
    assert estimator(operator, 30, seed=1).value != estimator(operator, 30, seed=2).value


def test_low_rank_is_exact_to_the_rounding_that_is_told() -> None:
    vectors = torch.randn(3, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator = MatrixOperator(vectors.T @ vectors)
    truth = float((vectors**2).sum())
    assert hutch_plus_plus(operator, 30).value == pytest.approx(truth, rel=1e-10)
    assert xtrace(operator, 30).value == pytest.approx(truth, rel=1e-10)
    found = xtrace(operator, 30)
    assert found.interval()[0] <= truth <= found.interval()[1]
    assert 0.0 < found.half_width() < 1e-11 * truth


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("products", [60, 90, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tail", [1e-8, 1e-6])
def test_a_tail_below_rounding_adds_up(estimator, products: int, dtype: torch.dtype, tail: float) -> None:  # noqa: ANN001
    """20 ones and 50,000 eigenvalues so small that a sketch in float32 takes them for rounding: 5e-4 or 0.05 of trace.

    Intervals of 99.99 %; the seed is fixed.
    """
    values = torch.full((50_000,), tail, dtype=torch.float64)
    values[:20] = 1.0
    found, truth = estimator(Diagonal(values.to(dtype)), products), float(values.sum())
    assert not found.exact
    low, high = found.interval(0.9999)
    rounding = 1e-12 * truth
    assert low - rounding <= truth <= high + rounding
    # Narrower than the smaller tail, or than a fiftieth of the larger one.
    assert high - low < max(4.9e-4, 0.02 * tail * 50_000)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_probes_that_agree_by_chance_are_not_exact(estimator) -> None:  # noqa: ANN001
    """Of the exchange of two coordinates, of trace zero, every Rademacher probe says 2 or -2, and two often agree."""
    matrix = torch.eye(40, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for seed in range(20):
        found = estimator(MatrixOperator(matrix), 6, seed=seed)
        assert not found.exact
        assert found.half_width() > 0.0


def test_a_zero_matrix_has_a_trace_of_zero() -> None:
    for estimator in ESTIMATORS:
        found = estimator(MatrixOperator(torch.zeros(30, 30)), 12)
        assert found.value == 0.0
        assert found.half_width() == 0.0


class Diagonal(SymmetricOperator):
    """A diagonal matrix that is never formed."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.size, self.dtype, self.device = values, len(values), values.dtype, values.device

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors * self.values


def test_xtrace_equals_leaving_each_probe_out() -> None:
    """The fast formulas against the definition: sketch again without probe i, and test with probe i."""
    matrix, count = power_law(), 6
    operator = MatrixOperator(matrix)
    probes = draw_probes(N, count, seed=4, stream="sketch", dtype=torch.float64)
    samples = []
    for left_out in range(count):
        others = [row for row in range(count) if row != left_out]
        basis = torch.linalg.qr(matrix @ probes[others].T)[0]
        rest = probes[left_out] - basis @ (basis.T @ probes[left_out])
        scale = (N - count + 1) / float(rest @ rest)
        samples.append(float(torch.trace(basis.T @ matrix @ basis)) + scale * float(rest @ matrix @ rest))
    estimate = xtrace(operator, 2 * count, seed=4)
    assert np.allclose(estimate.samples, samples, rtol=1e-9)


def test_bad_budgets() -> None:
    operator = MatrixOperator(torch.eye(4))
    for estimator, products in ((hutchinson, 0), (hutch_plus_plus, 5), (xtrace, 3), (xtrace, 10)):
        with pytest.raises(ValueError, match="products must"):
            estimator(operator, products)


@pytest.mark.parametrize(("which", "theirs"), [("magnitude", "LM"), ("largest", "LA"), ("smallest", "SA")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigenpairs_agree_with_arpack(which: str, theirs: str, dtype: torch.dtype) -> None:
    operator = MatrixOperator(power_law().to(dtype))
    pairs = top_eigenpairs(operator, 9, which=which)
    expected = np.sort(eigsh(MatrixOperator(power_law()).to_scipy(), 9, which=theirs)[0])
    assert pairs.converged
    assert np.allclose(np.sort(pairs.values), expected, atol=1e-10 if dtype == torch.float64 else 3e-6)
    direct = operator.matrix @ pairs.vectors.T - pairs.vectors.T * torch.as_tensor(pairs.values, dtype=dtype)
    assert np.allclose(direct.norm(dim=0).numpy(), pairs.residuals, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "values"),
    [
        (torch.eye(50), [1.0] * 5),
        (torch.zeros(20, 20), [0.0] * 3),
        (torch.ones(30, 30), [30.0, 0.0, 0.0, 0.0]),
        (torch.diag(torch.arange(6.0)), [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]),
    ],
    ids=["identity", "zero", "rank one", "all of them"],
)
def test_eigenpairs_of_degenerate_matrices(matrix: torch.Tensor, values: list[float]) -> None:
    pairs = top_eigenpairs(MatrixOperator(matrix.double()), len(values))
    assert np.allclose(pairs.values, values, atol=1e-12)
    assert torch.allclose(pairs.vectors @ pairs.vectors.T, torch.eye(len(values), dtype=torch.float64), atol=1e-10)


def test_eigenpairs_say_when_they_did_not_converge() -> None:
    pairs = top_eigenpairs(MatrixOperator(power_law()), 20, max_products=24)
    assert not pairs.converged
    assert pairs.residuals.max() > 1e-6


def test_a_budget_is_kept_and_split_by_the_function() -> None:
    """Trace and log-determinant within 5 errors of the truth; the trace is given one step a probe."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64))[0]
    values = torch.arange(1, 401, dtype=torch.float64) ** -1.2
    matrix = (basis * values) @ basis.T
    operator = MatrixOperator((matrix + matrix.T) / 2.0)
    for function in (lambda x: x, lambda x: np.log1p(x / 0.01)):
        found = integrate_within(operator, function, 400, max_steps=48)
        truth = float(function(values.numpy()).sum())
        assert found.products <= 400
        error = 5 * found.estimate.standard_error + found.estimate.truncation_error
        assert abs(found.estimate.value - truth) <= error
    assert integrate_within(operator, lambda x: x, 400, max_steps=48).steps == 1
    with pytest.raises(ValueError, match="products must be at least"):
        integrate_within(operator, lambda x: x, 60, max_steps=48)
