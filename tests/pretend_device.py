"""A device that this machine lacks: its tensors are computed on the CPU and carry the label of another place.

Whole algorithms run under it with real numbers, data-dependent branches included. An operation with tensors of both
places is refused as CUDA refuses it. Copies, and whatever makes the host wait, are written down with the line that
asked, and refused inside functions that were marked as loops. Stopwatches read while work is queued are written down.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# The label. Autograd handles this type of device in the thread that asks, no backend need be registered for it, and
# ``device.type == "cpu"`` is false, so that the branches are run which a GPU would take.
DEVICE = torch.device("lazy:0")
ROOT = Path(__file__).resolve().parent.parent
PRODUCT = tuple(str(ROOT / package) + "/" for package in ("spectra", "volume", "comparisons", "basinscope"))
TO_HOST, TO_DEVICE, WAIT = "copies to the host", "copies to the device", "makes the host wait"

aten = torch.ops.aten
# The sizes of their results are known only to the device, or their result is a number of the host.
_WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten._linalg_check_errors.default,
}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_COPYING = {aten._to_copy.default, aten.copy_.default}
# Elementwise kernels of CUDA take a number of the host beside tensors; these take none.
_WITHOUT_NUMBERS = {aten.cat.default, aten.stack.default}


class DeviceMismatchError(RuntimeError):
    """Tensors, or a generator, of both places in one operation."""


class HiddenCopyError(AssertionError):
    """A copy or a wait inside a loop that was marked."""


@dataclass(frozen=True)
class Crossing:
    """One time that the host and the device had to do with each other.

    Attributes:
        kind: ``TO_HOST``, ``TO_DEVICE`` or ``WAIT``.
        operation: name of torch's operation.
        elements: how many numbers it handles.
        site: the innermost line of the product, ``spectra/lanczos/recurrence.py:73 lanczos``.
        functions: names of the product's functions on the stack, innermost first.
    """

    kind: str
    operation: str
    elements: int
    site: str
    functions: tuple[str, ...]

    def __str__(self) -> str:
        """In words."""
        return f"{self.operation} of {self.elements} numbers {self.kind} at {self.site}"


class PretendTensor(torch.Tensor):
    """A tensor that says it is on ``DEVICE``; its numbers lie in ``host``."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> PretendTensor:
        """A label on the numbers."""
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=DEVICE,
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG003
        """Outside the context of the device nothing is known about it."""
        raise AssertionError(f"{func} of a tensor of the pretended device after its context")

    def __repr__(self, **_: Any) -> str:
        """The numbers, which no copy is needed to show."""
        return f"PretendTensor({self.host!r})"

    def tolist(self) -> Any:
        """One copy, as of any tensor that is not the CPU's."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused unless forced, as of any tensor that is not the CPU's."""
        if not force:
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")
        return self.detach().cpu().numpy()

    def __array__(self, dtype: Any = None) -> Any:
        """Refused."""
        return self.numpy()


