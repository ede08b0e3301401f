"""Pickles read without running them: data is built, and what would take foreign code becomes a placeholder.

Pickle is a small stack language that may name any function and have it called. Here its operations are followed one by
one, and nothing that they name is ever imported or called: a table has functions of this program for the names behind
plain data (ordered dictionaries, numbers of numpy, paths), any other class becomes an ``Opaque``, and the call of any
other function is refused.
"""

from __future__ import annotations

import pickletools
import struct
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol

from spectra.checkpoint.inert.arrays import NUMPY, Unfinished
from spectra.errors import UserError
from spectra.files import Opaque, instance, refused_call


class Source(Protocol):
    """What a pickle is read from; a read must give what is there where less is there than asked for."""

    def read(self, count: int, /) -> bytes:
        """The next bytes."""

    def readline(self) -> bytes:
        """The rest of a line."""

    def tell(self) -> int:
        """The place."""


StandIns = Mapping[str, Callable[..., Any]]
# Steps and copied items; more than any checkpoint has use for, and followed in some twenty seconds.
MOST_STEPS = 10_000_000
# Bytes that may be copied beyond twice the file's own.
_SPARE_BYTES = 2**26
# Larger integers can be chosen so that a dictionary of them takes for ever.
_LARGEST_KEY = 2**64
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_PUSHED |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
# Python 2 wrote its strings, which were bytes, by these; pickletools reads them as Latin-1.
_OLD_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_SILENT = {"PROTO", "FRAME"}
_MARK = object()
# What a damaged pickle makes of the operations.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    StopIteration,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)
# Classes of Python's own library that are called to be built and hold data alone.
_DATA_MODULES = ("datetime", "decimal", "fractions", "uuid")
_DATA_CLASSES = (
    *("functools.partial", "random.Random", "types.SimpleNamespace", "argparse.Namespace"),
    *("signal.Signals", "re.RegexFlag", "itertools.count", "types.GenericAlias"),
)
# Functions that data of Python and pandas is pickled with; what they would make is left out.
_DATA_FUNCTIONS = (
    *("re._compile", "zoneinfo.ZoneInfo._unpickle", "logging.getLogger"),
    *("pandas._libs.internals._unpickle_block", "pandas.core.indexes.base._new_Index"),
    "pandas._libs.tslibs.timestamps._unpickle_timestamp",
)


def read_pickle(
    source: Source,
    size: int,
    *,
    stand_ins: StandIns | None = None,
    outside: Callable[[Any], Any] | None = None,
    named: set[str] | None = None,
) -> Any:
    r"""What a pickle of any protocol holds; nothing in it is imported or called.

    Numbers, texts, bytes, lists, tuples, dictionaries, sets, paths (as texts) and arrays of numpy come as such,
    instances of other classes as ``Opaque``, and strings of Python 2 as bytes.

    Args:
        source: read up to the pickle's end.
        size: bytes of the whole file, which bounds what its pickles may copy.
        stand_ins: functions of this program by the name that they stand for, beside those of plain data.
        outside: gives what an identifier of something outside the pickle stands for.
        named: where given, calls of foreign functions become placeholders instead of being refused, and all names of
            foreign code go in here.

    Returns:
        The value.

    Raises:
        PickledCodeError: if a function that has no stand-in is called.
        UserError: if the pickle is truncated, damaged or endless, or has a key twice in one dictionary.

    >>> import io
    >>> read_pickle(io.BytesIO(b"\x80\x02}q\x00(U\x06labelsq\x01]q\x02(K\x06K\x09eu."), 24)
    {b'labels': [6, 9]}
    """
    machine = _Machine({**PLAIN, **(stand_ins or {})}, outside, 2 * size + _SPARE_BYTES, named)
    try:
        # pickletools warns of escapes in strings that only a damaged file has.
        with warnings.catch_warnings(action="ignore"):
            for operation, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
                if operation.name == "STOP":
                    break
                machine.charge(1)
                machine.step(operation.name, argument)
        (value,) = machine.stack
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"is truncated or damaged: its pickle cannot be followed ({error})") from error
    return value


