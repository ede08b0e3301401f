"""Small language models for the tests: a tokenizer of bytes, GPT-NeoX and Llama of a few parameters, in folders."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

TEXT = "The quick brown fox jumps over the lazy dog.\n\nIt was not amused.\n\nNor was I, nor anybody else at all.\n"
BYTES = 256


def save_tokenizer(folder: Path) -> None:
    """One token a byte: the text's own bytes are what it must give."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def neox(**changes: Any) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GPTNeoXConfig(**({"vocab_size": BYTES, "max_position_embeddings": 64, **sizes} | changes))
    model = GPTNeoXForCausalLM(config)
    # As made the outputs are nearly constant: a model that says something has larger weights.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10.0)
    return model


def llama(**changes: Any) -> nn.Module:
    """Grouped queries and tied weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = {"num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**({"vocab_size": BYTES, **sizes, **options} | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10.0)
    return model


def saved(folder: Path, model: nn.Module) -> Path:
    """A folder as transformers saves it, with a tokenizer and a text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)  # type: ignore[operator]
    save_tokenizer(folder)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder
