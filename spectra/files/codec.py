"""The codec of result files: a frozen dataclass <-> a group of an HDF5 file, by a table of its fields.

A store declares a ``Record`` for each class that it keeps. Fields that are texts, numbers, flags or tuples of
texts become attributes and need no entry; arrays have named dimensions, a meaning and a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import h5py
import numpy as np

T = TypeVar("T")


class Part(Protocol):
    """How one value is kept in a group."""

    def write(self, group: h5py.Group, value: Any, name: str, /) -> None:
        """Put a value into a group, by that name or by names of the part's own."""

    def read(self, group: h5py.Group, name: str, /) -> Any:
        """The value that ``write`` put there; a KeyError if it is not there."""


class Dimension(NamedTuple):
    """A dimension that numbers its entries from zero."""

    name: str
    long_name: str


@dataclass(frozen=True)
class Attribute:
    """A value as an attribute.

    Attributes:
        decode: makes the value of what the attribute holds.
        encode: its inverse.
        name: name in the file, where it is another than the field's.
    """

    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any] = lambda value: value
    name: str = ""

    def write(self, group: h5py.Group, value: Any, name: str, /) -> None:
        """As of any part."""
        group.attrs[name] = self.encode(value)

    def read(self, group: h5py.Group, name: str, /) -> Any:
        """As of any part."""
        if name not in group.attrs:
            raise KeyError(name)  # h5py's own does not say which
        return self.decode(group.attrs[name])


@dataclass(frozen=True)
class Mapped:
    """Values by name, each an attribute behind one prefix.

    Attributes:
        prefix: beginning of the attributes' names.
        decode: makes a value of what its attribute holds.
    """

    prefix: str
    decode: Callable[[Any], Any]

    def write(self, group: h5py.Group, value: Mapping[str, Any], _: str = "", /) -> None:
        """As of any part."""
        for key, one in value.items():
            group.attrs[self.prefix + key] = one

    def read(self, group: h5py.Group, _: str = "", /) -> dict[str, Any]:
        """As of any part."""
        names = [key for key in group.attrs if key.startswith(self.prefix)]
        return {key.removeprefix(self.prefix): self.decode(group.attrs[key]) for key in names}


@dataclass(frozen=True)
class Array:
    """An array whose axes are named by dimension scales of the same group, which the first array with them makes.

    Attributes:
        dimensions: dimensions of its axes; one that the group has already may be a scale with values.
        long_name: what it holds; empty for an array that only this program reads.
        units: unit of its entries.
        name: name in the file, where it is another than the field's.
        kind: ``str`` for texts, ``bool`` for truth values, which are kept as integers, for xarray knows no HDF5
            enumerations; None for numbers, kept bit for bit.
    """

    dimensions: tuple[Dimension, ...]
    long_name: str
    units: str
    name: str = ""
    kind: type | None = None

    def write(self, group: h5py.Group, value: Any, name: str, /) -> None:
        """As of any part."""
        data = np.asarray(value, dtype=object if self.kind is str else None)
        stored = h5py.string_dtype() if self.kind is str else np.int8 if self.kind is bool else data.dtype
        for length, (dimension, words) in zip(data.shape, self.dimensions, strict=False):
            if dimension not in group:
                add_scale(group, dimension, np.arange(length, dtype=np.int64), words, "1")
        dataset = group.create_dataset(name, data=data.astype(stored), shape=data.shape, dtype=stored)
        for axis, (dimension, _) in enumerate(self.dimensions):
            dataset.dims[axis].attach_scale(group[dimension])
        if self.long_name:
            dataset.attrs["long_name"] = self.long_name
        if self.long_name and self.kind is not str:
            dataset.attrs["units"] = self.units

    def read(self, group: h5py.Group, name: str, /) -> Any:
        """As of any part."""
        if self.kind is str:
            return group[name].asstr()[()]
        return group[name][()].astype(bool) if self.kind is bool else group[name][()]


@dataclass(frozen=True)
class Numbered:
    """A sequence: a group for each of its items, whose names end in their numbers.

    Attributes:
        pattern: pattern of the groups' names, such as ``row%04d``.
        item: how an item is kept in its group.
    """

    pattern: str
    item: Part

    def write(self, group: h5py.Group, value: Any, _: str, /) -> None:
        """As of any part."""
        for number, item in enumerate(value):
            self.item.write(group.create_group(self.pattern % number), item, "")

    def read(self, group: h5py.Group, _: str, /) -> tuple[Any, ...]:
        """As of any part."""
        names = [key for key in group if key.startswith(self.pattern.partition("%")[0])]
        return tuple(self.item.read(group[key], "") for key in sorted(names, key=lambda key: (len(key), key)))


