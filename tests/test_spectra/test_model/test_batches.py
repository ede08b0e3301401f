"""Data is read whatever way its numbers lie in memory."""

import pytest
import torch
from torch import Tensor

from spectra.model import Batches

ROWS = torch.arange(12.0).reshape(3, 4)
COMPLEX = torch.complex(ROWS, ROWS + 1.0)
LAID_OUT = {
    "a column of one row": ROWS[:1, 1],
    "a column of no row": ROWS[:0, 1],
    "no row": ROWS[:0],
    "a number": ROWS[1, 2],
    "a number in two dimensions": ROWS.T[:1, :1],
    "transposed": ROWS.T,
    "every other entry": ROWS[::2, ::2],
    "expanded": ROWS[:1, :1].expand(2, 3),
    "integers": ROWS.long()[:1, 1],
    "bfloat16": ROWS.bfloat16()[:1, 1],
    "part of a graph": torch.nn.Parameter(ROWS.clone())[:1, 1],
    "a conjugate": COMPLEX.conj(),
    "a column of a conjugate": COMPLEX[:1].conj()[:, 1],
    "negated when read": COMPLEX.conj()[:1, 1].imag,
}


@pytest.mark.parametrize("given", LAID_OUT.values(), ids=LAID_OUT)
def test_the_digest_is_that_of_the_same_numbers_in_order(given: Tensor) -> None:
    plain = torch.tensor(given.tolist(), dtype=given.dtype).reshape(given.shape)
    assert Batches([given]).sha256 == Batches([plain]).sha256


def test_other_numbers_have_another_digest() -> None:
    different = (ROWS[:1, 1], ROWS[:1, 2], ROWS[:1, 1:2], COMPLEX[:1, 1], COMPLEX[:1, 1].conj())
    assert len({Batches([one]).sha256 for one in different}) == len(different)
