"""Pickles are followed without running anything: what they build, what stands for code, and what is refused."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import os
import pathlib
import pickle
import random
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.checkpoint import read_pickle
from spectra.errors import UserError
from spectra.files import Opaque

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def followed(content: bytes) -> Any:
    return read_pickle(io.BytesIO(content), len(content))


@dataclasses.dataclass
class Recipe:
    rate: float = 0.1


class Bare:
    pass


class Ordered(collections.OrderedDict[str, int]):
    pass


class Split(enum.Enum):
    TRAIN = 1


PLAIN = [
    {b"a": [1, -2, 300, 2**40, -(2**70)], "b": (1.5, None, True, False, ()), "c": {}, "ü": b"\x00\xff", "e": ""},
    [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), list(range(3000))],
    {"same": [[0]] * 3},
    {1, 2, "three"},
    frozenset({(1, "two")}),
    {"empty": b"", "array": bytearray(b"abc"), "complex": 2j, "float": float("inf")},
]


@each_protocol
@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_those_of_pickle(value: Any, protocol: int) -> None:
    assert followed(pickle.dumps(value, protocol)) == value


LIKE_PLAIN = [
    (collections.OrderedDict(a=1, b=2), {"a": 1, "b": 2}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.deque([1, 2], 5), [1, 2]),
    (pathlib.PurePosixPath("runs/last.pt"), "runs/last.pt"),
    (np.float64(0.91), 0.91),
    (np.float16(0.5), 0.5),
    (np.int32(-7), -7),
    (np.bool_(True), True),
    (np.complex64(1 + 2j), 1 + 2j),
    (np.str_("best"), "best"),
    (np.random.RandomState(3).get_state()[0], "MT19937"),
    (random.Random(3).getstate(), random.Random(3).getstate()),
]


@each_protocol
@pytest.mark.parametrize("value, expected", LIKE_PLAIN)
def test_harmless_values_become_plain_ones(value: Any, expected: Any, protocol: int) -> None:
    found = followed(pickle.dumps(value, protocol))
    assert found == expected
    assert type(found) is type(expected)


@each_protocol
@pytest.mark.parametrize("kind", ["u1", "<i8", ">f4", "<f2", "?", "<c16", "<U4", "S3"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_of_pickle(kind: str, order: Any, protocol: int) -> None:
    array = np.asarray(np.arange(24).reshape(4, 6) % 7, dtype=kind, order=order)
    content = pickle.dumps({"one": array, "same": array, "part": array[:, ::2]}, protocol)
    found, known = followed(content), pickle.loads(content)
    for name, expected in known.items():
        assert found[name].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], expected)


def test_an_empty_array_of_empty_bytes() -> None:
    assert followed(pickle.dumps(np.empty((0, 3072), np.uint8), 5)).shape == (0, 3072)


INSTANCES = [
    (Recipe(), {"rate": 0.1}),
    (argparse.Namespace(rate=0.1, name="x"), {"rate": 0.1, "name": "x"}),
    (types.SimpleNamespace(rate=0.1), {"rate": 0.1}),
    (Ordered(a=1), {"a": 1}),
    (Bare(), {}),
    (Split.TRAIN, {}),
    (datetime.datetime(2025, 1, 31), {}),
    (decimal.Decimal("0.1"), {}),
    (functools.partial(print, end=""), {}),
    (io.BytesIO(b"state"), {}),
    (np.random.default_rng(0), {}),
    (np.random.RandomState(0), {}),
    (np.zeros(3, "M8[s]"), {}),
    (np.array([None, 1]), {}),
    (np.zeros(2, [("a", "i4"), ("b", "f8")]), {}),
    (print, {}),
    (Recipe, {}),
]


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
@pytest.mark.parametrize("value, entries", INSTANCES)
def test_instances_of_classes_are_placeholders(value: Any, entries: dict[str, Any], protocol: int) -> None:
    found = followed(pickle.dumps({"here": value}, protocol))["here"]
    assert isinstance(found, Opaque)
    if entries:
        assert found.entries == entries


class Malicious:
    def __init__(self, function: Any, *values: Any) -> None:
        self.call = (function, values)

    def __reduce__(self) -> Any:
        return self.call


FUNCTIONS = [os.system, os.remove, eval, exec, print, open, np.load, np.frombuffer, getattr, __import__, map, type]
FUNCTIONS += [subprocess.Popen, subprocess.call, functools.reduce, io.open, pickle.loads]


@each_protocol
@pytest.mark.parametrize("function", FUNCTIONS)
def test_code_is_named_and_not_run(tmp_path: Path, function: Any, protocol: int) -> None:
    victim = tmp_path / "victim"
    victim.write_text("still here")
    content = pickle.dumps({"labels": [1], "data": Malicious(function, str(victim))}, protocol)
    with pytest.raises(UserError, match=r"contains pickled code \(\w+(\.\w+)*\); basinscope never runs it"):
        followed(content)
    assert victim.read_text() == "still here"


REFUSED = [
    (b"(S'echo'\nios\nsystem\n.", r"contains pickled code \(os.system\)"),
    (b"(cos\nsystem\nS'echo'\no.", r"contains pickled code \(os.system\)"),
    (b"cos\nsystem\n(S'echo'\ntR.", r"contains pickled code \(os.system\)"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.", r"contains pickled code \(os.system\)"),
    # Names that have stand-ins, used for what they are not.
    (b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'?'\nNtb.", "its pickle cannot be followed"),
    (b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I2\ntcnumpy\ndtype\n(S'f8'\ntRI0\nS'short'\ntb.", "cannot be"),
    (b"c_codecs\nencode\n(Vsome\nVrot13\ntR.", "its pickle cannot be followed"),
    (b"Pplace\n.", "uses the operation PERSID"),
    (b"\x80\x02\x82\x01.", "uses the operation EXT1"),
    (b"\x80\x05\x97.", "uses the operation NEXT_BUFFER"),
    (b"\x80\x02]Q.", "refers to data outside its pickle"),
    (b"I1\nI2\n.", "its pickle cannot be followed"),
    (b"t.", "its pickle cannot be followed"),
    (b"g5\n.", "its pickle cannot be followed"),
    (b"}I1\na.", "a dict where it needs a list"),
    (b"}(I1\nu.", "its pickle cannot be followed"),
    (b"}]I1\ns.", "neither a text nor a number"),
    (b"(I1\nlR.", "its pickle cannot be followed"),
    (b"\x80\x04]]\x93.", "a list where it needs a str"),
    (b"}(V1\nI1\nV1\nI2\nu.", "holds '1' twice in one dictionary"),
    (b"ccollections\nOrderedDict\n(((V1\nI1\nt(V1\nI2\ntltR.", "holds '1' twice in one dictionary"),
    (b"}\x8a\x09" + bytes(8) + b"\x7fI1\ns.", "an integer of more than 64 bits as the key"),
    (b"\xff\xd8\xff\xe0", "its pickle cannot be followed"),
    (b"", "its pickle cannot be followed"),
    # A length far beyond the file.
    (b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00ab.", "its pickle cannot be followed"),
]


@pytest.mark.parametrize("content, words", REFUSED)
def test_refusals_are_a_sentence(content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        followed(content)
    assert "\n" not in str(caught.value)


def test_a_place_of_the_memo_far_away_takes_no_memory() -> None:
    """pickle itself makes its table as long as the largest place."""
    assert followed(b"\x80\x02]r\xff\xff\xff\xff.") == []


ENDLESS: list[tuple[str, Callable[[], bytes], str]] = [
    ("lists", lambda: b"\x80\x02" + b"]" * 10_000_001 + b".", "more than 10,000,000 steps"),
    ("tuples as keys", lambda: b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "neither a text nor a number"),
    ("tuples in a set", lambda: b"\x80\x04\x8f()" + b"\x85" * 200_000 + b"\x90.", "neither a text nor a number"),
    (
        "one text encoded again and again",
        lambda: (
            b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00"
            + b"a" * 2**20
            + b"X\x06\x00\x00\x00latin1\x86q\x01"
            + b"h\x00h\x01R" * 2000
            + b"."
        ),
        "copies its bytes again and again",
    ),
    (
        "one list copied again and again",
        lambda: b"\x80\x02ccollections\ndeque\nq\x00](" + b"N" * 10_000 + b"e\x85q\x01" + b"h\x00h\x01R" * 2000 + b".",
        "more than 10,000,000 steps",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("make, words", [row[1:] for row in ENDLESS], ids=[row[0] for row in ENDLESS])
def test_what_would_not_end_is_refused(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(UserError, match=words):
        followed(make())


@pytest.mark.parametrize("depth", [400, 30_000, pytest.param(300_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "opening, closing", [(b"]", b"a"), (b"}K\x01", b"s"), (b"", b"\x85"), (b"cnet\nNet\n)\x81", b"b")]
)
def test_any_depth_is_followed(depth: int, opening: bytes, closing: bytes) -> None:
    assert followed(b"\x80\x02" + opening * depth + b"N" + closing * depth + b".") is not None


def test_every_truncation_is_refused() -> None:
    for protocol in PROTOCOLS:
        content = pickle.dumps({b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2]}, protocol)
        for length in range(len(content)):
            with pytest.raises(UserError):
                followed(content[:length])


def test_damage_is_refused_or_read_but_nothing_else() -> None:
    generator, refused = np.random.default_rng(0), 0
    for protocol in (0, 2, 5):
        content = pickle.dumps({b"data": np.zeros((2, 12), np.uint8), "rate": np.float64(0.1), "l": [1, 2]}, protocol)
        for _ in range(500):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), 3):
                damaged[place] = generator.integers(0, 256)
            try:
                followed(bytes(damaged))
            except UserError:
                refused += 1
    assert refused > 300
