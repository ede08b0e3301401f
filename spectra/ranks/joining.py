"""Twins of models that hold pieces of their parameters, each joined only while a module uses it.

``fully_shard``'s own hooks forbid second derivatives: they free parameters that a gradient's graph needs again, and
reduce gradients outside of any graph. So a twin of the model, without those hooks, joins a parameter whenever it is
read, by an operation whose adjoint sums and cuts, and whose adjoint's adjoint joins: all derivatives exist. What a
graph would keep of a joined parameter is kept as its piece, and joined again when it is needed. All ranks must call the
twin, and differentiate what it gives, together.

Reference:
    Rajbhandari, Rasley, Ruwase and He, ZeRO: memory optimizations toward training trillion parameter models, 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from spectra.errors import UserError, UserTypeError
from spectra.ranks.group import Ranks
from spectra.ranks.sharded import Twins, refuse_flattened, whole


class _Known(NamedTuple):
    """A parameter that is joined at present."""

    storage: StorageWeakRef
    version: int
    piece: Tensor
    shape: torch.Size

    @property
    def lives(self) -> bool:
        """Whether anything still holds the joined parameter."""
        return not self.storage.expired()  # type: ignore[no-untyped-call]


class _Kept(NamedTuple):
    """What a graph keeps of a joined parameter, or of a view of it."""

    piece: Tensor
    shape: torch.Size
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Joiner:
    """Makes a twin in pieces, and joins them.

    Attributes:
        ranks: the processes.
        model: the twin; its parameters are pieces, under the names of the whole ones.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        """Cuts the parameters, one joined at a time; all ranks must call this together.

        Args:
            model: any module, sharded (FSDP2, DTensor) or with whole parameters, the same on all ranks.
            ranks: the processes.

        Raises:
            UserError: if the first FullyShardedDataParallel, or a recurrent module of torch, holds a part of it.
            UserTypeError: if it is no module.
        """
        if not isinstance(model, nn.Module):
            raise UserTypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
        refuse_flattened(model)
        flat = next((type(part).__name__ for part in model.modules() if isinstance(part, nn.RNNBase)), None)
        if flat is not None:
            raise UserError(f"{flat} keeps its weights flattened in one place, which cannot stay in pieces on ranks")
        self.ranks = ranks
        self._shapes: dict[int, torch.Size] = {}
        self._known: dict[int, _Known] = {}
        self.model = _PiecewiseTwins(self).module(model)

    def cut(self, parameter: nn.Parameter) -> nn.Parameter:
        """This rank's piece of a parameter."""
        # Not a view, which would keep all of the parameter.
        mine = self.ranks.sliced(whole(parameter).detach().reshape(1, -1))[0].clone()
        piece = nn.Parameter(mine, parameter.requires_grad)
        self._shapes[id(piece)] = parameter.shape
        return piece

    def shape(self, piece: Tensor) -> torch.Size:
        """The whole shape of a parameter of the twin."""
        return self._shapes[id(piece)]

    def joined(self, piece: Tensor, shape: torch.Size) -> Tensor:
        """The whole parameter, differentiable."""
        found: Tensor = _Join.apply(piece, shape, self)  # type: ignore[no-untyped-call]
        return found

    def whole(self, piece: Tensor, shape: torch.Size) -> Tensor:
        """The whole parameter, without a graph; where it lies is remembered while it lives."""
        rows = self.ranks.gathered(piece.detach())
        found = rows.view(-1)[: shape.numel()].view(shape)
        found = found.clone() if self.ranks.alone else found
        storage = StorageWeakRef(found.untyped_storage())  # type: ignore[no-untyped-call]
        self._known = {key: one for key, one in self._known.items() if one.lives}
        self._known[storage.cdata] = _Known(storage, found._version, piece.detach(), shape)
        return found

    @contextmanager
    def saving_pieces(self) -> Iterator[None]:
        """Graphs that are made inside keep pieces in place of joined parameters."""
        with saved_tensors_hooks(self._packed, self._unpacked):
            yield

    def _packed(self, tensor: Tensor) -> Tensor | _Kept:
        if tensor.layout == torch.strided:
            # A storage that is weakly known cannot be another one at the same place.
            known = self._known.get(tensor.untyped_storage()._cdata)
            same = known is not None and known.lives and tensor._version == known.version
            if known is not None and same and tensor.dtype == known.piece.dtype:
                return _Kept(known.piece, known.shape, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
        return tensor.detach()

    def _unpacked(self, kept: Tensor | _Kept) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return self.whole(kept.piece, kept.shape).as_strided(kept.size, kept.stride, kept.offset)


class _Join(torch.autograd.Function):
    """Pieces to the whole parameter; its adjoint is ``_Cut``."""

    @staticmethod
    def forward(ctx: Any, piece: Tensor, shape: torch.Size, joiner: Joiner) -> Tensor:
        ctx.joiner = joiner
        return joiner.whole(piece, shape)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _Cut.apply(slope, ctx.joiner), None, None  # type: ignore[no-untyped-call]


class _Cut(torch.autograd.Function):
    """The ranks' whole tensors to pieces of their sum; its adjoint is ``_Join``."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, joiner: Joiner) -> Tensor:
        ctx.joiner, ctx.shape = joiner, whole.shape
        return joiner.ranks.summed_slice(whole.reshape(1, -1))[0].clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return _Join.apply(slope, ctx.shape, ctx.joiner), None  # type: ignore[no-untyped-call]


class _PiecewiseTwins(Twins):
    """Twins whose parameters are pieces, joined when they are read."""

    def __init__(self, joiner: Joiner) -> None:
        super().__init__()
        self._joiner = joiner

    def kind(self, module: nn.Module) -> type[nn.Module]:
        plain = super().kind(module)
        held = {name: one.shape for name, one in module._parameters.items() if one is not None}
        readers = {name: self._reader(name, shape) for name, shape in held.items()}
        return type(plain.__name__, (plain,), readers) if readers else plain

    def parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        return self._joiner.cut(parameter)

    def _reader(self, name: str, shape: torch.Size) -> property:
        def read(module: nn.Module) -> Tensor:
            # A piece stands there: the twin's own, or what it is evaluated at.
            piece = module._parameters[name]
            assert piece is not None
            return self._joiner.joined(piece, shape)

        return property(read)
