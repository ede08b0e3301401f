from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from basinscope.tasks.language import tokenised
from basinscope.tasks.language.text import Sequences, joined, packed, read_text
from spectra.costs import cross_entropy

IGNORED = cross_entropy.ignore_index


@pytest.mark.parametrize("length", [2, 3, 5, 7, 100])
@pytest.mark.parametrize("count", [2, 21, 100])
def test_packing_keeps_every_token_once_and_in_order(count: int, length: int) -> None:
    stream = [7 * number % 101 for number in range(count)]
    found = packed(stream, length, padding=999)
    assert found.tokens[found.real].tolist() == stream
    assert (found.tokens[~found.real] == 999).all()
    assert found.tokens.shape == (-(-count // length), length)


@pytest.mark.parametrize("length", [2, 3, 10])
def test_targets_are_the_next_token_of_the_same_sequence(length: int) -> None:
    stream = list(range(100, 123))
    found = packed(stream, length, padding=0)
    for row in range(len(found.tokens)):
        for place in range(length):
            position = row * length + place
            inside = place + 1 < length and position + 1 < len(stream)
            assert int(found.targets[row, place]) == (stream[position + 1] if inside else IGNORED)


def test_documents_are_not_mixed() -> None:
    found = joined([[1, 2, 3], [4], [5, 6]], 2, padding=0)
    assert found.tokens.tolist() == [[1, 2], [3, 0], [4, 0], [5, 6]]
    assert found.targets.tolist() == [[2, IGNORED], [IGNORED, IGNORED], [IGNORED, IGNORED], [6, IGNORED]]


def test_further_sequences_are_counted_and_not_taken() -> None:
    found = packed(list(range(10)), 3, padding=0, sequences=2)
    assert found.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.left == 2


def test_a_mask_is_given_only_where_there_is_padding() -> None:
    batches = packed(list(range(1, 8)), 3, padding=0).batches(2)
    assert [list(batch.inputs) for batch in batches] == [["input_ids"], ["input_ids", "attention_mask"]]
    assert batches[1].inputs["attention_mask"].tolist() == [[1, 0, 0]]
    assert sum(batch.rows for batch in batches) == 3


@pytest.fixture
def tokenizer(tmp_path: Path, small: ModuleType) -> Any:
    from transformers import AutoTokenizer

    small.save_tokenizer(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.fixture
def text(tmp_path: Path, small: ModuleType) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(small.TEXT, encoding="utf-8")
    return path


def spelled(tokenizer: Any, found: Sequences) -> list[str]:
    return [tokenizer.decode(row[real]) for row, real in zip(found.tokens, found.real, strict=True)]


def test_a_packed_text_is_the_text(tokenizer: Any, text: Path) -> None:
    found = tokenised(text, tokenizer, 16)
    assert "".join(spelled(tokenizer, found)) == text.read_text()
    assert int(found.real.sum()) == len(text.read_bytes())


def test_paragraphs_by_themselves(tokenizer: Any, text: Path) -> None:
    found = tokenised(text, tokenizer, 60, pack=False)
    assert spelled(tokenizer, found) == text.read_text().split("\n\n")


def test_text_that_cannot_be_used(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.txt does not exist"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="is a folder: name a text file"):
        read_text(tmp_path)
    path = tmp_path / "some.txt"
    path.write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"some.txt is empty"):
        read_text(path)
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(ValueError, match=r"some.txt is not UTF-8: byte 3 is 0xe9"):
        read_text(path)
    path.write_text("short", encoding="utf-8")
    with pytest.raises(ValueError, match="has 5 tokens, less than one sequence of 8: give more text or a smaller"):
        tokenised(path, tokenizer, 8)
    path.write_text("a\n\nb", encoding="utf-8")
    with pytest.raises(ValueError, match="has no two tokens that follow one another"):
        tokenised(path, tokenizer, 8, pack=False)


def test_long_texts_give_no_warning(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.model_max_length = 4
    path = tmp_path / "long.txt"
    path.write_text("x" * 50, encoding="utf-8")
    assert torch.equal(tokenised(path, tokenizer, 10).real, torch.ones(5, 10, dtype=torch.bool))