class _Machine:
    """The stack and the memo; one method an operation that needs more than a push."""

    def __init__(
        self, stand_ins: StandIns, outside: Callable[[Any], Any] | None, most_bytes: int, named: set[str] | None
    ) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.stand_ins, self.outside, self.named = stand_ins, outside, named
        self.steps, self.bytes = MOST_STEPS, most_bytes
        push, pop = self.stack.append, self.stack.pop
        self.operations: dict[str, Callable[[], Any]] = {
            "MARK": lambda: push(_MARK),
            "POP": pop,
            "POP_MARK": self.marked,
            "DUP": lambda: push(self.stack[-1]),
            "EMPTY_DICT": lambda: push({}),
            "EMPTY_LIST": lambda: push([]),
            "EMPTY_TUPLE": lambda: push(()),
            "EMPTY_SET": lambda: push(set()),
            "DICT": lambda: push(self.filled({}, self.marked())),
            "LIST": lambda: push(self.marked()),
            "TUPLE": lambda: push(tuple(self.marked())),
            "FROZENSET": lambda: push(frozenset(map(_key, self.marked()))),
            "APPEND": lambda: self.extend([pop()]),
            "APPENDS": lambda: self.extend(self.marked()),
            "ADDITEMS": self.add,
            "SETITEM": lambda: self.fill([pop(-2), pop()]),
            "SETITEMS": lambda: self.fill(self.marked()),
            "STACK_GLOBAL": lambda: push(self.globally(f"{_of_kind(pop(-2), str)}.{_of_kind(pop(), str)}")),
            "REDUCE": lambda: push(self.called(pop(-2), pop())),
            "OBJ": lambda: push(self.called(*_first(self.marked()))),
            "NEWOBJ": lambda: push(instance(pop(-2), pop())),
            "NEWOBJ_EX": lambda: push(instance(pop(-3), pop(-2), pop())),
            "BUILD": self.build,
            "BINPERSID": lambda: push(self.found_outside(pop())),
        }

    def charge(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise UserError(f"holds a pickle of more than {MOST_STEPS:,} steps, more than any checkpoint needs")

    def step(self, operation: str, argument: Any) -> None:
        if operation in _PUSHED:
            self.stack.append(argument)
        elif operation in self.operations:
            self.operations[operation]()
        elif operation in _PUTS:
            self.put(len(self.memo) if argument is None else argument)
        elif operation in _GETS:
            self.stack.append(self.memo[argument])
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
        elif operation in _BYTES:
            self.stack.append(bytes(argument))
        elif operation in _OLD_TEXTS:
            self.stack.append(argument.encode("latin-1"))
        elif operation in _TUPLES:
            self.stack[-_TUPLES[operation] :] = [tuple(self.stack[-_TUPLES[operation] :])]
        elif operation == "GLOBAL":
            self.stack.append(self.globally(argument.replace(" ", ".")))
        elif operation == "INST":
            self.stack.append(self.called(self.globally(argument.replace(" ", ".")), tuple(self.marked())))
        elif operation not in _SILENT:
            raise UserError(f"uses the operation {operation}, which plain data does not need")

    def marked(self) -> list[Any]:
        start = next(place for place in reversed(range(len(self.stack))) if self.stack[place] is _MARK)
        taken = self.stack[start + 1 :]
        del self.stack[start:]
        return taken

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], Unfinished):
            self.stack[-1].places.append(place)

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        (target.members if isinstance(target, Opaque) else _of_kind(target, list)).extend(values)

    def add(self) -> None:
        values = self.marked()
        _of_kind(self.stack[-1], set).update(map(_key, values))

    def fill(self, values: list[Any]) -> None:
        self.filled(_of_kind(self.stack[-1], dict), values)

    def filled(self, target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
        for key, value in zip(map(_key, values[::2]), values[1::2], strict=True):
            if key in target:
                raise _repeated(key)
            target[key] = value
        return target

    def called(self, function: Any, values: Any) -> Any:
        name, arguments = _of_kind(function, Opaque).name, _of_kind(values, tuple)
        self.charge(sum(len(one) for one in arguments if isinstance(one, list | tuple | dict | set | frozenset)))
        self.bytes -= sum(len(one) for one in arguments if isinstance(one, str | bytes))
        if self.bytes < 0:
            raise UserError("holds a pickle that copies its bytes again and again, as no checkpoint needs")
        if name in self.stand_ins:
            found = self.stand_ins[name](*arguments)
            if self.named is not None and isinstance(found, Opaque):
                self.named.add(found.name)  # what getattr makes of other names
            return found
        if not (_is_class(name) or name in _DATA_FUNCTIONS or self.named is not None):
            raise refused_call(name)
        return instance(function)

    def globally(self, name: str) -> Opaque:
        if self.named is not None and name not in self.stand_ins:
            self.named.add(name)
        return Opaque(name)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unfinished):
            self.stack[-1] = target.finished(state)
            for place in target.places:
                self.memo[place] = self.stack[-1]
        elif isinstance(target, Opaque):
            target.state = state
        else:
            # Attributes of a dictionary, as those of torch's state dicts, are no data.
            _of_kind(target, dict)

    def found_outside(self, identifier: Any) -> Any:
        if self.outside is None:
            raise UserError("refers to data outside its pickle, which plain data does not")
        return self.outside(identifier)