class _Generator(torch.Generator):
    """A generator that knows which place's numbers it draws; they are those of the CPU for either."""

    # By torch's own number for it, as an operation is handed a new object around the same generator.
    known: WeakValueDictionary[int, _Generator] = WeakValueDictionary()
    _place: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        place = torch.device(device)
        made = super().__new__(cls, "cpu" if place.type == DEVICE.type else place)
        made._place = place
        cls.known[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        """The place."""
        return self._place


@dataclass
class PretendDevice:
    """What has been seen of the device.

    Attributes:
        crossings: copies and waits, in their order.
        operations: how many operations ran on the device.
        early_readings: lines that read a stopwatch while work was queued.
    """

    crossings: list[Crossing] = field(default_factory=list)
    operations: int = 0
    early_readings: list[str] = field(default_factory=list)
    _marked: dict[CodeType, str] = field(default_factory=dict)
    _busy: bool = False

    @contextmanager
    def marked(self, *loops: Callable[..., Any]) -> Iterator[None]:
        """Raise at any crossing while one of these functions is on the stack.

        Raises:
            HiddenCopyError: naming the line that crosses and the loop.
        """
        added = {_code(loop): loop.__qualname__ for loop in loops}
        self._marked |= added
        try:
            yield
        finally:
            for code in added:
                self._marked.pop(code, None)

    def count(self, function: str) -> int:
        """How many crossings there were with a function of this name on the stack."""
        return sum(function in one.functions for one in self.crossings)

    def cross(self, kind: str, func: Any, tensor: Tensor) -> None:
        """Write a crossing down."""
        self._busy = self._busy and kind == TO_DEVICE
        frames = list(_frames())
        ours = [frame for frame in frames if frame.f_code.co_filename.startswith(PRODUCT)]
        site = _site(ours[0]) if ours else "no line of the product"
        functions = tuple(frame.f_code.co_qualname for frame in ours)
        found = Crossing(kind, str(func), tensor.numel(), site, functions)
        self.crossings.append(found)
        for frame in frames:
            if frame.f_code in self._marked:
                raise HiddenCopyError(f"{found}, inside {self._marked[frame.f_code]}")

    def worked(self) -> None:
        """An operation was queued."""
        self.operations += 1
        self._busy = True

    def synchronise(self, *_: object) -> None:
        """Wait for what is queued; takes the place of ``torch.accelerator.synchronize``."""
        self._busy = False

    def read_clock(self) -> float:
        """Takes the place of ``time.perf_counter``."""
        caller = sys._getframe(1)
        if self._busy and caller.f_code.co_filename.startswith(PRODUCT):
            self.early_readings.append(_site(caller))
        return _perf_counter()


class _Placing(TorchDispatchMode):
    """Follows the labels through every operation."""

    def __init__(self, seen: PretendDevice) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((*args, *kwargs.values())))
        labelled = [one for one in tensors if isinstance(one, PretendTensor)]
        given = kwargs.get("device")
        there = bool(labelled) if given is None else torch.device(given).type == DEVICE.type
        if func in _COPYING:
            there = isinstance(args[0], PretendTensor) if func is aten.copy_.default else there
            source = args[1] if func is aten.copy_.default else args[0]
            if isinstance(source, PretendTensor) != there:
                self._seen.cross(TO_DEVICE if there else TO_HOST, func, source)
        else:
            self._check(func, args, tensors, labelled)
        _check_generator(func, kwargs, there)
        if given is not None and there:
            kwargs["device"] = torch.device("cpu")
            # Zeros without memory, of forward differentiation, are resolved above this mode or not at all.
            func = aten.zeros.default if func is aten._efficientzerotensor.default else func
        if labelled or there:
            self._seen.worked()
        if labelled and _waits(func, args):
            self._seen.cross(WAIT, func, labelled[0])
        if not labelled:
            found = func(*args, **kwargs)
        else:
            found = func(*map(_host, args), **{name: _host(value) for name, value in kwargs.items()})
        if not there:
            return found
        found = _labelled(found)
        return return_and_correct_aliasing(func, args, kwargs, found) if _aliases(func) else found

    def _check(self, func: Any, args: Any, tensors: list[Tensor], labelled: list[PretendTensor]) -> None:
        hosts = [one for one in tensors if not isinstance(one, PretendTensor)]
        if not labelled or not hosts:
            return
        if func in _INDEXING and isinstance(args[0], PretendTensor):
            indices = [one for one in args[1] if isinstance(one, Tensor) and not isinstance(one, PretendTensor)]
            if not isinstance(args[-1], Tensor) or isinstance(args[-1], PretendTensor) or not args[-1].dim():
                for index in indices:
                    self._seen.cross(TO_DEVICE, func, index)
                return
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if isinstance(value, Tensor) and argument.alias_info is not None and argument.alias_info.is_write
        ]
        wrong = [one for one in hosts if one.dim() or func in _WITHOUT_NUMBERS or any(one is each for each in written)]
        if wrong:
            shapes = ", ".join(str(tuple(one.shape)) for one in wrong)
            raise DeviceMismatchError(f"{func} has tensors of {DEVICE} and, of shapes {shapes}, of the host")


@contextmanager
def pretend_device() -> Iterator[PretendDevice]:
    """Gives the machine a device, ``DEVICE``, while the context lasts."""
    seen = PretendDevice()
    # Without it ``torch.tensor(..., device=DEVICE)`` would ask a backend for memory.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with (
            patch.object(torch, "Generator", _Generator),
            patch.object(torch.accelerator, "synchronize", seen.synchronise),
            patch.object(time, "perf_counter", seen.read_clock),
            _Placing(seen),
        ):
            yield seen
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


_perf_counter = time.perf_counter


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments of an operation, which may be lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _host(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_host, value))
    return value.host if isinstance(value, PretendTensor) else value


def _labelled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_labelled, value))
    return PretendTensor(value) if isinstance(value, Tensor) and not isinstance(value, PretendTensor) else value


@functools.cache
def _aliases(func: Any) -> bool:
    """Whether an operation gives a view of what it is given, or that itself."""
    return any(one.alias_info is not None for one in func._schema.returns)


def _check_generator(func: Any, kwargs: dict[str, Any], there: bool) -> None:
    source = kwargs.get("generator")
    source = None if source is None else _Generator.known.get(source._cdata, source)
    if source is not None and (source.device.type == DEVICE.type) != there:
        raise DeviceMismatchError(f"{func} on {DEVICE if there else 'the host'} has a generator of {source.device}")


def _waits(func: Any, args: Any) -> bool:
    if func in _INDEXING:
        masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
        # A mask and one number are filled without knowing how many places there are.
        return bool(masks) and not (func is not aten.index.Tensor and args[2].numel() == 1)
    if func is aten.repeat_interleave.Tensor:
        return True
    return func in _WAITING


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _site(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _code(function: Callable[..., Any]) -> CodeType:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function.__code__  # type: ignore[attr-defined]
