"""Laws of every operator that options know by name; a further one joins by its row."""

import pytest
import torch
from torch import Tensor, nn

from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from spectra.members import members
from spectra.operators import OperatorRow, SymmetricOperator

ROWS = members("spectra.operators", OperatorRow)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def landscape(*, cut: int = 10, l2: float = 0.0) -> Landscape:
    """51 parameters on 10 samples, in batches of ``cut`` and what is left."""
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    x, y = torch.randn(10, 4, generator=random).double(), torch.randint(0, 3, (10,), generator=random)
    return Landscape(model, cross_entropy, [(x[:cut], y[:cut]), (x[cut:], y[cut:])][: 1 + (cut < 10)], l2=l2)


def made(row: OperatorRow, of: Landscape) -> SymmetricOperator:
    return row.make(of, strategy="auto", memory=2**30, **({"seed": 3} if row.drawn else {}))


def dense(operator: SymmetricOperator) -> Tensor:
    return operator.matmat(torch.eye(operator.size, dtype=torch.float64))


@each_row
def test_symmetric_named_and_as_definite_as_it_says(row: OperatorRow) -> None:
    operator = made(row, landscape())
    matrix = dense(operator)
    assert operator.name == row.name
    assert operator.definite == row.semidefinite
    assert torch.allclose(matrix, matrix.T, rtol=0.0, atol=1e-12 * float(matrix.abs().max()))
    smallest, largest = torch.linalg.eigvalsh(matrix)[[0, -1]].tolist()
    assert (smallest > -1e-12 * largest) == row.semidefinite


@each_row
def test_the_split_into_batches_never_matters(row: OperatorRow) -> None:
    whole, uneven = (dense(made(row, landscape(cut=cut))) for cut in (10, 8))
    assert torch.allclose(whole, uneven, rtol=0.0, atol=1e-12 * float(whole.abs().max()))


@each_row
def test_a_restriction_is_the_diagonal_block(row: OperatorRow) -> None:
    operator = made(row, landscape(l2=0.1))
    block = dense(operator.restricted("2.*"))
    assert torch.allclose(block, dense(operator)[30:, 30:], rtol=0.0, atol=1e-12 * float(block.abs().max()))
