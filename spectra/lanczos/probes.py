"""Probe vectors: random rows with E[v v^T] = I, one named stream a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.model import generator
from spectra.operators import SymmetricOperator

KINDS = ("sphere", "gaussian", "rademacher")


def draw_probes(
    size: int,
    count: int,
    *,
    seed: int,
    first: int = 0,
    kind: str = "sphere",
    stream: str = "probes",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Probe vectors number ``first`` to ``first + count - 1`` of a stream.

    Each probe has its own generator, so adding probes extends the sequence. They are drawn in float32 whatever
    the dtype, so that runs in different precision share them.

    Args:
        size: length n of each.
        count: how many.
        seed: the user's seed.
        first: number of the first one.
        kind: ``sphere`` (uniform, norm sqrt n), ``gaussian`` or ``rademacher``.
        stream: name of the purpose.
        dtype: dtype of the result.
        device: where they are drawn and returned.

    Returns:
        (count, size) probes.

    Raises:
        UserError: for an unknown kind.

    >>> draw_probes(4, 2, seed=0, kind="rademacher").abs().tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    rows = torch.empty(count, size, dtype=dtype, device=device)
    for row in range(count):
        source = generator(seed, stream, first + row, device=device)
        if kind == "rademacher":
            rows[row] = torch.randint(0, 2, (size,), generator=source, device=device).to(dtype) * 2 - 1
        else:
            rows[row] = torch.randn(size, generator=source, device=device).to(dtype)
    if kind == "sphere":
        rows *= size**0.5 / rows.norm(dim=1, keepdim=True)
    return rows


def probes_of(
    operator: SymmetricOperator,
    count: int,
    *,
    seed: int,
    first: int = 0,
    kind: str = "sphere",
    stream: str = "probes",
) -> Tensor:
    """``draw_probes`` of an operator's size, in its dtype and on its device, as (count, n).

    Raises:
        UserError: if the operator's vectors live in pieces, where whole ones have no room.
    """
    if operator.pieces is not None:
        operator.matmat(torch.empty(0))  # refuses, in the operator's own words
    return draw_probes(
        operator.size,
        count,
        seed=seed,
        first=first,
        kind=kind,
        stream=stream,
        dtype=operator.dtype,
        device=operator.device,
    )


def starts_of(operator: SymmetricOperator, count: int, *, seed: int, stream: str, first: int = 0) -> Tensor:
    """Starts on the sphere for a Krylov method: ``probes_of``, or this rank's pieces (count, width) of such rows.

    Pieces are of the same rows whatever the number of ranks; they are not the rows of a whole operator of that size.
    """
    pieces = operator.pieces
    if pieces is None:
        return probes_of(operator, count, seed=seed, stream=stream, first=first)
    rows = torch.empty(count, pieces.width, dtype=operator.dtype, device=operator.device)
    for row in range(count):

        def draw(lot: int, length: int, probe: int = first + row) -> Tensor:
            source = generator(seed, f"{stream}/{probe}", lot, device=operator.device)
            return torch.randn(length, generator=source, device=operator.device)

        rows[row] = pieces.drawn(draw, rows)
    squares = pieces.ranks.total(rows.double().square().sum(1))
    return rows * (operator.size / squares).sqrt().to(rows).unsqueeze(1)
