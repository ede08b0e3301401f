"""Laws of all preconditioners, by the names that studies know them by, and what each is made of."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from spectra.checkpoint import AdamMoments
from spectra.costs import kl_from_anchor
from spectra.landscape import Landscape
from spectra.operators import Fisher, MatrixOperator
from volume.methods import choose_preconditioner
from volume.preconditioners import (
    Preconditioner,
    adam_curvature,
    diagonal_curvature,
    diagonal_preconditioner,
    full,
    full_preconditioner,
    low_rank_preconditioner,
)
from volume.rays import StarDomainSettings, star_domain_volume
from volume.study import PRECONDITIONERS

Choose = Callable[..., Preconditioner]
SETTINGS = StarDomainSettings(cutoff=0.01, directions=8)
EYE = torch.eye(67, dtype=torch.float64)


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    """67 parameters under the divergence from the anchor, in float64."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return Landscape(model, kl_from_anchor, torch.randn(50, 4, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def choose(landscape: Landscape) -> Choose:
    generator = torch.Generator().manual_seed(1)
    tensors = landscape.parameters.unflatten(landscape.theta)
    first = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    second = {name: torch.rand(tensor.shape, generator=generator) ** 8 for name, tensor in tensors.items()}
    second["0.bias"].zero_()
    fisher = Fisher(landscape)

    def build(name: str, eps: float | None = 1e-3, exponent: float = 0.5) -> Preconditioner:
        moments = AdamMoments(first, second, 7)
        made = choose_preconditioner(
            name, eps, landscape, SETTINGS, operator=lambda: fisher, moments=moments, exponent=exponent
        )
        return made[0]

    return build


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("eps", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_symmetric_positive_and_of_determinant_one(choose: Choose, name: str, eps: float, exponent: float) -> None:
    preconditioner = choose(name, eps, exponent)
    matrix = preconditioner.apply(EYE)
    sign, logarithm = torch.linalg.slogdet(matrix)
    assert float(sign) == 1.0
    assert float(logarithm) == pytest.approx(0.0, abs=1e-9)
    assert torch.allclose(matrix, matrix.T, rtol=0.0, atol=1e-12 * float(matrix.abs().max()))
    assert bool((torch.linalg.eigvalsh(matrix) > 0.0).all())
    assert preconditioner.name == name
    assert preconditioner.size in (None, 67)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_linear_in_its_rows(choose: Choose, name: str) -> None:
    preconditioner = choose(name)
    rows = torch.randn(5, 67, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(preconditioner.apply(rows), rows @ preconditioner.apply(EYE), rtol=1e-9, atol=1e-10)


def test_each_is_the_formula_of_its_curvature(landscape: Landscape, choose: Choose) -> None:
    """``(|D|^e + eps max)^-1`` from the dense Fisher of the divergence, scaled by its own determinant."""
    dense = Fisher(landscape).to_dense()
    values, columns = torch.linalg.eigh(dense)
    for exponent in (0.5, 0.8):
        power = values.abs() ** exponent
        for name, entries, basis in (
            ("full", power + 1e-2 * power.max(), columns),
            ("diagonal", dense.diagonal() ** exponent + 1e-2 * dense.diagonal().max() ** exponent, EYE),
        ):
            logs = -entries.log()
            expected = (basis * torch.exp(logs - logs.mean())) @ basis.T
            found = choose(name, 1e-2, exponent).apply(EYE)
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_negative_curvature_counts_by_its_size() -> None:
    values = torch.tensor([4.0, -1.0, 0.25], dtype=torch.float64)
    assert torch.equal(diagonal_preconditioner(values).entries, diagonal_preconditioner(values.abs()).entries)
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.equal(full_preconditioner(values, eye).entries, full_preconditioner(values.abs(), eye).entries)


def test_low_rank_is_a_power_of_the_shifted_matrix() -> None:
    from spectra.lanczos import top_eigenpairs

    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([7.0, 3.0, 1.0] + [0.0] * 6, dtype=torch.float64)
    matrix = (basis * values) @ basis.T
    pairs = top_eigenpairs(MatrixOperator((matrix + matrix.T) / 2), 3)
    for exponent in (0.5, 1.0):
        powers = (values + 0.2) ** -exponent
        expected = (basis * (powers / powers.log().mean().exp())) @ basis.T
        eye = torch.eye(9, dtype=torch.float64)
        found = low_rank_preconditioner(pairs, 9, 0.2, exponent=exponent).apply(eye)
        assert torch.allclose(found, expected, atol=1e-8)


def test_diagonal_curvature_exact_and_estimated() -> None:
    """Each of the 12 entries within 5 standard deviations of its Hutchinson estimate: fails by chance below 1e-5."""
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T
    operator = MatrixOperator(matrix)
    assert torch.allclose(diagonal_curvature(operator), matrix.diagonal())
    estimated = diagonal_curvature(operator, probes=2000)
    spread = ((matrix**2).sum(1) - matrix.diagonal() ** 2).sqrt() / 2000**0.5
    assert bool(((estimated - matrix.diagonal()).abs() < 5 * spread).all())


def test_adam_moments_in_the_order_of_theta(landscape: Landscape) -> None:
    tensors = {name: tensor.clone() for name, tensor in landscape.parameters.unflatten(landscape.theta).items()}
    shuffled = dict(reversed(tensors.items()))
    moments = AdamMoments(shuffled, {name: 2 * tensor for name, tensor in shuffled.items()}, 1)
    assert torch.equal(adam_curvature(moments, landscape.parameters), 2 * landscape.theta)
    assert torch.equal(adam_curvature(moments, landscape.parameters, "first"), landscape.theta.square())
    del shuffled["2.bias"]
    with pytest.raises(ValueError, match="no first moment of parameter 2.bias"):
        adam_curvature(moments, landscape.parameters, "first")
    with pytest.raises(ValueError, match="which must be first or second, got 'third'"):
        adam_curvature(moments, landscape.parameters, "third")


def test_missing_moments_are_said(landscape: Landscape) -> None:
    with pytest.raises(ValueError, match="adam-second needs Adam's state, and the checkpoint has none; use diagonal"):
        choose_preconditioner("adam-second", 0.1, landscape, SETTINGS, operator=lambda: Fisher(landscape))


def test_full_is_refused_where_it_is_too_large(landscape: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "LARGEST", 66)
    with pytest.raises(ValueError, match="at most 66 parameters, got 67; use low-rank"):
        choose_preconditioner("full", 0.1, landscape, SETTINGS, operator=lambda: Fisher(landscape))


def test_a_preconditioner_of_the_wrong_size_is_refused_before_any_work(
    landscape: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(thetas: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the cost was evaluated")

    monkeypatch.setattr(landscape, "costs", work)
    wrong = diagonal_preconditioner(torch.ones(66))
    with pytest.raises(ValueError, match="diagonal must be for the 67 parameters of the landscape, got one for 66"):
        star_domain_volume(landscape, replace(SETTINGS), preconditioner=wrong)
