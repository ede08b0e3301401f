"""Attention heads as positions in theta: rows of the queries, keys and values, columns of what mixes the heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectra.errors import UserError
from spectra.landscape import Landscape


def head_positions(landscape: Landscape) -> dict[str, Tensor]:
    """Positions in theta of each attention head's own parameters, by layer and number.

    Known are ``nn.MultiheadAttention`` and, of transformers, the attention of GPT-2, GPT-NeoX (Pythia) and of models
    with ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj`` (Llama, Qwen, SmolLM). Queries that share keys and values are
    one head each, without what they share. The bias after the heads are mixed belongs to none.

    Args:
        landscape: the cost; heads none of whose parameters are variables are left out.

    Returns:
        Positions by name, such as ``attention.head3``.

    Raises:
        UserError: if no attention of a known kind was found.
    """
    starts, place = {}, 0
    for name, size in zip(landscape.parameters.names, landscape.parameters.sizes, strict=True):
        starts[name] = place
        place += size
    found = {}
    for layer, module in landscape.evaluation.model.named_modules():
        for number, parts in enumerate(_heads(module)):
            rows = [
                starts[path] + index
                for name, index in parts
                if (path := f"{layer}.{name}" if layer else name) in starts
            ]
            if rows:
                found[f"{layer}.head{number}".lstrip(".")] = torch.cat(rows)
    if not found:
        raise UserError("no attention heads of a known kind were found; choose by=layer")
    return found


def _heads(module: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Of each head the names of its parameters, and the positions in each."""
    config: Any = getattr(module, "config", None)
    if isinstance(module, nn.MultiheadAttention):
        width = module.head_dim
        for head in range(module.num_heads):
            three = torch.cat([torch.arange(width) + part * module.embed_dim + head * width for part in range(3)])
            yield _rows(module, ("in_proj_weight", "in_proj_bias"), three) + _columns(
                module, "out_proj.weight", head, width
            )
    elif hasattr(module, "q_proj") and hasattr(module, "o_proj") and config is not None:
        width = int(cast("int", module.head_dim))
        count, groups = int(config.num_attention_heads), int(config.num_key_value_heads)
        shared = () if groups < count else ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")
        for head in range(count):
            rows = torch.arange(width) + head * width
            yield _rows(module, ("q_proj.weight", "q_proj.bias", *shared), rows) + _columns(
                module, "o_proj.weight", head, width
            )
    elif hasattr(module, "query_key_value") and hasattr(module, "dense") and config is not None:
        # Queries, keys and values of one head lie beside one another.
        count = int(config.num_attention_heads)
        width = int(config.hidden_size) // count
        for head in range(count):
            rows = torch.arange(3 * width) + head * 3 * width
            yield _rows(module, ("query_key_value.weight", "query_key_value.bias"), rows) + _columns(
                module, "dense.weight", head, width
            )
    elif hasattr(module, "c_attn") and hasattr(module, "c_proj") and hasattr(module, "num_heads"):
        yield from _transposed(module)


def _transposed(module: Any) -> Iterator[list[tuple[str, Tensor]]]:
    """GPT-2's, whose matrices are (inputs, outputs)."""
    width, size = int(module.head_dim), int(module.embed_dim)
    for head in range(int(module.num_heads)):
        rows = torch.cat([torch.arange(width) + part * size + head * width for part in range(3)])
        columns = torch.arange(module.c_attn.weight.numel()).view(module.c_attn.weight.shape)[:, rows].reshape(-1)
        mixed = torch.arange(module.c_proj.weight.numel()).view(module.c_proj.weight.shape)
        own = mixed[head * width : (head + 1) * width].reshape(-1)
        yield [("c_attn.weight", columns), ("c_attn.bias", rows), ("c_proj.weight", own)]


def _rows(module: nn.Module, names: tuple[str, ...], rows: Tensor) -> list[tuple[str, Tensor]]:
    known = dict(module.named_parameters())
    return [
        (name, torch.arange(known[name].numel()).view(len(known[name]), -1)[rows].reshape(-1))
        for name in names
        if name in known
    ]


def _columns(module: nn.Module, name: str, head: int, width: int) -> list[tuple[str, Tensor]]:
    shape = module.get_parameter(name).shape
    return [(name, torch.arange(shape.numel()).view(shape)[:, head * width : (head + 1) * width].reshape(-1))]
