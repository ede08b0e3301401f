"""The codec: what a record writes comes back, xarray sees its dimensions, and what a file lacks is never made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import pytest

from spectra.files import Array, Attribute, Dimension, Mapped, Numbered, Record, settings

AXIS = Dimension("axis", "axis of space")


@dataclass(frozen=True)
class Choice:
    words: tuple[str, ...] = ()
    fast: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Origin:
    where: str
    distance: float = 0.0


@dataclass(frozen=True, eq=False)
class Item:
    choice: Choice
    place: Any
    met: Any
    names: Any
    shares: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = None
    count: int = 7
    note: str = "default"

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.place))


RECORD = Record(
    Item,
    {
        "choice": settings(Choice, limit=Attribute(lambda count: int(count) or None, lambda count: count or 0)),
        "place": Array((AXIS,), "where it is", "m"),
        "met": Array((AXIS,), "whether it was met", "1", kind=bool),
        "names": Array((AXIS,), "name of the axis", "", name="axis_name", kind=str),
        "shares": Mapped("share_", float),
        "origin": Record(Origin, prefix="origin_", optional="origin_where"),
        "norm": Attribute(float),
        "note": None,
    },
    later=("count",),
)
ITEM = Item(
    Choice(("one", "two"), True), np.array([3.0, 4.0]), np.array([True, False]), ["x", "y"], {"a": 0.5}, count=2
)


@pytest.fixture
def file() -> h5py.File:
    with h5py.File("memory", "w", driver="core", backing_store=False) as opened:
        RECORD.write(opened, ITEM)
        yield opened


def test_it_comes_back(file: h5py.File) -> None:
    found = RECORD.read(file, note="kept apart")
    assert (found.choice, found.shares, found.origin, found.count) == (ITEM.choice, {"a": 0.5}, None, 2)
    assert (found.note, RECORD.read(file).note) == ("kept apart", "default")
    np.testing.assert_array_equal(found.place, ITEM.place)
    np.testing.assert_array_equal(found.met, ITEM.met)
    assert found.met.dtype == bool
    assert list(found.names) == ["x", "y"]
    assert type(found.choice.fast) is bool


def test_it_is_laid_out_as_declared(file: h5py.File) -> None:
    assert set(file) == {"axis", "place", "met", "axis_name"}
    assert file["met"].dtype == np.int8
    assert [scale.name for scale in file["place"].dims[0].values()] == ["/axis"]
    assert (file["place"].attrs["units"], file["axis"].attrs["long_name"]) == ("m", "axis of space")
    assert (file.attrs["norm"], file.attrs["setting_fast"], file.attrs["setting_limit"]) == (5.0, 1, 0)


def test_later_fields_have_their_defaults_and_others_are_missed(file: h5py.File) -> None:
    for name in ("count", "setting_fast", "setting_words"):
        del file.attrs[name]
    found = RECORD.read(file)
    assert (found.count, found.choice.fast, found.choice.words) == (7, False, ())
    del file.attrs["setting_limit"]
    with pytest.raises(KeyError, match="setting_limit"):
        RECORD.read(file)
    RECORD.write(file.create_group("again"), ITEM)
    del file["again"]["place"]
    with pytest.raises(KeyError, match="place"):
        RECORD.read(file["again"])


def test_what_is_optional_is_none_or_whole() -> None:
    record = Record(Origin, prefix="origin_", optional="origin_where")
    with h5py.File("memory", "w", driver="core", backing_store=False) as opened:
        record.write(opened, None)
        assert record.read(opened) is None
        record.write(opened, Origin("here", 2.0))
        assert record.read(opened) == Origin("here", 2.0)
        del opened.attrs["origin_distance"]
        with pytest.raises(KeyError, match="origin_distance"):
            record.read(opened)


def test_a_sequence_keeps_its_order_beyond_the_digits_of_its_numbers() -> None:
    part = Numbered("row%01d", Record(Origin))
    with h5py.File("memory", "w", driver="core", backing_store=False) as opened:
        part.write(opened, [Origin(str(number)) for number in range(12)], "")
        assert [one.where for one in part.read(opened, "")] == list(map(str, range(12)))


def test_a_field_that_no_part_keeps_is_refused() -> None:
    with (
        h5py.File("memory", "w", driver="core", backing_store=False) as opened,
        pytest.raises(KeyError, match=r"int \| None"),
    ):
        Record(Choice).write(opened, Choice())
