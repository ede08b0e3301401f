"""Laws of Lanczos and of Krylov spaces on matrices with a prescribed spectrum."""

import numpy as np
import pytest
import torch

from spectra.lanczos import (
    basis_bytes,
    draw_probes,
    from_rules,
    krylov_space,
    lanczos,
    logarithm_error_bound,
    orthonormal_rows,
)
from spectra.operators import MatrixOperator

N = 60


def rotated(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A full matrix with the given eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))[
        0
    ]
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2.0


INDEFINITE = torch.cat(
    [torch.logspace(1, -3, 40, dtype=torch.float64), -torch.logspace(0, -4, 20, dtype=torch.float64)]
)


def test_three_term_recurrence_and_orthonormal_basis() -> None:
    operator = MatrixOperator(rotated(INDEFINITE))
    run = lanczos(operator, draw_probes(N, 3, seed=0, dtype=torch.float64), 20, keep_basis=True)
    assert run.basis is not None
    for row in range(3):
        basis = run.basis[row].numpy()
        assert np.allclose(basis @ basis.T, np.eye(20), atol=1e-12)
        alpha, beta = run.tridiagonal.diagonal[row], run.tridiagonal.off_diagonal[row]
        projected = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        remainder = basis @ operator.matrix.numpy() - projected @ basis
        assert np.allclose(remainder[:-1], 0.0, atol=1e-11)
        assert np.linalg.norm(remainder[-1]) == pytest.approx(beta[-1], rel=1e-9)


@pytest.mark.parametrize("reorthogonalise", ["full", "none"])
def test_quadrature_is_exact_for_polynomials_of_degree_2m_minus_1(reorthogonalise: str) -> None:
    matrix = rotated(INDEFINITE)
    probe = draw_probes(N, 1, seed=1, dtype=torch.float64)
    nodes, weights = lanczos(MatrixOperator(matrix), probe, 5, reorthogonalise=reorthogonalise).tridiagonal.quadrature()
    vector = probe[0] / probe[0].norm()
    image = vector.clone()
    for degree in range(10):
        assert (weights[0] * nodes[0] ** degree).sum() == pytest.approx(float(vector @ image), rel=1e-9, abs=1e-11)
        image = matrix @ image