@dataclass(frozen=True)
class Record(Generic[T]):
    """How the fields of a dataclass are kept in one group.

    Attributes:
        kind: the class.
        parts: by field, how it is kept where that does not follow from its type; None for one that is not, or that the
            store keeps itself. An entry that is no field but a property is written for other readers, and never read.
        later: fields that files from before them lack: those have the default of the class.
        prefix: beginning of the names in the file.
        optional: what the group holds if there is a value, and lacks for None; empty where there always is one.

    >>> @dataclass(frozen=True)
    ... class Point:
    ...     name: str
    ...     place: Any
    >>> record = Record(Point, {"place": Array((Dimension("axis", "axis of space"),), "where it is", "m")})
    >>> with h5py.File("memory", "w", driver="core", backing_store=False) as file:
    ...     record.write(file, Point("corner", np.array([1.0, 2.0])))
    ...     record.read(file), dict(file.attrs), list(file)
    (Point(name='corner', place=array([1., 2.])), {'name': 'corner'}, ['axis', 'place'])
    """

    kind: type[T]
    parts: Mapping[str, Part | None] = field(default_factory=dict)
    later: tuple[str, ...] = ()
    prefix: str = ""
    optional: str = ""

    @cached_property
    def kept(self) -> dict[str, tuple[str, Part]]:
        """By field or property, its name in the file and how it is kept."""
        by_type = {name: _BY_TYPE[kind] for name, kind in _types(self.kind).items() if name not in self.parts}
        parts = {**self.parts, **by_type}
        names = {name: self.prefix + (getattr(part, "name", "") or name) for name, part in parts.items()}
        return {name: (names[name], part) for name, part in parts.items() if part is not None}

    def write(self, group: h5py.Group, value: T | None, name: str = "", /) -> None:
        """Put a value into a group.

        Args:
            group: may hold other things.
            value: the value; None where that is allowed.
            name: not used: the names are those of the fields.
        """
        if value is not None or not self.optional:
            for own, (name, part) in self.kept.items():
                part.write(group, getattr(value, own), name)

    def read(self, group: h5py.Group, name: str = "", /, **apart: Any) -> T:
        """Make a value of what a group holds.

        Args:
            group: the group as ``write`` left it, or from before some fields were kept.
            name: not used.
            **apart: fields that the store keeps itself.

        Returns:
            The value; None where there is none and that is allowed.
        """
        if self.optional and self.optional not in group.attrs and self.optional not in group:
            return None  # type: ignore[return-value]
        known = _types(self.kind)
        for own, (name, part) in self.kept.items():
            if own not in known or (own in self.later and name not in group.attrs and name not in group):
                continue
            apart[own] = part.read(group, name)
        return self.kind(**apart)


def add_scale(group: h5py.Group, name: str, values: Any, long_name: str, units: str) -> None:
    """Add a dimension scale, which names an axis of other arrays and tells where its entries lie.

    Args:
        group: group of the arrays.
        name: name of the dimension.
        values: one for each entry.
        long_name: what the dimension counts or measures.
        units: unit of the values.
    """
    scale = group.create_dataset(name, data=values)
    scale.make_scale(name)
    scale.attrs["long_name"], scale.attrs["units"] = long_name, units


def plain(value: Any) -> Any:
    """A number of numpy's, as attributes are read, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def read_texts(value: object) -> tuple[str, ...]:
    """The texts of an attribute that holds an array of them, or its empty counterpart."""
    return () if isinstance(value, h5py.Empty) else tuple(map(str, np.atleast_1d(np.asarray(value, dtype=object))))


def _texts(values: tuple[str, ...]) -> object:
    return np.array(values, dtype=h5py.string_dtype()) if values else h5py.Empty(h5py.string_dtype())


TEXTS = Attribute(read_texts, _texts)
_BY_TYPE: dict[str, Part] = {
    **{kind.__name__: Attribute(kind) for kind in (str, int, float)},
    "bool": Attribute(bool, int),
    "tuple[str, ...]": TEXTS,
}


def settings(kind: type[T], **parts: Part) -> Record[T]:
    """The settings of a result: every field behind ``setting_``; one that a file lacks keeps the default of the class.

    Args:
        kind: the class of the settings.
        **parts: those that are kept in a way of their own; no file lacks them.

    Returns:
        The record.
    """
    later = tuple(name for name in _types(kind) if name not in parts)
    return Record(kind, parts, later, prefix="setting_")


def _types(kind: Any) -> dict[str, str]:
    """The types of a dataclass' fields, as they are written."""
    return {entry.name: str(entry.type) for entry in fields(kind)}
