"""Causal language models: cross-entropy of the next token on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basinscope.choices import one_of
from basinscope.tasks import TaskRow, check_counts
from basinscope.tasks.language.model import load_language_model, load_tokenizer
from basinscope.tasks.language.text import SHORTEST, Sequences, tokenised
from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import STORAGES, cross_entropy
from spectra.errors import UserError
from spectra.files import counted
from spectra.landscape import Landscape


def causal_lm(
    checkpoint: Checkpoint,
    *,
    text: Path,
    length: int = 128,
    sequences: int = 20,
    pack: bool = True,
    batch: int = 1,
    model: Path | None = None,
    tokenizer: Path | None = None,
    dtype: str = "float32",
    anchors: str = "auto",
) -> Landscape:
    """The task ``causal-lm``: mean over tokens of the cross-entropy (or divergence from the anchor) of the next token.

    The mean is that of ``transformers``' own loss: each token but a sequence's first counts once, padding nothing.
    """
    one_of("task causal-lm: option anchors", anchors, STORAGES)
    check_counts("causal-lm", length=(length, SHORTEST), sequences=(sequences, 0), batch=(batch, 1))
    home = checkpoint.path if model is None else _folder(model)
    words = load_tokenizer(home if tokenizer is None else _folder(tokenizer))
    rows = tokenised(text, words, length, pack=pack, sequences=sequences)
    network = load_language_model(home, dtype)
    if model is not None:
        load_into(checkpoint, network)
    _check_fits(network, rows, home)
    return Landscape(
        network,
        cross_entropy,
        rows.batches(batch),
        anchor_storage=anchors,
        padding=_padding(network),
        notes=_notes(rows, text, sequences),
    )


def _padding(network: Any) -> str:
    """What training does with the row of the padding token: where it is a row of the head too, it moves."""
    head = network.get_output_embeddings()
    tied = head is not None and head.weight is network.get_input_embeddings().weight
    return "variable" if tied else "constant"


def _folder(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return path


def _check_fits(network: Any, rows: Sequences, home: Path) -> None:
    known, largest = network.get_input_embeddings().num_embeddings, int(rows.tokens.max())
    if largest >= known:
        raise UserError(
            f"the tokenizer does not fit the model: it gives the token {largest}, and {home} knows {known} tokens"
        )
    longest = getattr(network.config, "max_position_embeddings", None)
    if longest is not None and rows.tokens.shape[1] > longest:
        raise UserError(
            f"task causal-lm: option length must be at most {longest}, what {home} takes; got {rows.tokens.shape[1]}"
        )


def _notes(rows: Sequences, text: Path, sequences: int) -> tuple[str, ...]:
    count, length = rows.tokens.shape
    whole = f"{counted(count, 'sequence')} of {counted(length, 'token')} from {text.name}"
    return (f"{whole}; {rows.left} more are left out by sequences={sequences}" if rows.left else whole,)


ROWS = (TaskRow("causal-lm", causal_lm, architectures=("ForCausalLM", "LMHeadModel"), formats=("gguf",)),)
