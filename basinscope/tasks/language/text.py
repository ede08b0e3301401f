"""Text as batches for a causal language model: tokens packed to a length, padding masked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.files import read_whole
from spectra.model import Batch

# Bytes; a model sees some thousand tokens of it.
_MOST = 2**30
# The fewest tokens of which one is predicted from another.
SHORTEST = 2
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Sequences:
    """Token sequences of one length.

    Attributes:
        tokens: (sequences, length) token numbers.
        real: (sequences, length) whether a token is the text's; the others are padding, at the end.
        left: how many further sequences the text has that were not asked for.
    """

    tokens: Tensor
    real: Tensor
    left: int

    @property
    def targets(self) -> Tensor:
        """(sequences, length) the token that follows each; ignored where none does, or where it is padding."""
        following = torch.full_like(self.tokens, cross_entropy.ignore_index)
        known = self.real[:, 1:]
        following[:, :-1] = torch.where(known, self.tokens[:, 1:], following[:, :-1])
        return following

    def batches(self, size: int) -> list[Batch]:
        """Batches of sequences for a model of transformers; a mask is given only where there is padding."""
        made, targets = [], self.targets
        for start in range(0, len(self.tokens), size):
            part = slice(start, start + size)
            inputs = {"input_ids": self.tokens[part]}
            # A whole mask says nothing, and attention without one is faster and has no branches on values.
            if not bool(self.real[part].all()):
                inputs["attention_mask"] = self.real[part].long()
            made.append(Batch(inputs, targets[part]))
        return made


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 that is not empty."""
    if not path.exists():
        raise FileNotFoundError(f"text {path} does not exist")
    if path.is_dir():
        raise UserError(f"text {path} is a folder: name a text file")
    try:
        text = read_whole(path, _MOST, "a text").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"text {path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None
    if not text.strip():
        raise UserError(f"text {path} is empty")
    return text


def packed(tokens: list[int], length: int, padding: int, sequences: int = 0) -> Sequences:
    """A stream of tokens cut into sequences of one length, at most ``sequences`` of them (0: all), the last one padded.

    Each token is kept once and in order. The first token of a sequence is predicted by nothing.

    >>> packed([5, 6, 7, 8, 9], 3, 0).tokens
    tensor([[5, 6, 7],
            [8, 9, 0]])
    """
    return joined([tokens], length, padding, sequences)


def joined(documents: list[list[int]], length: int, padding: int, sequences: int = 0) -> Sequences:
    """Documents, each cut into sequences of one length and its last one padded; see ``packed``.

    >>> joined([[5], [6, 7, 8]], 2, 0).real
    tensor([[ True, False],
            [ True,  True],
            [ True, False]])
    """
    pieces = [tokens[i : i + length] for tokens in documents for i in range(0, len(tokens), length)]
    taken = pieces[:sequences] if sequences else pieces
    rows = torch.full((len(taken), length), padding, dtype=torch.int64)
    real = torch.zeros(len(taken), length, dtype=torch.bool)
    for number, piece in enumerate(taken):
        rows[number, : len(piece)] = torch.tensor(piece, dtype=torch.int64)
        real[number, : len(piece)] = True
    return Sequences(rows, real, len(pieces) - len(taken))


def tokenised(path: Path, tokenizer: Any, length: int, *, pack: bool = True, sequences: int = 0) -> Sequences:
    """A text file as sequences of tokens.

    Args:
        path: the file.
        tokenizer: a tokenizer of transformers; it adds no special tokens.
        length: tokens a sequence.
        pack: cut the whole text as one stream; else each paragraph (blank lines between) is a document of its own.
        sequences: the most to take; 0 takes all.

    Returns:
        The sequences.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it has no text, or packed less than one sequence.
    """
    text = read_text(path)
    parts = [text] if pack else [part for part in _BLANK_LINES.split(text) if part.strip()]
    # Without verbose=False transformers warns of texts longer than the model takes; here they are cut.
    documents = [list(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]) for part in parts]
    found = sum(len(document) for document in documents)
    if pack and found < length:
        raise UserError(
            f"text {path} has {found} tokens, less than one sequence of {length}: give more text or a smaller length"
        )
    if all(len(document) < SHORTEST for document in documents):
        raise UserError(f"text {path} has no two tokens that follow one another")
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return joined(documents, length, int(padding), sequences)
