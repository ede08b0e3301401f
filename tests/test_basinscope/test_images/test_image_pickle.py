import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from basinscope.tasks.image_pickle import read_pickled

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "batch"
    path.write_bytes(content)
    return path


@each_protocol
@pytest.mark.parametrize(
    "value",
    [
        {b"a": [1, -2, 300, 2**40, -(2**70)], "b": (1.5, None, True, False, ()), "c": {}, "ü": b"\x00\xff", "e": ""},
        [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), list(range(3000))],
        {"same": [[0]] * 3},
    ],
)
def test_plain_values_are_those_of_pickle(tmp_path: Path, value: Any, protocol: int) -> None:
    assert read_pickled(written(tmp_path, pickle.dumps(value, protocol))) == value


@each_protocol
@pytest.mark.parametrize("kind", ["u1", "<i8", ">f4", "<f2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_of_pickle(tmp_path: Path, kind: str, order: Any, protocol: int) -> None:
    array = np.asarray(np.arange(24).reshape(4, 6) % 7, dtype=kind, order=order)
    content = pickle.dumps({"one": array, "same": array, "part": array[:, ::2]}, protocol)
    found, known = read_pickled(written(tmp_path, content)), pickle.loads(content)
    for name, expected in known.items():
        assert found[name].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], expected)


def test_an_empty_array_of_empty_bytes(tmp_path: Path) -> None:
    found = read_pickled(written(tmp_path, pickle.dumps(np.empty((0, 3072), np.uint8), 5)))
    assert found.shape == (0, 3072)


def test_what_python_2_wrote_is_what_pickle_reads_as_bytes(tmp_path: Path, small: ModuleType) -> None:
    content = small.python_2_batch(small.pixels(5), [3, 0, 9, 3, 1])
    known = pickle.loads(content, encoding="bytes")
    found = read_pickled(written(tmp_path, content))
    assert sorted(found) == sorted(known) == [b"batch_label", b"data", b"filenames", b"labels"]
    np.testing.assert_array_equal(found.pop(b"data"), known.pop(b"data"))
    assert found == known


class Malicious:
    def __init__(self, function: Any, *values: Any) -> None:
        self.call = (function, values)

    def __reduce__(self) -> Any:
        return self.call


@each_protocol
@pytest.mark.parametrize("function", [os.system, os.remove, eval, print, np.load, np.frombuffer, getattr])
def test_code_is_named_and_not_run(tmp_path: Path, function: Any, protocol: int) -> None:
    victim = tmp_path / "victim"
    victim.write_text("still here")
    content = pickle.dumps({"labels": [1], "data": Malicious(function, str(victim))}, protocol)
    with pytest.raises(ValueError, match=r"batch contains pickled code \(\w+(\.\w+)*\); basinscope never runs it"):
        read_pickled(written(tmp_path, content))
    assert victim.read_text() == "still here"


@pytest.mark.parametrize(
    "content, words",
    [
        (b"(S'echo'\nios\nsystem\n.", "uses the operation INST"),
        (b"(cos\nsystem\nS'echo'\no.", r"contains pickled code \(os.system\)"),
        (b"cos\nsystem\n(S'echo'\ntR.", r"contains pickled code \(os.system\)"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"contains pickled code \(os.system\)"),
        # Names that numpy writes, used for what they are not.
        (b"cnumpy\nndarray\n(I1\nt\x81.", "uses the operation NEWOBJ"),
        (b"cnumpy\nndarray\n(I1\ntR.", "calls what is none of numpy's functions for an array"),
        (b"cnumpy\nndarray\n}S'x'\nI1\nsb.", "where its pickle needs a tuple"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "holds an array of the kind 'O'"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "holds an array of the kind 'V8', not of numbers"),
        (b"cnumpy\ndtype\n(S'i4,f8'\ntR.", "not of numbers"),
        (b"c_codecs\nencode\n(Vsome\nVrot13\ntR.", "calls what is none of numpy's functions"),
        (b"Pplace\n.", "uses the operation PERSID"),
        (b"\x80\x02\x82\x01.", "uses the operation EXT1"),
        (b"I1\nI2\n.", "its pickle cannot be followed"),
        (b"t.", "its pickle cannot be followed"),
        (b"g5\n.", "its pickle cannot be followed"),
        (b"}I1\na.", "uses a dict where its pickle needs a list"),
        (b"}(I1\nu.", "its pickle cannot be followed"),
        (b"}]I1\ns.", "its pickle cannot be followed"),
        (b"\xff\xd8\xff\xe0", "its pickle cannot be followed"),
        (b"", "its pickle cannot be followed"),
        # A length far beyond the file.
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00ab.", "its pickle cannot be followed"),
    ],
)
def test_refusals_are_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_pickled(written(tmp_path, content))


def test_a_place_of_the_memo_far_away_takes_no_memory(tmp_path: Path) -> None:
    """pickle itself makes its table as long as the largest place."""
    assert read_pickled(written(tmp_path, b"\x80\x02]r\xff\xff\xff\xff.")) == []


def test_every_truncation_is_refused(tmp_path: Path, small: ModuleType) -> None:
    images = small.pixels(2, edge=1)
    for content in (small.python_2_batch(images, [1, 2]), small.python_batch(images, [1, 2], 4)):
        for length in range(len(content)):
            with pytest.raises(ValueError, match="batch"):
                read_pickled(written(tmp_path, content[:length]))


def test_damage_is_refused_or_read_but_nothing_else(tmp_path: Path, small: ModuleType) -> None:
    images, generator = small.pixels(2, edge=2), np.random.default_rng(0)
    refused = 0
    for content in (small.python_2_batch(images, [1, 2]), small.python_batch(images, [1, 2], 5)):
        for _ in range(500):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), 3):
                damaged[place] = generator.integers(0, 256)
            try:
                read_pickled(written(tmp_path, bytes(damaged)))
            except ValueError:
                refused += 1
    assert refused > 300
