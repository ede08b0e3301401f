"""Causal language models of transformers: from a folder as it saves them, or from a GGUF file, dequantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.tasks import (
    check_folder,
    examined,
    import_transformers,
    in_a_sentence,
    load_pretrained,
    quiet,
)
from spectra.errors import UserError

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
    """A causal language model from this machine's files alone, its cache off; ``auto`` is the dtype of the file."""
    if dtype not in (*DTYPES, "auto"):
        raise UserError(f"task causal-lm: option dtype must be auto or one of {', '.join(DTYPES)}; got {dtype!r}")
    transformers = _transformers(path)
    source, extra = _source(path)
    if extra:
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    kind = DTYPES.get(dtype, dtype)
    model = load_pretrained(transformers, "AutoModelForCausalLM", path, source, dtype=kind, **extra)
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
        UserError: in a sentence, if there is none or it cannot be read.
    """
    transformers = _transformers(path)
    source, extra = _source(path)
    if not extra and not any((path / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"{path} has no tokenizer (tokenizer.json or the like): give one as causal-lm:tokenizer=FOLDER,text=..."
        )
    if extra:
        examined(path)
    else:
        check_folder(path)
    with quiet(), in_a_sentence(path, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=False, **extra
        )
    if not len(tokenizer):
        raise UserError(f"the tokenizer in {path} knows no tokens")
    return tokenizer


def _transformers(path: Path) -> Any:
    return import_transformers("causal-lm", path, "language", ("gguf", "accelerate") if _is_gguf(path) else ())


def _is_gguf(path: Path) -> bool:
    return path.is_file()


def _source(path: Path) -> tuple[str, dict[str, Any]]:
    """What transformers is to read: an absolute path, which it never takes for a name on a hub."""
    whole = path.resolve()
    return (str(whole.parent), {"gguf_file": whole.name}) if _is_gguf(path) else (str(whole), {})


def _check_tied(path: Path, model: Any) -> None:
    """Refuses weights that the config ties and the file does not: transformers would untie them in silence."""
    given, taken = model.get_input_embeddings(), model.get_output_embeddings()
    if not getattr(model.config, "tie_word_embeddings", False) or given is None or taken is None:
        return
    if given.weight is not taken.weight:
        raise UserError(
            f"{path} ties the output's weights to the embedding's in its config (tie_word_embeddings), but they differ "
            "in its weights: set it to false there, or save the model again"
        )
