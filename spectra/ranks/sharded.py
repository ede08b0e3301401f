"""Models whose parameters are sharded over ranks (FSDP2, DTensor): read by joining each parameter on every rank.

The hooks of ``fully_shard`` gather and free parameters as a forward pass goes, and reduce gradients into ``.grad``:
they know neither other parameter values nor second derivatives. So a twin of the model is made with whole parameters
and without those hooks, and the user's model is left sharded. Each rank must have room for all parameters. The twin
computes in the parameters' own precision, whatever the hooks would cast to (``MixedPrecisionPolicy``).
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn

from spectra.errors import UserError

# What torch.distributed leaves in modules, and the call of a module compiled in place, which runs the sharded one.
_MARKS = ("__composable_api", "_is_fsdp", "_fsdp", "_compiled_call_impl")
_THEIRS = "torch.distributed."
# It keeps slices of its own making, which are no DTensors.
_FIRST = "FullyShardedDataParallel"


def whole_model(model: nn.Module) -> nn.Module:
    """The model, or a twin with whole parameters if any of them is sharded.

    Args:
        model: any module; where it is sharded all ranks must call this together.

    Returns:
        The model itself where no parameter or buffer is a DTensor. Else modules of the same classes with whole, plain
        parameters and buffers, without the hooks that torch.distributed put there; what else the modules hold is shared
        with the model.

    Raises:
        UserError: if the first FullyShardedDataParallel holds a part of it.

    >>> plain = nn.Linear(2, 1)
    >>> whole_model(plain) is plain
    True
    """
    if not _distributed():
        return model
    refuse_flattened(model)
    sharded = any(is_dtensor(tensor) for tensor in (*model.parameters(), *model.buffers()))
    return Twins().module(model) if sharded else model


def refuse_flattened(model: nn.Module) -> None:
    """Refuses a model of which the first FullyShardedDataParallel holds a part."""
    if any(type(part).__name__ == _FIRST for part in model.modules()):
        raise UserError(f"parameters that {_FIRST} has flattened cannot be read: use fully_shard, or the whole model")


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    if not _distributed():
        return False
    # Imported where a process group is: it takes a second, and one process alone has no sharded parameters.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


class Twins:
    """Twins of modules and tensors, one each, so that what was tied stays tied."""

    def __init__(self) -> None:
        self._modules: dict[int, nn.Module] = {}
        self._tensors: dict[int, Tensor] = {}

    def module(self, module: nn.Module) -> nn.Module:
        """The twin of a module, its submodules' among it."""
        if id(module) in self._modules:
            return self._modules[id(module)]
        twin = object.__new__(self.kind(module))
        self._modules[id(module)] = twin
        state = {key: value for key, value in vars(module).items() if not key.startswith(_MARKS)}
        state |= {key: _foreign(value) for key, value in state.items() if key.endswith("_hooks")}
        state["_parameters"] = {name: self._tensor(tensor) for name, tensor in module._parameters.items()}
        state["_buffers"] = {name: self._tensor(tensor) for name, tensor in module._buffers.items()}
        state["_modules"] = {name: one and self.module(one) for name, one in module._modules.items()}
        vars(twin).update(state)
        return twin

    def kind(self, module: nn.Module) -> type[nn.Module]:
        """The class before ``fully_shard`` put its own in front."""
        kind, theirs = type(module), _fsdp_module()
        if theirs is None or not isinstance(module, theirs):
            return kind
        return next(base for base in kind.__mro__ if not issubclass(base, theirs) and issubclass(base, nn.Module))

    def parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        """The twin of a parameter: a whole one."""
        return nn.Parameter(whole(parameter), parameter.requires_grad) if is_dtensor(parameter) else parameter

    def _tensor(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in self._tensors:
            kept = self.parameter(tensor) if isinstance(tensor, nn.Parameter) else whole(tensor)
            self._tensors[id(tensor)] = kept
        return self._tensors[id(tensor)]


def reshard(model: nn.Module) -> None:
    """Frees what FSDP2 has joined: the outermost module keeps its parameters joined after a forward pass."""
    theirs = _fsdp_module()
    for module in model.modules():
        if theirs is not None and isinstance(module, theirs):
            cast(Any, module).reshard()


def _fsdp_module() -> type | None:
    """What ``fully_shard`` puts in front of a module's class; None where nobody has imported it."""
    found = sys.modules.get("torch.distributed.fsdp")
    return getattr(found, "FSDPModule", None)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def whole(tensor: Tensor) -> Tensor:
    """A DTensor joined, without a graph; any other tensor itself."""
    found: Tensor = tensor.detach().full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    return found


def _foreign(hooks: OrderedDict[int, Any]) -> OrderedDict[int, Any]:
    """The hooks that are not torch.distributed's."""
    return OrderedDict(
        (key, hook) for key, hook in hooks.items() if not str(getattr(hook, "__module__", "")).startswith(_THEIRS)
    )
