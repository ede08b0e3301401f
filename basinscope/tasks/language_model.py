"""Causal language models of transformers: from a folder as it saves them, or from a GGUF file, dequantised."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Without one of these transformers makes an empty tokenizer, and says nothing.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)


def load_language_model(path: Path, dtype: str = "float32") -> nn.Module:
    """A causal language model, from this machine's files alone.

    Args:
        path: folder with config.json and weights (safetensors or bin), or a GGUF file.
        dtype: ``float32``, ``float64``, ``bfloat16``, ``float16``, or ``auto`` for that of the file.

    Returns:
        The model, its cache of keys and values off.

    Raises:
        ValueError: in a sentence, if a package is missing, transformers cannot load it, parameters are missing or too
            many, or weights that the config ties differ.
    """
    if dtype not in (*DTYPES, "auto"):
        raise ValueError(f"task causal-lm: option dtype must be auto or one of {', '.join(DTYPES)}; got {dtype!r}")
    transformers = _transformers(path)
    source, extra = _source(path)
    if extra:
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    kind = DTYPES.get(dtype, dtype)
    with _quiet(), _in_a_sentence(path, "model"):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, dtype=kind, output_loading_info=True, **extra
        )
    for what, key in (("lacks", "missing_keys"), ("holds what is not in the model:", "unexpected_keys")):
        if names := sorted(found[key]):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{path} {what} {', '.join(names[:3])}{more}")
    _check_tied(path, model)
    # The outputs alone are wanted; keys and values kept for a next token would be dead weight in every graph.
    model.config.use_cache = False
    loaded: nn.Module = model
    return loaded


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder or a GGUF file.

    Args:
        path: the folder or file.

    Returns:
        A tokenizer of transformers.

    Raises:
        ValueError: in a sentence, if there is none or it cannot be read.
    """
    transformers = _transformers(path)
    source, extra = _source(path)
    if not extra and not any((path / name).is_file() for name in _TOKENIZERS):
        raise ValueError(
            f"{path} has no tokenizer (tokenizer.json or the like): give one as causal-lm:tokenizer=FOLDER,text=..."
        )
    with _quiet(), _in_a_sentence(path, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True, **extra)
    if not len(tokenizer):
        raise ValueError(f"the tokenizer in {path} knows no tokens")
    return tokenizer


def _transformers(path: Path) -> Any:
    needed = ["transformers", *(("gguf", "accelerate") if _is_gguf(path) else ())]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"task causal-lm needs {' and '.join(missing)} for {path}: install the extra, 'basinscope[language]'"
        )
    import transformers

    return transformers


def _is_gguf(path: Path) -> bool:
    return path.is_file()


def _source(path: Path) -> tuple[str, dict[str, Any]]:
    """What transformers is to read: an absolute path, which it never takes for a name on a hub."""
    whole = path.resolve()
    return (str(whole.parent), {"gguf_file": whole.name}) if _is_gguf(path) else (str(whole), {})


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on stderr while transformers reads."""
    from transformers.utils import logging

    switch: Any = logging  # not annotated
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    switch.set_verbosity_error()
    switch.disable_progress_bar()
    try:
        # The bar of dequantising heeds no switch.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            switch.enable_progress_bar()


@contextmanager
def _in_a_sentence(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # transformers raises of every kind on what it cannot read
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        if "ignore_mismatched_sizes" in reason:
            reason = "a parameter has another shape in the weights than in the config"
        raise ValueError(f"{path}: transformers cannot read the {what} ({type(error).__name__}: {reason})") from error


def _check_tied(path: Path, model: Any) -> None:
    """Refuses weights that the config ties and the file does not: transformers would untie them in silence."""
    given, taken = model.get_input_embeddings(), model.get_output_embeddings()
    if not getattr(model.config, "tie_word_embeddings", False) or given is None or taken is None:
        return
    if given.weight is not taken.weight:
        raise ValueError(
            f"{path} ties the output's weights to the embedding's in its config (tie_word_embeddings), but they differ "
            "in its weights: set it to false there, or save the model again"
        )
