"""Tensors out of a pickle, built by this program as views of stored bytes; other kinds become placeholders."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.files import Opaque

_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_DTYPE = re.compile(r"torch\.(bool|u?int\d+|b?float\d+|float8_e\w+|complex\d+)")
_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


class Storage:
    """Numbers in a file.

    Attributes:
        dtype: dtype of the numbers; None for a kind that is not read.
        width: bytes a number.
        bytes: bytes that all numbers take.
    """

    def __init__(self, kind: Any, count: Any, read: Callable[[], Tensor] | None, *, first: Any = 0) -> None:
        """A storage of a kind that the pickle names; ``read`` gives its bytes, or those of a whole that it is in."""
        self.name = kind.name.rpartition(".")[2].removesuffix("Storage") if isinstance(kind, Opaque) else ""
        self.dtype, self._read = _DTYPES.get(self.name), read
        self.width = 1 if self.dtype is None else self.dtype.itemsize
        if not all(type(number) is int and number >= 0 for number in (count, first)):
            raise UserError("is damaged: a storage has a length that is no number")
        self._first, self.bytes = first * self.width, count * self.width

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """All of them, flat."""
        assert self._read is not None
        found = self._read()[self._first : self._first + self.bytes]
        if len(found) != self.bytes or self.bytes % dtype.itemsize:
            raise UserError("is truncated or damaged: a storage is not as long as its tensors say")
        aligned = found.data_ptr() % dtype.itemsize == 0 and self._first % dtype.itemsize == 0
        return (found if aligned else found.clone()).view(dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None) -> Any:
    """A view of a storage; refused where it would reach beyond it, for torch would go on with anything there."""
    if not isinstance(storage, Storage):
        return _placeholder("a tensor without numbers of its own")
    kind = storage.dtype if dtype is None else dtype
    if kind is None:
        return _placeholder(f"a tensor of the kind {storage.name[:40]}")
    if len(rest) > 2 and isinstance(rest[2], dict) and any(rest[2].values()):
        return _placeholder("a tensor that is stored conjugated or negated")
    if len(size) != len(stride) or not all(type(one) is int and one >= 0 for one in (offset, *size, *stride)):
        raise UserError("is damaged: the shape of a tensor cannot be read")
    values = storage.numbers(kind)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(values):
        raise UserError(f"is damaged: a tensor of shape {tuple(size)} reaches beyond its {len(values):,} numbers")
    try:
        return torch.as_strided(values, tuple(size), tuple(stride), offset)
    except RuntimeError as error:  # sizes that no tensor can have
        raise UserError(f"is damaged: {str(error).splitlines()[0]}") from error


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    gradient, hooks, kind, *further = rest
    known = _DTYPE.fullmatch(kind.name) if isinstance(kind, Opaque) else None
    dtype = getattr(torch, known[1], None) if known else None
    if not isinstance(dtype, torch.dtype):
        return _placeholder("a tensor of an unknown kind")
    return _tensor(storage, offset, size, stride, gradient, hooks, *further, dtype=dtype)


def _tensor_of_class(make: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes; what one of another class means, only that class knows."""
    name = kind.name if isinstance(kind, Opaque) else ""
    built = TORCH[make.name](*arguments)
    return built if name in _TENSORS else _placeholder(f"a tensor of the class {name[:80]}")


def _placeholder(words: str) -> Opaque:
    return Opaque("torch.Tensor", words, tensor=True)


def _unread(words: str) -> Callable[..., Opaque]:
    return lambda *_: _placeholder(words)


# Functions of this program by the name of the function of torch that they stand for.
TORCH: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_qtensor": _unread("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _unread("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unread("a nested tensor"),
    "torch._utils._rebuild_wrapper_subclass": _unread("a tensor of a class of its own"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unread("a tensor of another device"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unread("a meta tensor, which has no numbers"),
    "torch.serialization._get_layout": lambda *_: Opaque("torch.layout"),
    "torch.Size": lambda entries=(): tuple(entries),
    "torch.device": lambda *_: Opaque("torch.device"),
}
