"""Evaluating a user's model at given parameters, and leaving it as found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from spectra.errors import UserError, UserTypeError, foreign
from spectra.model.kept_state import kept_tensors, names_of, restored
from spectra.model.randomness import preserved_random_state
from spectra.model.witness import PlainGradients, Witness
from spectra.nested import cast, mapped, tensors_in

Result = TypeVar("Result")


class _Inside(nn.Module):
    """Runs a function while the model holds other parameters, so that backward passes see them too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


class Evaluation:
    """A model as a function of its parameters; mode, buffers, parameters and all else are restored after each call.

    Attributes:
        model: the model with compilation and data-parallel wrappers taken off, which owns the parameter names.
        notes: sentences on what was given up.
        background: values of parameters and buffers that are used in place of the model's own.
        mixed: whether its parameters have several dtypes.
    """

    def __init__(self, model: nn.Module, mode: str, background: Mapping[str, Tensor]) -> None:
        """Wraps a model.

        Args:
            model: any module.
            mode: ``eval`` or ``train``.
            background: values of parameters and buffers to use in place of the model's own, unless a call gives others.

        Raises:
            UserError: for a TorchScript model.
            UserTypeError: for what is no model.
        """
        if isinstance(model, torch.jit.ScriptModule):
            raise UserError(
                "a TorchScript model cannot be evaluated at other parameters: give the nn.Module that it is of"
            )
        if not isinstance(model, nn.Module):
            raise UserTypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        while (inner := _unwrapped(self.model)) is not None:
            self.model = inner
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        lazy = next(
            (name for name, tensor in named if isinstance(tensor, UninitializedParameter | UninitializedBuffer)), None
        )
        if lazy is not None:
            raise UserError(f"parameter {lazy} has no shape yet (a lazy module): call the model once before")
        usable = {name: tensor.detach().clone() for name, tensor in named if tensor.is_inference()}
        self.background = usable | dict(background)
        self._train = mode == "train"
        self._volatile = self._random = self._writes = self._keeps = self._rewritten = False
        self._compiled = any(_compiled(module) for module in [model, *model.modules()])
        kinds = {parameter.dtype for parameter in self.model.parameters() if parameter.is_floating_point()}
        self.mixed = len(kinds) > 1
        self._constant: dict[str, tuple[int, Tensor]] = {}
        self.notes: tuple[str, ...] = ()
        if self._compiled:
            self.notes = ("the model is compiled, which has no second derivative: it is run uncompiled",)
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
        given = dict(tensors)
        for name, (row, value) in self._constant.items():
            if name in given:
                fixed = torch.arange(len(given[name]), device=value.device).unsqueeze(-1) == row
                given[name] = torch.where(fixed, value.to(given[name]), given[name])
        held = {f"model.{name}": tensor for name, tensor in (self.background | given).items()}
        if self._volatile:
            for name, buffer in self.model.named_buffers():
                held[f"model.{name}"] = self.background.get(name, buffer).clone()
        with self._guards():
            result: Result = functional_call(self._inside, held, (function,), tie_weights=True)
        return result

    def hold(self, rows: Mapping[str, int], tensors: Mapping[str, Tensor]) -> None:
        """Holds a row of each of these parameters constant, at the values that it has in ``tensors``."""
        self._constant = {name: (row, tensors[name][row].detach().clone()) for name, row in rows.items()}

    @property
    def holds_rows(self) -> bool:
        """Whether ``hold`` holds any."""
        return bool(self._constant)

    def beside(self, tensors: Mapping[str, Tensor]) -> Evaluation:
        """The same model with other values of these parameters in the background."""
        found = copy.copy(self)
        found.background = self.background | dict(tensors)
        return found

    def in_dtype(self, dtype: torch.dtype) -> Evaluation:
        """The same model computing in another dtype: its parameters and buffers are replaced, nothing is copied."""
        found = copy.copy(self)
        named = dict(self.model.named_parameters()) | dict(self.model.named_buffers()) | self.background
        found.background = {name: cast(tensor.detach(), dtype) for name, tensor in named.items()}
        found.mixed = False
        return found

    def with_background(self, values: Mapping[str, Tensor]) -> Evaluation:
        """The same model with other values of buffers, and of parameters that no call gives."""
        found = copy.copy(self)
        found.background = self.background | dict(values)
        return found

    def outputs(self, inputs: Any) -> Any:
        """The model's outputs on one batch of inputs; to be called inside ``inside``."""
        outputs = self._called(mapped(inputs, Tensor.clone) if self._writes else inputs)
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        return outputs if logits is None else logits

    def own_loss(self, inputs: Mapping[str, Any], labels: Any) -> Tensor | None:
        """What a model that takes ``labels`` calls its loss on them; None if it calls nothing so."""
        outputs = self._called({**inputs, "labels": labels})
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None

    def _called(self, inputs: Any) -> Any:
        with foreign("the model"):
            if isinstance(inputs, Mapping):
                return self.model(**inputs)
            return self.model(*inputs) if type(inputs) in (tuple, list) else self.model(inputs)

    @property
    def convolutional(self) -> bool:
        """Whether the model has convolutions: vmapped they run as grouped ones, which the CPU does slowly."""
        return any(isinstance(module, nn.modules.conv._ConvNd) for module in self.model.modules())

    @contextmanager
    def _guards(self) -> Iterator[None]:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                # What is computed there cannot be differentiated later; leaving it switches gradients on.
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
            stack.enter_context(_training(self.model, self._train))
            # The fused kernels have no second derivative; the plain ones are right everywhere.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(_no_fast_path())
            if self._rewritten:
                stack.enter_context(PlainGradients())
            if self._keeps:
                stack.enter_context(restored(self.model))
            if self._compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._random:
                device = next(self.model.parameters()).device
                stack.enter_context(preserved_random_state(device))
            yield

    def examine(self, tensors: Mapping[str, Tensor], inputs: Any) -> Witness:
        """Finds out what has to be restored after a call, and refuses what cannot be: to be called once, first.

        Args:
            tensors: parameters by name.
            inputs: one batch of inputs.

        Returns:
            What the first call did.

        Raises:
            UserError: if the model writes into its parameters, or gives other outputs at a second call or with
                gradients than without.
        """
        # A copy, for the model may write into what it is given.
        first, given = Witness(), mapped(inputs, Tensor.clone)
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        parameters = dict(self.model.named_parameters()) | dict(tensors)
        versions = {name: tensor._version for name, tensor in parameters.items() if not tensor.is_inference()}
        kept, state = kept_tensors(self.model), _random_state(self.model)
        self._rewritten = True  # else the model might write into its weights at once

        def watched() -> Any:
            with first:
                return self.outputs(given)

        with restored(self.model), torch.no_grad():
            outputs = self.inside(tensors, watched)
            made = names_of(self.model, kept)
        self._writes = any(tensor._version for tensor in tensors_in(given))
        self._keeps, self._rewritten = bool(made), first.rewritten
        written = [name for name, version in versions.items() if parameters[name]._version != version]
        if written:
            raise UserError(
                f"the model writes into its parameter {written[0]} when it is called: its cost is then no function of "
                "the parameters; take this out of the model"
            )
        changed = [n for n, buffer in self.model.named_buffers() if not _same(buffer, buffers[n])]
        self._volatile = bool(changed)
        self._random = not all(map(torch.equal, state, _random_state(self.model)))
        # Written only where it changed: a write makes graphs that another landscape keeps of the model unusable.
        for name, buffer in self.model.named_buffers():
            if name in changed:
                buffer.copy_(buffers[name])
        self._check_repeats(tensors, inputs, outputs, made)
        return first

    def _check_repeats(self, tensors: Mapping[str, Tensor], inputs: Any, first: Any, made: list[str]) -> None:
        """Refuses a model whose outputs differ between two calls, or with gradients and without."""
        # Drawn on from here, so that a model which uses random numbers is seen to.
        volatile, random, self._random = self._volatile, self._random, False
        with torch.no_grad():
            second = self(tensors, inputs)
        self._volatile, self._random = volatile, random
        keeps = f"it keeps {', '.join(made[:3]) or 'something'} from one call to the next"
        cause = "switch off dropout and other randomness, or evaluate in eval mode" if random else keeps
        if difference := _difference(first, second):
            raise UserError(
                f"the model is not deterministic: two calls on the same batch differ by {difference:.3g}; {cause}"
            )
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        with torch.enable_grad():
            third = self(leaves, inputs)
        if difference := _difference(second, mapped(third, Tensor.detach)):
            raise UserError(
                f"the model gives other outputs with gradients switched on than off (torch.no_grad), {difference:.3g} "
                "apart: what is differentiated is not what is evaluated; make both one path of the model"
            )

    def saved_bytes(self, tensors: Mapping[str, Tensor], inputs: Any) -> int:
        """Bytes that a forward pass keeps for its backward pass, parameters left out."""
        own = {tensor.data_ptr() for tensor in tensors.values()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.layout == torch.strided and tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
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


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Switches off the encoder layers' fused path, which torch takes where no gradient is asked for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _random_state(model: nn.Module) -> list[Tensor]:
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _same(one: Tensor, two: Tensor) -> bool:
    if one.layout != torch.strided:
        return True
    return one.shape == two.shape and torch.equal(one, two)


def _difference(first: Any, second: Any) -> float:
    """How far two outputs are apart; 0 where summation in another order explains it, as on a GPU with its atomics."""
    for one, two in zip(tensors_in(first), tensors_in(second), strict=True):
        if one.shape != two.shape:
            return float("inf")
        if not one.is_floating_point():
            if not _same(one, two):
                return float("inf")
            continue
        scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) if one.numel() else 0.0
        tolerance = 1e3 * torch.finfo(one.dtype).eps * scale
        if not torch.allclose(one, two, rtol=0.0, atol=tolerance, equal_nan=True):
            return float((one - two).abs().max())
    return 0.0
