"""Kronecker factors against dense Gauss-Newton matrices: where they are exact, and what is exact of them everywhere."""

import pytest
import torch
from torch import Tensor, nn

from spectra.costs import cross_entropy, mean_squared_error
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, KroneckerFactored


class Convolutional(nn.Module):
    """A convolution with stride and padding, a norm, a linear layer, one that is called twice, and a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.twice = nn.Linear(12, 12, bias=False)
        self.last = nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.convolution(inputs))).flatten(1)
        return self.last(self.scale * torch.tanh(self.twice(torch.tanh(self.twice(hidden)))))


def convolutional(l2: float = 0.0) -> Landscape:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Convolutional().double()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(20, 1, 4, 4, generator=random, dtype=torch.float64)
    y = torch.randint(0, 4, (20,), generator=random)
    return Landscape(model, cross_entropy, [(x[:7], y[:7]), (x[7:], y[7:])], l2=l2)


def eigenbasis(block, size: int) -> Tensor:
    """All ``u_p x v_q`` of a layer as rows of theta's length."""
    found = torch.zeros(block.places.numel(), size, dtype=torch.float64)
    rows = torch.einsum("ap,bq->pqab", block.left, block.right).reshape(len(found), -1)
    found[:, block.places.flatten()] = rows
    return found


@pytest.mark.parametrize("l2", [0.0, 0.03])
def test_the_eigenvalues_are_the_matrixs_diagonal_in_their_basis(l2: float) -> None:
    landscape = convolutional(l2)
    dense, factored = GaussNewton(landscape).to_dense(), KroneckerFactored(landscape)
    for block in factored._blocks.values():
        basis = eigenbasis(block, landscape.size)
        diagonal = torch.einsum("ij,jk,ik->i", basis, dense, basis).reshape(block.values.shape)
        assert torch.allclose(diagonal, block.values + l2, rtol=1e-9, atol=1e-12)
    assert set(factored._blocks) == {"convolution", "twice", "last"}
    # Two sweeps with a backward pass for each of four outputs.
    assert factored.gradients == pytest.approx(8.0)


def test_it_is_the_matrix_with_these_eigenvalues() -> None:
    landscape = convolutional(0.01)
    factored = KroneckerFactored(landscape)
    dense = factored.to_dense()
    assert torch.allclose(torch.linalg.eigvalsh(dense), factored.values().sort().values, atol=1e-12)
    shifted = dense + 0.1 * torch.eye(len(dense), dtype=torch.float64)
    assert factored.integrate(lambda x: (x + 0.1).log()) == pytest.approx(float(torch.logdet(shifted)), rel=1e-10)
    rows = torch.randn(3, landscape.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shifted)
    logarithm = vectors @ (values.log()[:, None] * vectors.T)
    assert torch.allclose(factored.apply(rows, lambda x: (x + 0.1).log()), rows @ logarithm, atol=1e-10)
    expected = torch.einsum("ki,ij,kj->k", rows, logarithm, rows)
    assert torch.allclose(factored.forms(rows, lambda x: (x + 0.1).log()), expected, atol=1e-10)


@pytest.mark.parametrize("corrected", [True, False])
def test_of_one_linear_layer_under_squared_errors_it_is_exact(corrected: bool) -> None:
    """``G = 2/K I x E a a^T`` has the form of a Kronecker product; of a deeper network only the traces agree."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, generator=random, dtype=torch.float64)
    landscape = Landscape(nn.Linear(5, 3).double(), mean_squared_error, (x, torch.zeros(9, 3).double()))
    found = KroneckerFactored(landscape, corrected=corrected)
    assert torch.allclose(found.to_dense(), GaussNewton(landscape).to_dense(), atol=1e-12)
    assert found.same_trace is corrected


def test_of_layers_alone_the_trace_is_exact() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, generator=random, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    landscape = Landscape(model, cross_entropy, (x, torch.arange(9) % 3), l2=0.1)
    found = KroneckerFactored(landscape)
    assert found.same_trace
    assert found.integrate(lambda v: v) == pytest.approx(float(GaussNewton(landscape).to_dense().trace()), rel=1e-12)
    assert not KroneckerFactored(convolutional()).same_trace


def test_kfac_is_the_product_of_second_moments_taken_one_sample_at_a_time() -> None:
    landscape = convolutional()
    factored = KroneckerFactored(landscape, corrected=False)
    model, inputs, moments = landscape.model, [], torch.zeros(4, 4, dtype=torch.float64)
    handle = model.last.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    for batch in landscape.batches:
        probabilities = model(batch.inputs).detach().softmax(-1)
        moments += sum(torch.diag(p) - torch.outer(p, p) for p in probabilities) / 20
    handle.remove()
    rows = nn.functional.pad(torch.cat(inputs), (0, 1), value=1.0)
    block = factored._blocks["last"]
    expected = torch.kron(moments, rows.T @ rows / 20)
    place = block.places.flatten()
    assert torch.allclose(factored.to_dense()[place][:, place], expected, atol=1e-12)


def test_tokens_of_one_row_are_kept_apart_on_average() -> None:
    """A layer that sees whole sequences: the trace by random signs, over 400 seeds, within five standard errors."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(inputs))
            return self.last(hidden + hidden.mean(1, keepdim=True))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixing().double()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4, 5, 3, generator=random, dtype=torch.float64)
    y = torch.randint(0, 3, (4, 5), generator=random)
    landscape = Landscape(model, cross_entropy, (x, y))
    exact = float(GaussNewton(landscape).to_dense().trace())
    traces = torch.tensor([KroneckerFactored(landscape, seed=seed).integrate(lambda v: v) for seed in range(100)])
    assert 0.0 < float(traces.std()) < 0.3 * exact
    assert abs(float(traces.mean()) - exact) < 5.0 * float(traces.std()) / 100**0.5


def test_many_outputs_are_mixed_by_signs() -> None:
    """Forty outputs: eight random sums for forty passes; the trace is right on average (five standard errors)."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=random, dtype=torch.float64)
    y = torch.randint(0, 40, (12,), generator=random)
    landscape = Landscape(nn.Linear(3, 40).double(), cross_entropy, (x, y))
    found = [KroneckerFactored(landscape, seed=seed) for seed in range(60)]
    assert found[0].gradients == pytest.approx(16.0)
    traces = torch.tensor([one.integrate(lambda v: v) for one in found])
    exact = float(GaussNewton(landscape).to_dense().trace())
    assert 0.0 < float(traces.std()) < 0.2 * exact
    assert abs(float(traces.mean()) - exact) < 5.0 * float(traces.std()) / 60**0.5


def test_what_has_no_factors_is_refused() -> None:
    x = torch.ones(4, 3).double()
    with pytest.raises(UserError, match="needs? a cost that is a likelihood"):
        KroneckerFactored(
            Landscape(nn.Linear(3, 1).double(), lambda outputs, targets: outputs[:, 0] * targets, (x, x[:, 0]))
        )

    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3).double())

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * self.scale

    with pytest.raises(UserError, match="no parameter is that of a linear"):
        KroneckerFactored(Landscape(Free(), mean_squared_error, (x, x)))
