"""How parameters are cut over ranks: flattened, each into equal pieces, one a rank, the last filled with zeros.

Vectors of a model that no rank can hold live so: as rows of this rank's pieces, parameter after parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spectra.ranks.group import Ranks

# Random numbers are drawn by so many, each lot from a generator of its own, so that no rank draws the others'.
_LOT = 2**20


@dataclass(frozen=True)
class Pieces:
    """The parameters of a model in pieces.

    Attributes:
        shapes: the parameters' whole shapes, in order.
        ranks: the processes, each of which holds one piece of every parameter.
    """

    shapes: tuple[torch.Size, ...]
    ranks: Ranks

    @cached_property
    def sizes(self) -> list[int]:
        """Number of elements of each whole parameter."""
        return [shape.numel() for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        """Number of all parameters n."""
        return sum(self.sizes)

    @cached_property
    def widths(self) -> list[int]:
        """Number of elements of a piece of each parameter, zeros past the end included."""
        return [self.ranks.width(size) for size in self.sizes]

    @cached_property
    def width(self) -> int:
        """Length of this rank's part of a vector, the same on all ranks."""
        return sum(self.widths)

    def drawn(self, draw: Callable[[int, int], Tensor], like: Tensor) -> Tensor:
        """This rank's part of a random vector, the same vector for any number of ranks.

        Args:
            draw: ``(number, count)`` gives the ``count`` random numbers of a lot.
            like: dtype and device of the result.

        Returns:
            (width,) numbers, zeros past the end of a parameter.
        """
        found, place, lot = like.new_zeros(self.width), 0, 0
        for size, width in zip(self.sizes, self.widths, strict=True):
            first, last = min(self.ranks.rank * width, size), min((self.ranks.rank + 1) * width, size)
            for start in range(first // _LOT * _LOT, last, _LOT):
                low, high = max(first, start), min(last, start + _LOT, size)
                numbers = draw(lot + start // _LOT, min(_LOT, size - start))
                found[place + low - first : place + high - first] = numbers[low - start : high - start].to(found)
            place, lot = place + width, lot + -(-size // _LOT)
        return found