def test_full_depth_gives_the_eigenvalues_from_any_start() -> None:
    run = lanczos(MatrixOperator(rotated(INDEFINITE)), draw_probes(N, 2, seed=5, dtype=torch.float64), 10 * N)
    assert run.tridiagonal.steps == N
    assert np.allclose(run.tridiagonal.quadrature()[0][1], np.sort(INDEFINITE.numpy()), atol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "length"),
    [
        (torch.eye(N), 1),
        (torch.zeros(N, N), 1),
        (torch.outer(torch.ones(N), torch.ones(N)) / N, 2),
        (rotated(torch.tensor([1.0, 2.0, 3.0]).repeat(N // 3).double()).float(), 3),
    ],
    ids=["identity", "zero", "rank-one", "three repeated eigenvalues"],
)
def test_breakdown_is_found_and_leaves_a_right_rule(matrix: torch.Tensor, length: int) -> None:
    for dtype in (torch.float64, torch.float32):
        whole = (
            matrix.to(dtype)
            if dtype == torch.float32
            else rotated(torch.linalg.eigvalsh(matrix.double()).round(decimals=4))
        )
        operator = MatrixOperator(whole.to(dtype))
        probes = draw_probes(N, 4, seed=0, dtype=dtype)
        run = lanczos(operator, probes, 30).tridiagonal
        nodes, weights = run.quadrature()
        assert np.isfinite(nodes).all()
        assert np.allclose(weights.sum(1), 1.0)
        if dtype == torch.float64:
            assert (run.lengths == length).all()
        mean = float((operator.matrix.double() @ probes[0].double()) @ probes[0].double()) / N
        assert (weights[0] * nodes[0]).sum() == pytest.approx(mean, abs=1e-5)


def test_one_step_and_one_dimension() -> None:
    one = lanczos(MatrixOperator(torch.tensor([[3.0]])), torch.ones(2, 1), 7).tridiagonal
    assert one.quadrature()[0].tolist() == [[3.0], [3.0]]
    first = lanczos(MatrixOperator(rotated(INDEFINITE)), draw_probes(N, 1, seed=0, dtype=torch.float64), 1).tridiagonal
    assert first.quadrature()[1].tolist() == [[1.0]]


def test_ghosts_leave_the_sums_right_without_reorthogonalisation() -> None:
    matrix = rotated(torch.cat([torch.tensor([100.0, 50.0]), torch.linspace(0.1, 1.0, N - 2)]).double()).float()
    probe = draw_probes(N, 1, seed=2)
    rules = {
        kind: lanczos(MatrixOperator(matrix), probe, 40, reorthogonalise=kind).tridiagonal.quadrature()
        for kind in ("full", "none")
    }
    copies = {kind: int((np.abs(nodes - 100.0) < 1e-2).sum()) for kind, (nodes, _) in rules.items()}
    assert copies["full"] == 1
    assert copies["none"] > 1
    sums = {kind: float((weights * np.log(nodes + 0.1)).sum()) for kind, (nodes, weights) in rules.items()}
    assert sums["none"] == pytest.approx(sums["full"], abs=1e-5)


def test_probes_do_not_influence_each_other() -> None:
    operator = MatrixOperator(rotated(INDEFINITE))
    probes = draw_probes(N, 3, seed=0, dtype=torch.float64)
    together = lanczos(operator, probes, 12).tridiagonal.diagonal
    alone = np.concatenate([lanczos(operator, probe[None], 12).tridiagonal.diagonal for probe in probes])
    assert np.allclose(together, alone, atol=1e-12)


def test_bad_starts_and_products_are_refused() -> None:
    operator = MatrixOperator(torch.eye(3))
    with pytest.raises(ValueError, match="finite and not zero"):
        lanczos(operator, torch.zeros(1, 3), 2)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        lanczos(operator, torch.ones(1, 3), 0)
    with pytest.raises(ValueError, match="full or none"):
        lanczos(operator, torch.ones(1, 3), 1, reorthogonalise="twice")
    broken = MatrixOperator(torch.eye(3))
    broken.matrix = broken.matrix * float("nan")
    with pytest.raises(ValueError, match="not finite"):
        lanczos(broken, torch.ones(1, 3), 2)
    with pytest.raises(ValueError, match="not finite"):
        krylov_space(broken, torch.ones(1, 3), 2)


def test_basis_bytes_counts_what_is_held() -> None:
    run = lanczos(
        MatrixOperator(torch.eye(30) + rotated(torch.arange(30.0).double()).float()),
        torch.ones(2, 30),
        7,
        keep_basis=True,
    )
    assert run.basis is not None
    assert run.basis.numel() * 4 == basis_bytes(30, 2, 7, torch.float32)


def test_probes_have_unit_covariance_and_extend() -> None:
    for kind in ("sphere", "gaussian", "rademacher"):
        probes = draw_probes(5, 4000, seed=0, kind=kind).double()
        # Entries of the sample covariance have standard deviation at most sqrt(2 / 4000); 5 of them: 1e-5 in all.
        assert (probes.T @ probes / 4000 - torch.eye(5)).abs().max() < 5 * (2 / 4000) ** 0.5
        assert torch.equal(draw_probes(5, 3, seed=0, kind=kind, first=2), draw_probes(5, 9, seed=0, kind=kind)[2:5])
        assert (
            not torch.equal(draw_probes(5, 1, seed=0, kind=kind), draw_probes(5, 1, seed=1, kind=kind))
            or kind == "rademacher"
        )
    assert torch.allclose(draw_probes(8, 1, seed=0).double(), draw_probes(8, 1, seed=0, dtype=torch.float64), atol=1e-6)
    with pytest.raises(ValueError, match="kind must be"):
        draw_probes(3, 1, seed=0, kind="uniform")


def test_krylov_space_projects_the_operator() -> None:
    matrix = rotated(INDEFINITE)
    space = krylov_space(MatrixOperator(matrix), draw_probes(N, 3, seed=0, dtype=torch.float64), 6, extra=4)
    assert space.captured == 18
    assert torch.allclose(space.basis @ space.basis.T, torch.eye(18, dtype=torch.float64), atol=1e-12)
    assert np.allclose(space.projected[:18, :18], (space.basis @ matrix @ space.basis.T).numpy(), atol=1e-11)
    vectors = space.complement(torch.randn(4, N, dtype=torch.float64))
    assert (vectors @ space.basis.T).abs().max() < 1e-12


def test_krylov_deflation_integrates_on_its_space() -> None:
    """``tr Q f(H) Q^T`` against the dense function of the matrix."""
    matrix = rotated(torch.linspace(0.5, 2.0, N).double())
    space = krylov_space(MatrixOperator(matrix), draw_probes(N, 2, seed=0, dtype=torch.float64), 5, extra=8)
    values, vectors = torch.linalg.eigh(matrix)
    for function in (np.log, np.exp, np.square):
        dense = (vectors * torch.as_tensor(function(values.numpy()))) @ vectors.T
        exact = float(torch.trace(space.basis @ dense @ space.basis.T))
        deflation = space.deflation()
        assert deflation.integrate(function) == pytest.approx(exact, rel=1e-9)
        assert abs(deflation.integrate(function) - exact) <= deflation.truncation(function) + 1e-12 * abs(exact)


def test_krylov_space_stops_at_an_invariant_subspace() -> None:
    matrix = rotated(torch.tensor([1.0, 2.0]).repeat(N // 2).double())
    space = krylov_space(MatrixOperator(matrix), draw_probes(N, 2, seed=0, dtype=torch.float64), 10, extra=2)
    assert space.captured == 4
    assert np.allclose(np.sort(space.ritz()[0]), [1, 1, 2, 2])
    assert space.ritz()[1].max() < 1e-10
    with pytest.raises(ValueError, match="stay within the size"):
        krylov_space(MatrixOperator(matrix), torch.ones(2, N), N)


def test_orthonormal_rows_keep_the_span() -> None:
    rows = torch.randn(3, 9, dtype=torch.float64)
    found, factor = orthonormal_rows(rows)
    assert torch.allclose(found @ found.T, torch.eye(3, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(factor.T @ found, rows)


def test_rules_become_coefficients_and_rules_again() -> None:
    run = lanczos(MatrixOperator(rotated(INDEFINITE)), draw_probes(N, 2, seed=0, dtype=torch.float64), 9).tridiagonal
    nodes, weights = run.quadrature()
    again = from_rules(nodes, weights)
    assert np.allclose(again.diagonal, run.diagonal, atol=1e-9)
    assert np.allclose(again.off_diagonal[:, :-1], run.off_diagonal[:, :-1], atol=1e-9)


def test_logarithm_bound_bounds_the_error() -> None:
    """On measures with points at both ends of the support, over steps and conditioning."""
    generator = np.random.default_rng(0)
    for low in (1e-1, 1e-2, 1e-4):
        points = np.concatenate([[low, 1.0], generator.uniform(low, 1.0, 400)])
        operator = MatrixOperator(torch.diag(torch.as_tensor(points)))
        run = lanczos(operator, torch.ones(1, len(points), dtype=torch.float64), 40).tridiagonal
        for steps in (2, 5, 10, 20, 40):
            nodes, weights = run.quadrature(steps)
            error = abs(float((weights * np.log(nodes)).sum()) - np.log(points).mean())
            assert error <= logarithm_error_bound(low, 1.0, 0.0, steps) + 1e-13
    assert logarithm_error_bound(-1.0, 1.0, 0.5, 10) == float("inf")
    assert logarithm_error_bound(1.0, 1.0, 0.0, 1) == 0.0
