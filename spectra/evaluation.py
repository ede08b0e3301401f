"""Evaluating a user's model at given parameters, and leaving it as found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectra.errors import UserError
from spectra.randomness import preserved_random_state

Result = TypeVar("Result")


class _Inside(nn.Module):
    """Runs a function while the model holds other parameters, so that backward passes see them too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


class Evaluation:
    """A model as a function of its parameters; mode, buffers and parameters are restored after each call.

    Attributes:
        model: the model with compilation and data-parallel wrappers taken off, which owns the parameter names.
        notes: sentences on what was stepped back from.
    """

    def __init__(self, model: nn.Module, mode: str, background: Mapping[str, Tensor]) -> None:
        """Wraps a model.

        Args:
            model: any module.
            mode: ``eval`` or ``train``.
            background: values of parameters to use in place of the model's own, unless a call gives others.
        """
        self.model, self.background = model, dict(background)
        self._train = mode == "train"
        self._volatile = self._random = False
        notes = []
        while (inner := _unwrapped(self.model)) is not None:
            self.model = inner
        if any(_compiled(module) for module in [model, *model.modules()]):
            notes.append("the model is compiled, which has no second derivative: it is run uncompiled")
        self.notes = tuple(notes)
        self._inside = _Inside(self.model)

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Any) -> Any:
        """Outputs at the given parameters."""
        return self.inside(tensors, lambda: self.outputs(inputs))

    def inside(self, tensors: Mapping[str, Tensor], function: Callable[[], Result]) -> Result:
        """Runs ``function`` with the model's parameters replaced; forward and backward passes belong in it.

        Activation checkpointing runs the model again during the backward pass, which must see the same
        parameters; so the replacement encloses both.

        Args:
            tensors: parameters by name.
            function: what to run.

        Returns:
            What the function returns.
        """
        held = {f"model.{name}": tensor for name, tensor in (self.background | dict(tensors)).items()}
        if self._volatile:
            held |= {f"model.{name}": buffer.clone() for name, buffer in self.model.named_buffers()}
        with self._guards():
            result: Result = functional_call(self._inside, held, (function,), tie_weights=True)
        return result

    def outputs(self, inputs: Any) -> Any:
        """The model's outputs on one batch of inputs; to be called inside ``inside``."""
        if isinstance(inputs, Mapping):
            outputs = self.model(**inputs)
        else:
            outputs = self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)
        logits = getattr(outputs, "logits", None)
        return outputs if logits is None else logits

    @contextmanager
    def _guards(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(_training(self.model, self._train))
            # The fused attention kernels have no second derivative; the plain one is right everywhere.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.notes:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._random:
                device = next(self.model.parameters()).device
                stack.enter_context(preserved_random_state(device))
            yield

    def check_deterministic(self, tensors: Mapping[str, Tensor], inputs: Any) -> None:
        """Refuses a model whose outputs differ between two calls; finds out what has to be restored.

        Args:
            tensors: parameters by name.
            inputs: one batch of inputs.

        Raises:
            UserError: if two calls with the same parameters and inputs give different outputs.
        """
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        state = torch.get_rng_state()
        first = self(tensors, inputs)
        self._volatile = any(not _same(buffer, before[name]) for name, buffer in self.model.named_buffers())
        self._random = not torch.equal(state, torch.get_rng_state())
        # Written only where it changed: a write makes graphs that another landscape keeps of the model unusable.
        for name, buffer in self.model.named_buffers():
            if not _same(buffer, before[name]):
                buffer.copy_(before[name])
        # Drawn on from here, so that a model which uses random numbers is seen to.
        volatile, random, self._random = self._volatile, self._random, False
        second = self(tensors, inputs)
        self._volatile, self._random = volatile, random
        for one, two in zip(_flat(first), _flat(second), strict=True):
            scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) if one.numel() else 0.0
            if not _close(one, two, scale):
                difference = float((one - two).abs().max())
                raise UserError(
                    f"the model is not deterministic: two calls on the same batch differ by {difference:.3g}; switch "
                    "off dropout and other randomness, or evaluate in eval mode"
                )

    def saved_bytes(self, tensors: Mapping[str, Tensor], inputs: Any) -> int:
        """Bytes that a forward pass keeps for its backward pass, parameters left out."""
        own = {tensor.data_ptr() for tensor in tensors.values()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = self(tensors, inputs)
        del outputs
        return sum(seen.values())


def _unwrapped(model: nn.Module) -> nn.Module | None:
    """What a compilation or data-parallel wrapper holds; None if the model is no such wrapper."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner = getattr(model, "module" if parallel else "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _compiled(module: nn.Module) -> bool:
    inner = isinstance(getattr(module, "_orig_mod", None), nn.Module)
    return inner or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def _training(model: nn.Module, train: bool) -> Iterator[None]:
    """Puts every module into one mode and gives each its own back."""
    changed = [module for module in model.modules() if module.training != train]
    for module in changed:
        module.training = train
    try:
        yield
    finally:
        for module in changed:
            module.training = not train


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [tensor for value in outputs.values() for tensor in _flat(value)]
    if isinstance(outputs, tuple | list):
        return [tensor for value in outputs for tensor in _flat(value)]
    return []


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _close(one: Tensor, two: Tensor, scale: float) -> bool:
    """Equal up to what summation in another order explains: atomics on a GPU are not bitwise repeatable."""
    if not one.is_floating_point():
        return _same(one, two)
    tolerance = 1e3 * torch.finfo(one.dtype).eps * scale
    return torch.allclose(one, two, rtol=0.0, atol=tolerance, equal_nan=True)
