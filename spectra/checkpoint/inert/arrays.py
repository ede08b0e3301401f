"""Arrays, numbers and dtypes of numpy out of a pickle, built by functions of this program."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from spectra.files import Opaque

# Truth values, whole numbers, floats, complex numbers and texts, as numpy's pickles name them.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,6}")


class Unfinished:
    """An array or dtype before the pickle gives its state; ``places`` are where the memo has it."""

    def __init__(self, dtype: np.dtype[Any] | None = None) -> None:
        """A dtype of native byte order, or an array of which nothing is known yet."""
        self.dtype = dtype
        self.places: list[int] = []

    def finished(self, state: Any) -> Any:
        """The array or dtype; an ``Opaque`` for an array that does not consist of numbers or texts."""
        if self.dtype is not None:
            order: Any = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
            return self.dtype if order == "|" else self.dtype.newbyteorder(order)
        _, shape, dtype, by_columns, data = state
        return _array(data, dtype, shape, "F" if by_columns else "C")


def _dtype(name: Any, *_: Any) -> Unfinished | Opaque:
    plain = name.decode("latin-1") if isinstance(name, bytes) else name
    if isinstance(plain, Opaque) or not _PLAIN_DTYPE.fullmatch(plain):
        return Opaque("numpy.dtype", "a kind of numpy's numbers that is not read")
    return Unfinished(np.dtype(plain))


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    # Protocol 5 leaves a dtype of native byte order without a state.
    found = dtype.dtype if isinstance(dtype, Unfinished) else dtype
    if not isinstance(found, np.dtype):
        return Opaque("numpy.ndarray", "an array of numpy that does not consist of numbers")
    # The test also keeps objects with a buffer of their own out.
    if not isinstance(data, bytes):
        raise TypeError(f"an array made of a {type(data).__name__}")
    return np.frombuffer(data, dtype=found).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any = None) -> Any:
    found = _array(data, dtype, (), "C") if not isinstance(dtype, Opaque) else Opaque("numpy.object_")
    return found if isinstance(found, Opaque) else found.item()


# What numpy 1 and 2 call the functions behind a pickled array or number. The state of a random generator is data, and
# what numpy would make of it is left out.
NUMPY: dict[str, Callable[..., Any]] = {
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Unfinished() for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    "numpy.dtype": _dtype,
    **{
        f"numpy.random._pickle.__{kind}_ctor": lambda *_: Opaque("numpy.random")
        for kind in ("randomstate", "generator", "bit_generator")
    },
}
