"""Pickled arrays read without pickle: its operations are followed one by one, and what they name is never imported.

Pickle is a small stack language. Here the operations that build plain values (numbers, text, bytes, lists, tuples,
dicts) are carried out, and the handful of names that numpy writes for an array stand for code of ours. Any other name,
and any other operation, is refused before anything is done with it.
"""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spectra.errors import UserError

# What numpy 1 and 2 call the functions behind a pickled array, and Python 3 that behind bytes in protocol 2.
_NAMES = {
    "numpy.core.multiarray _reconstruct": "empty",
    "numpy._core.multiarray _reconstruct": "empty",
    "numpy.core.numeric _frombuffer": "filled",
    "numpy._core.numeric _frombuffer": "filled",
    "numpy ndarray": "class",
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
# Python 2 wrote its strings, which were bytes, by these; pickletools reads them as Latin-1.
_OLD_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_SILENT = {"PROTO", "FRAME"}
# Truth values, whole numbers and floats, as numpy's pickles name them.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")


class _RefusedError(UserError):
    """Something that is no plain value."""


class _Name:
    """One of the names that numpy writes, standing for code of ours."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


class _Unfinished:
    """An array or dtype before its state is known; ``places`` are where the memo has it."""

    def __init__(self, kind: str, dtype: np.dtype[Any] | None = None) -> None:
        self.kind, self.dtype = kind, dtype
        self.places: list[int] = []


_MARK = object()


class _Machine:
    """The stack and the memo; one method an operation that needs more than a push."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.operations: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "EMPTY_DICT": lambda: self.stack.append({}),
            "EMPTY_LIST": lambda: self.stack.append([]),
            "EMPTY_TUPLE": lambda: self.stack.append(()),
            "DICT": self.dict,
            "LIST": lambda: self.stack.append(self.marked()),
            "TUPLE": lambda: self.stack.append(tuple(self.marked())),
            "APPEND": lambda: self.extend([self.stack.pop()]),
            "APPENDS": lambda: self.extend(self.marked()),
            "SETITEM": lambda: self.fill([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda: self.fill(self.marked()),
            "STACK_GLOBAL": lambda: self.name(f"{self.stack.pop(-2)} {self.stack.pop()}"),
            "REDUCE": self.reduce,
            "BUILD": self.build,
        }

    def step(self, operation: str, argument: Any) -> None:
        if operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
        elif operation in _NUMBERS | _TEXTS:
            self.stack.append(argument)
        elif operation in _OLD_TEXTS:
            self.stack.append(argument.encode("latin-1"))
        elif operation in _BYTES:
            self.stack.append(bytes(argument))
        elif operation in _TUPLES:
            self.stack[-_TUPLES[operation] :] = [tuple(self.stack[-_TUPLES[operation] :])]
        elif operation in _PUTS:
            self.put(len(self.memo) if argument is None else argument)
        elif operation in _GETS:
            self.stack.append(self.memo[argument])
        elif operation == "GLOBAL":
            self.name(argument)
        elif operation in self.operations:
            self.operations[operation]()
        elif operation not in _SILENT:
            raise _RefusedError(f"uses the operation {operation}, which plain arrays do not need")

    def marked(self) -> list[Any]:
        start = next(place for place in reversed(range(len(self.stack))) if self.stack[place] is _MARK)
        taken = self.stack[start + 1 :]
        del self.stack[start:]
        return taken

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], _Unfinished):
            self.stack[-1].places.append(place)

    def dict(self) -> None:
        values = self.marked()
        self.stack.append({})
        self.fill(values)

    def extend(self, values: list[Any]) -> None:
        _of_kind(self.stack[-1], list).extend(values)

    def fill(self, values: list[Any]) -> None:
        _of_kind(self.stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))

    def name(self, name: str) -> None:
        if name not in _NAMES:
            raise _RefusedError(f"contains pickled code ({name.replace(' ', '.')}); basinscope never runs it")
        self.stack.append(_Name(_NAMES[name]))

    def reduce(self) -> None:
        values, function = _of_kind(self.stack.pop(), tuple), _of_kind(self.stack.pop(), _Name)
        if function.meaning == "empty":
            self.stack.append(_Unfinished("array"))
        elif function.meaning == "dtype":
            self.stack.append(_Unfinished("dtype", _plain_dtype(values[0])))
        elif function.meaning == "bytes" and values[1] in ("latin1", "latin-1"):
            self.stack.append(_of_kind(values[0], str).encode("latin-1"))
        elif function.meaning == "filled":
            data, dtype, shape, order = values
            self.stack.append(_array(data, dtype, shape, order))
        else:
            raise _RefusedError(f"calls what is none of numpy's functions for an array ({function.meaning})")

    def build(self) -> None:
        state, unfinished = _of_kind(self.stack.pop(), tuple), _of_kind(self.stack.pop(), _Unfinished)
        if unfinished.kind == "dtype":
            order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
            finished: Any = unfinished.dtype if order == "|" else np.dtype(unfinished.dtype).newbyteorder(order)
        else:
            _, shape, dtype, by_columns, data = state
            finished = _array(data, dtype, shape, "F" if by_columns else "C")
        self.stack.append(finished)
        for place in unfinished.places:
            self.memo[place] = finished


def read_pickled(path: Path) -> Any:
    r"""What a pickle file holds, if that is numbers, text, bytes, lists, tuples, dicts and numpy arrays of numbers.

    Strings of Python 2 come as bytes.

    Args:
        path: the file, of any pickle protocol.

    Returns:
        The value.

    Raises:
        UserError: if the file names code, holds anything else, or is truncated.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "batch"
    >>> _ = path.write_bytes(b"\x80\x02}q\x00(U\x06labelsq\x01]q\x02(K\x06K\x09eu.")
    >>> read_pickled(path)
    {b'labels': [6, 9]}
    """
    machine = _Machine()
    try:
        # pickletools warns of escapes in strings that only a damaged file has.
        with warnings.catch_warnings(action="ignore"):
            for operation, argument, _ in pickletools.genops(path.read_bytes()):
                if operation.name == "STOP":
                    break
                machine.step(operation.name, argument)
        (value,) = machine.stack
    except _RefusedError as refusal:
        raise UserError(f"{path} {refusal}") from None
    except (ValueError, TypeError, LookupError, StopIteration, AttributeError, ArithmeticError, struct.error) as error:
        raise UserError(f"{path} is truncated or damaged: its pickle cannot be followed ({error})") from None
    return value


def _of_kind(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise _RefusedError(
            f"uses a {type(value).__name__.strip('_').lower()} where its pickle needs a {kind.__name__}"
        )
    return value


def _plain_dtype(name: Any) -> np.dtype[Any]:
    plain = name.decode("latin-1") if isinstance(name, bytes) else _of_kind(name, str)
    if not _PLAIN_DTYPE.fullmatch(plain):
        raise _RefusedError(f"holds an array of the kind {plain!r}, not of numbers")
    return np.dtype(plain)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    # Protocol 5 leaves a dtype of native byte order without a state.
    found = dtype.dtype if isinstance(dtype, _Unfinished) else dtype
    if not isinstance(found, np.dtype):
        raise _RefusedError("holds an array that is not of numbers")
    return np.frombuffer(_of_kind(data, bytes), dtype=found).reshape(shape, order="F" if order == "F" else "C")
