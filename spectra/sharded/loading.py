"""Checkpoints of torch.distributed.checkpoint into a sharded model: no rank holds more than a tensor at once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from spectra.checkpoint import tensors_of_distributed
from spectra.errors import UserError
from spectra.ranks import is_dtensor


def load_sharded(model: nn.Module, folder: str | Path) -> None:
    """Loads a DCP folder into a model as it is, sharded or not, without any code of the folder's and without joining.

    Each rank reads one tensor at a time and keeps its shard; torch's own ``dcp.load`` does the same with ``pickle``.

    Args:
        model: the model; its parameters and buffers are overwritten.
        folder: what ``torch.distributed.checkpoint.save`` wrote, on any number of ranks: a state dict of the model, or
            a dictionary that holds one.

    Raises:
        UserError: if the folder is damaged, holds no or several state dicts of the model's names, or other shapes.
    """
    held = {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
    names, read = tensors_of_distributed(Path(folder))
    prefix = _prefix(Path(folder), tuple(held), names)
    with torch.no_grad():
        for name, own in held.items():
            found = read(prefix + name)
            if found.shape != own.shape:
                raise UserError(f"{folder} has {name} of shape {tuple(found.shape)}, the model {tuple(own.shape)}")
            _local(own).copy_(_local(_sharded_like(found, own)))


def _prefix(folder: Path, wanted: tuple[str, ...], names: tuple[str, ...]) -> str:
    """What stands before the model's own names in the folder."""
    first, known = wanted[0], set(names)
    starts = sorted(name.removesuffix(first) for name in names if name.endswith(first))
    whole = [start for start in starts if all(start + name in known for name in wanted)]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise UserError(f"{folder} holds several state dicts of the model, at {', '.join(map(repr, whole))}: save one")
    missing = next((name for start in starts[:1] for name in wanted if start + name not in known), first)
    raise UserError(f"{folder} holds no state dict of the model: {missing} is missing; it has {', '.join(names[:4])}")


def _sharded_like(whole: Tensor, own: Tensor) -> Tensor:
    if not is_dtensor(own):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # Nothing is sent: each rank cuts what it has read.
    placed = whole.to(own.device)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)  # type: ignore[attr-defined]


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    return local
