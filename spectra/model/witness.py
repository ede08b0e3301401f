"""What a model's forward pass calls that autograd does not differentiate as the function it computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spectra.errors import is_library

# Arguments of the embeddings that change the gradient and not the value, or write into the weight.
_EMBEDDING = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_BAG = (
    *("input", "weight", "offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse"),
    *("per_sample_weights", "include_last_offset", "padding_idx"),
)
# torch adds it to the norm that it divides by.
_RENORM_EPSILON = 1e-7
# Functions whose derivative is zero or none, by the name that a sentence gives them.
_SUSPECTS = {
    "detach": "detach()",
    "detach_": "detach_()",
    "item": "item()",
    "tolist": "tolist()",
    "numpy": "numpy()",
    "round": "round()",
    "floor": "floor()",
    "ceil": "ceil()",
    "trunc": "trunc()",
    "sign": "sign()",
    "heaviside": "heaviside()",
    "argmax": "argmax()",
    "bernoulli": "bernoulli()",
}


class PlainGradients(TorchFunctionMode):
    """Runs embeddings and weight normalisation such that autograd gives the derivative of their value.

    ``padding_idx``, ``scale_grad_by_freq`` and ``sparse`` of an embedding change its gradient and not its value, and
    are left out. ``max_norm`` writes into the weight: the rows are shortened in a copy, differentiably. Bags have no
    second derivative in torch, and the fused kernel of weight normalisation a wrong one: both are written out.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The call itself, or the plain one in its place."""
        kwargs = kwargs or {}
        if func is F.embedding:
            given = dict(zip(_EMBEDDING, args, strict=False)) | dict(kwargs)
            return F.embedding(given["input"], _shortened(given))
        if func is F.embedding_bag:
            return _bag(dict(zip(_BAG, args, strict=False)) | dict(kwargs))
        if func is torch.embedding:
            return torch.embedding(*args[:2], **{k: v for k, v in kwargs.items() if k in ("weight", "indices")})
        if func is torch._weight_norm:
            return _weight_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _shortened(given: Mapping[str, Any]) -> Tensor:
    """The weight of an embedding, rows longer than ``max_norm`` brought to it."""
    weight: Tensor = given["weight"]
    most = given.get("max_norm")
    if most is None:
        return weight
    norms = torch.linalg.vector_norm(weight, given.get("norm_type", 2.0), dim=-1, keepdim=True)
    return torch.where(norms > most, weight * (most / (norms + _RENORM_EPSILON)), weight)


def _bag(given: Mapping[str, Any]) -> Tensor:
    """Sums or means of an embedding's rows, as torch has them but twice differentiable; a maximum is torch's own."""
    weight, index, mode = _shortened(given), given["input"], given.get("mode", "mean")
    if mode == "max":
        plain = {"weight": weight, "max_norm": None, "scale_grad_by_freq": False, "sparse": False}
        return F.embedding_bag(**(dict(given) | plain))
    if index.dim() == 2:
        count = len(index)
        bags = torch.arange(count, device=index.device).repeat_interleave(index.shape[1])
    else:
        starts = given["offsets"][:-1] if given.get("include_last_offset") else given["offsets"]
        count = len(starts)
        places = torch.arange(len(index), device=index.device)
        bags = torch.bucketize(places, starts.to(places), right=True) - 1
    index, padding = index.reshape(-1), given.get("padding_idx")
    kept = torch.ones_like(index) if padding is None else (index != padding % len(weight)).to(index.dtype)
    rows = weight[index] * kept.to(weight).unsqueeze(-1)
    if given.get("per_sample_weights") is not None:
        rows = rows * given["per_sample_weights"].reshape(-1, 1)
    sums = weight.new_zeros(count, weight.shape[1]).index_add(0, bags, rows)
    if mode == "sum":
        return sums
    numbers = torch.zeros(count, dtype=kept.dtype, device=kept.device).index_add(0, bags, kept)
    return sums / numbers.clamp_min(1).to(weight).unsqueeze(-1)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


class Witness(TorchFunctionMode):
    """Notes the calls of a forward pass that matter for its derivatives.

    Attributes:
        embeddings: weight and padding row of each embedding that has one.
        rewritten: whether ``PlainGradients`` changes any of the calls.
        suspects: calls that hide a dependence from autograd, and where the first of each kind is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings: list[tuple[Tensor, int]] = []
        self.rewritten = False
        self.suspects: dict[str, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The call itself, once looked at."""
        kwargs = kwargs or {}
        if func in (F.embedding, F.embedding_bag):
            self._embedding(func, args, kwargs)
        elif func in (torch._weight_norm, torch.embedding):
            self.rewritten = True
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled" and args and not args[0]:
            self._suspect("torch.no_grad")
        elif name == "__get__" and func == Tensor.data.__get__:  # type: ignore[attr-defined]
            self._suspect(".data")
        elif name in _SUSPECTS:
            self._suspect(_SUSPECTS[name])
        return func(*args, **kwargs)

    def _embedding(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = dict(zip(_EMBEDDING if func is F.embedding else _BAG, args, strict=False)) | dict(kwargs)
        padding = given.get("padding_idx") if func is F.embedding else None
        if padding is not None and padding != -1:
            self.embeddings.append((given["weight"], int(padding) % len(given["weight"])))
            self.rewritten = True
        if func is F.embedding_bag or any(given.get(name) for name in ("max_norm", "scale_grad_by_freq", "sparse")):
            self.rewritten = True

    def padding_rows(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Which of these parameters are an embedding's weight with a padding row, and which row it is."""
        places = {tensor.data_ptr(): name for name, tensor in tensors.items()}
        return {places[w.data_ptr()]: row for w, row in self.embeddings if w.data_ptr() in places}

    def _suspect(self, what: str) -> None:
        if what not in self.suspects and (place := _callers_place()):
            self.suspects[what] = place

    @property
    def sentence(self) -> str:
        """The suspects in a few words; empty if there are none."""
        return ", ".join(f"{what} ({place})" for what, place in self.suspects.items())


def _callers_place() -> str:
    """File and line of the innermost call that is made outside of libraries; empty if there is none."""
    for frame in _frames():
        path = Path(frame.f_code.co_filename)
        if path == Path(__file__).with_name("evaluation.py"):
            return ""  # what lies beyond is not the model's
        if path.suffix == ".py" and not is_library(path):
            return f"{path.name}, line {frame.f_lineno}"
    return ""


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
