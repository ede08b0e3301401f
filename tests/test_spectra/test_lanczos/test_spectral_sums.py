"""Leave-one-out sums against dense matrices, their definition, and 200 seeds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from spectra.errors import UserError
from spectra.lanczos import LeaveOneOut, krylov_space, leave_one_out, probes_of
from spectra.operators import MatrixOperator

SEEDS = 200


def indefinite(size: int) -> torch.Tensor:
    """Eigenvalues like a Hessian's: a power law, an eighth of them negative, an eighth zero; probes know no axes."""
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -1.5
    values[1::8] *= -0.05
    values[3::8] = 0.0
    return values


def clipped(x: np.ndarray, shift: float = 1e-2) -> np.ndarray:
    return np.log1p(np.maximum(x, 0.0) / shift)


def test_samples_and_error_are_what_the_definition_says() -> None:
    """With a polynomial of degree 3, exact for both rules, against bases of the others' Krylov spaces made afresh."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(90, 90, generator=generator, dtype=torch.float64) / 90**0.5
    dense = (root + root.T).numpy()
    found = leave_one_out(MatrixOperator(torch.as_tensor(dense)), 40, block=4, seed=5)
    estimate = found.integrate(lambda x: x + 0.5 * x**3)
    probes = probes_of(MatrixOperator(torch.as_tensor(dense)), 4, seed=5, stream="leave-one-out").numpy()
    image = dense + 0.5 * dense @ dense @ dense

    def sample(place: int, *left_out: int) -> float:
        block = np.delete(probes, [place, *left_out], axis=0).T
        basis = np.linalg.qr(np.concatenate([np.linalg.matrix_power(dense, step) @ block for step in range(6)], 1))[0]
        left = probes[place] - basis @ (basis.T @ probes[place])
        form = left @ image @ left / (left @ left)
        return float(np.trace(basis.T @ image @ basis) + (90 - basis.shape[1]) * form)

    samples = [sample(place) for place in range(4)]
    without = np.array([np.mean([sample(i, j) for i in range(4) if i != j]) for j in range(4)])
    variance = (2.0 * np.var(samples, ddof=1) / 4.0 + 3.0 * np.var(without)) / 3.0
    assert (found.products, found.captured) == (40, 18)
    assert np.allclose(estimate.samples, samples, rtol=0.0, atol=1e-8)
    assert abs(estimate.standard_error - variance**0.5) < 1e-8
    assert estimate.truncation_error < 1e-8


def test_a_log_determinant_against_slogdet() -> None:
    """Within 5 errors of numpy's, which are a twentieth of it at most: one seed."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * torch.arange(1, 301, dtype=torch.float64) ** -2.0) @ basis.T
    truth = float(np.linalg.slogdet(np.eye(300) + matrix.numpy() / 1e-3)[1])
    found = leave_one_out(MatrixOperator((matrix + matrix.T) / 2.0), 160, block=8)
    estimate = found.integrate(lambda x: np.log1p(x / 1e-3))
    error = 5.0 * estimate.standard_error + estimate.truncation_error
    assert abs(estimate.value - truth) <= error <= 0.05 * truth


@pytest.mark.parametrize("values", [[1.0] * 60, [0.0] * 60, [3.0, 1.0] + [0.0] * 58], ids=["one", "zero", "rank two"])
def test_what_is_exhausted_is_exact(values: list[float]) -> None:
    found = leave_one_out(MatrixOperator(torch.diag(torch.tensor(values, dtype=torch.float64))), 48, block=4)
    estimate = found.integrate(clipped)
    truth = float(clipped(np.array(values)).sum())
    assert found.stopped == "invariant"
    assert found.products < 48
    assert abs(estimate.value - truth) <= 1e-8 * (1.0 + truth)
    assert max(estimate.standard_error, estimate.truncation_error) < 1e-6


@pytest.mark.parametrize(
    ("products", "block", "words"),
    [(20, 4, "between 24 and the size 60 for 4 probes, got 20"), (64, 4, "got 64"), (48, 3, "at least 4 probes")],
)
def test_too_few_or_too_many_are_refused(products: int, block: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        leave_one_out(MatrixOperator(torch.eye(60)), products, block=block)


def test_a_function_without_a_value_is_refused() -> None:
    found = leave_one_out(MatrixOperator(torch.diag(indefinite(100))), 48, block=4)
    with pytest.raises(UserError, match="not finite"):
        found.integrate(lambda x: np.log(x))


def test_a_space_ends_where_it_is_told_to() -> None:
    operator = MatrixOperator(torch.diag(torch.linspace(1.0, 2.0, 200, dtype=torch.float64)))
    starts = probes_of(operator, 2, seed=0)
    whole = krylov_space(operator, starts, 40, extra=2, on_part=lambda part: len(part.ends) == 32)
    assert whole.ends == tuple(range(2, 66, 2))
    assert (whole.captured, len(whole.projected)) == (60, 64)


def accurate(found: LeaveOneOut, *, goal: float) -> bool:
    estimate = found.integrate(clipped)
    return max(estimate.standard_error, estimate.truncation_error) <= goal


def summary(found: list[LeaveOneOut], truth: float) -> tuple[float, float, float, int]:
    """Mean error, its standard error, root mean square of reported against true errors, and how many are covered."""
    estimates = [one.integrate(clipped) for one in found]
    errors = np.array([one.value - truth for one in estimates])
    covered = sum(one.interval()[0] <= truth <= one.interval()[1] for one in estimates)
    reported = np.mean([one.standard_error**2 for one in estimates])
    ratio = float((reported / np.mean(errors**2)) ** 0.5)
    return float(errors.mean()), float(errors.std(ddof=1) / len(errors) ** 0.5), ratio, covered


@pytest.mark.slow
def test_no_bias_and_honest_intervals() -> None:
    """Bias below 4 standard errors (6e-5 by chance); fewer than 90 % covered has probability 1e-6 at 97 %."""
    values = indefinite(400)
    operator, truth = MatrixOperator(torch.diag(values)), float(clipped(values.numpy()).sum())
    found = [leave_one_out(operator, 128, block=8, seed=seed) for seed in range(SEEDS)]
    bias, error, ratio, covered = summary(found, truth)
    assert abs(bias) <= 4.0 * error
    assert 0.9 <= ratio <= 1.4
    assert covered >= 0.90 * SEEDS


@pytest.mark.slow
def test_stopping_at_a_target_does_not_bias() -> None:
    """A target that half of the seeds reach at the first look: no bias beyond 4 standard errors (6e-5 by chance)."""
    values = indefinite(400)
    operator, truth = MatrixOperator(torch.diag(values)), float(clipped(values.numpy()).sum())
    enough = partial(accurate, goal=0.41)
    found = [leave_one_out(operator, 192, block=8, seed=seed, enough=enough) for seed in range(SEEDS)]
    early = [one for one in found if one.stopped == "enough"]
    assert {one.products for one in early} == {128}
    assert 0.2 * SEEDS <= len(early) <= 0.8 * SEEDS
    for group in (found, early):
        bias, error, _, covered = summary(group, truth)
        assert abs(bias) <= 4.0 * error
        assert covered >= 0.90 * len(group)