def _of_kind(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__.strip('_').lower()} where it needs a {kind.__name__.lower()}")
    return value


def _key(value: Any) -> Any:
    """Something that may be looked up: Python follows nested tuples for a hash without any bound, and ends there."""
    flat = value if isinstance(value, tuple) else (value,)
    if not all(one is None or isinstance(one, str | bytes | int | float | complex | Opaque) for one in flat):
        raise UserError("has something as the key of a dictionary that is neither a text nor a number")
    if any(isinstance(one, int) and abs(one) >= _LARGEST_KEY for one in flat):
        raise UserError("has an integer of more than 64 bits as the key of a dictionary")
    return value


def _repeated(key: Any) -> UserError:
    words = repr(key[:80] if isinstance(key, str) else key) if isinstance(key, str | int) else "a key"
    return UserError(f"holds {words} twice in one dictionary, so it cannot be told which one counts")


def _first(values: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    return values[0], tuple(values[1:])


def _is_class(name: str) -> bool:
    """Whether a name, called, makes data: a class of Python's that does, or by its capital a class of any library."""
    module, _, last = name.rpartition(".")
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in IMPORT_MAPPING:
        return module in _DATA_MODULES or name in _DATA_CLASSES
    # Cython's classes are built by functions of this name.
    return last.removeprefix("__pyx_unpickle_")[:1].isupper()


def _dictionary(entries: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in entries.items() if isinstance(entries, dict) else entries:
        if _key(key) in found:
            raise _repeated(key)
        found[key] = value
    return found


def _encoded(text: str | bytes = "", codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded by {codec[:40]!r}")
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _attribute(owner: Any, name: Any = None) -> Opaque:
    """What getattr would give of foreign code: members of enumerations and methods are pickled so."""
    if not (isinstance(owner, Opaque) and isinstance(name, str)):
        raise refused_call("builtins.getattr")
    return Opaque(f"{owner.name}.{name}")


def _type(kind: Any, _: Any = None) -> Opaque:
    """A type with others in brackets."""
    if not (isinstance(kind, Opaque) and kind.name.startswith("typing.")):
        raise refused_call("operator.getitem")
    return Opaque(kind.name)


def _union(function: Any = None, *_: Any) -> Opaque:
    """Types joined by bars, as the annotations of a configuration are pickled."""
    if not (isinstance(function, Opaque) and function.name in ("_operator.or_", "operator.or_")):
        raise refused_call("functools.reduce")
    return Opaque("types.UnionType")


def _none_type(value: Any = "") -> Opaque:
    """The type of None, which has no name that it could be found by."""
    if value is not None:
        raise refused_call("builtins.type")
    return Opaque("types.NoneType")


def _reconstructed(kind: Any, _: Any = None, state: Any = None) -> Opaque:
    found = instance(kind)
    found.update(_dictionary(state) if isinstance(state, dict) else {})
    return found


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": lambda items=(): set(map(_key, items)),
    "frozenset": lambda items=(): frozenset(map(_key, items)),
    "bytes": _encoded,
    "bytearray": _encoded,
    "complex": lambda *parts: complex(*parts),
    "slice": lambda *parts: parts,
    "range": lambda *parts: parts,
    "getattr": _attribute,
    "type": _none_type,
}
PLAIN: StandIns = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda _=None, entries=(): _dictionary(entries),
    "collections.deque": lambda items=(), _=None: list(items),
    "_codecs.encode": _encoded,
    **{f"{module}.getitem": _type for module in ("_operator", "operator")},
    **{f"{module}.reduce": _union for module in ("functools", "_functools", "__builtin__")},
    **{f"{module}._reconstructor": _reconstructed for module in ("copyreg", "copy_reg")},
    **{f"{module}.{name}": made for module in ("builtins", "__builtin__") for name, made in _BUILTINS.items()},
    **{
        f"{module}.{kind}Path": _path
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "PurePosix", "Windows", "PureWindows")
    },
    **NUMPY,
}
