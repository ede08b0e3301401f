"""Folders of DeepSpeed's ZeRO: weights in float32, put together from the optimizers' parts as zero_to_fp32.py does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.checkpoint.inert import read_torch
from spectra.errors import UserError
from spectra.files import about, open_regular, read_whole

LATEST = "latest"
_MODEL = re.compile(r"(zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<slice>\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r"(bf16_)?zero_pp_rank_(?P<rank>\d+)_mp_rank_(?P<slice>\d+)_optim_states\.pt")
# Flat float32 numbers of one rank: a tensor a group of parameters in stages 1 and 2, or all parameters' shards in 3.
_GROUPS, _SHARDS = "single_partition_of_fp32_groups", "fp32_flat_groups"
_WAY_OUT = "make weights of it with DeepSpeed's own zero_to_fp32.py, and name the file that it writes"


def is_deepspeed_folder(folder: Path) -> bool:
    """Whether DeepSpeed saved a folder, or one within it that the file ``latest`` names."""
    return bool(_named(_tagged(folder), _OPTIMIZER))


def deepspeed_parts(folder: Path) -> list[Path]:
    """The files that the weights are in, the model's before the optimizers', each by rank."""
    inner = _tagged(folder)
    return [*_named(inner, _MODEL), *_named(inner, _OPTIMIZER)]


def _tagged(folder: Path) -> Path:
    latest = folder / LATEST
    if not latest.is_file():
        return folder
    name = read_whole(latest, 4096, "the name of a folder").decode("utf-8", "replace").strip()
    # A folder of unknown origin must not point anywhere else.
    return folder / name if name and Path(name).name == name and name.strip(".") else folder


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    found = {path: match for path in folder.glob("*.pt") if (match := pattern.fullmatch(path.name))}
    return sorted(found, key=lambda path: (int(found[path]["slice"]), int(found[path]["rank"] or 0)))


def read_deepspeed(folder: Path) -> tuple[dict[str, Any], str]:
    """The state dict under ``module``, in float32, with the plain values beside it; and how far damage was looked for.

    Parameters come from the optimizers' parts, which keep them in float32 where the model's own copy may be in half
    precision; buffers and frozen parameters come from the model's file.

    Raises:
        UserError: if parts are missing, damaged, of several slices of a model (tensor parallelism), or of a stage or
            version that is not known.
    """
    models, optimizers = _named(_tagged(folder), _MODEL), _named(_tagged(folder), _OPTIMIZER)
    if not models or any(not name.endswith("mp_rank_00_model_states.pt") for name in (one.name for one in models)):
        raise UserError(f"{folder} lacks DeepSpeed's model states, or has them in several slices: {_WAY_OUT}")
    whole, integrity = _read(models[0])
    with about(folder):
        try:
            return _consolidated(whole, [_read(path)[0]["optimizer_state_dict"] for path in optimizers]), integrity
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"is of a version of DeepSpeed that is not known ({error}): {_WAY_OUT}") from error


def _read(path: Path) -> tuple[Any, str]:
    with open_regular(path) as file, about(path):
        return read_torch(file)


def _consolidated(whole: Mapping[str, Any], ranks: list[Mapping[str, Any]]) -> dict[str, Any]:
    if whole.get("frozen_param_shapes") or any("autoep" in str(name).lower() for name in whole):
        raise UserError(f"has frozen parameters or experts, which are kept elsewhere: {_WAY_OUT}")
    stated = ranks[0].get("partition_count", len(ranks))
    world = max(stated) if isinstance(stated, list | tuple) else stated
    if world != len(ranks):
        raise UserError(f"has parts of {len(ranks)} of {world} ranks: copy the others into it")
    shapes = whole["param_shapes"]
    if all(_GROUPS in rank for rank in ranks):
        paddings = ranks[0].get("param_alignment_paddings")
        weights = _of_groups(shapes, [list(rank[_GROUPS]) for rank in ranks], paddings)
    elif all(_SHARDS in rank for rank in ranks):
        weights = _of_shards(shapes, [torch.cat([one.reshape(-1) for one in _listed(rank[_SHARDS])]) for rank in ranks])
    else:
        raise UserError(f"has parts of a stage of ZeRO that is not known: {_WAY_OUT}")
    module = whole["module"]
    found = {name: module[name].float() for name in whole.get("buffer_names") or () if name in module} | weights
    shared = whole.get("shared_params") or {}
    for name, source in shared.items() if isinstance(shared, Mapping) else shared:
        if source in found:
            found[name] = found[source]
    beside = {name: value for name, value in whole.items() if name not in ("module", "param_shapes", "optimizer")}
    return {**beside, "module": found}


def _listed(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _of_groups(shapes: Any, ranks: list[list[Tensor]], paddings: Any) -> dict[str, Tensor]:
    """Stages 1 and 2: each group's parameters lie one after the other in the ranks' parts, padded at the end.

    Some versions pad after each parameter too, and say by how much.

    Raises:
        UserError: if the parts are shorter or longer than the parameters.
    """
    found = {}
    for group, named in enumerate(shapes):
        flat, start = torch.cat([parts[group].reshape(-1) for parts in ranks]).float(), 0
        gaps = [0] * len(named) if paddings is None else paddings[group]
        for (name, shape), gap in zip(named.items(), gaps, strict=True):
            size = math.prod(shape)
            found[name] = _piece(flat, name, start, size).view(tuple(shape))
            start += size + gap
        # DeepSpeed pads each group to a multiple of twice the number of ranks.
        if math.ceil(start / (2 * len(ranks))) != math.ceil(len(flat) / (2 * len(ranks))):
            raise UserError(f"has {len(flat) - start:,} numbers more than its parameters: {_WAY_OUT}")
    return found


def _of_shards(shapes: Any, ranks: list[Tensor]) -> dict[str, Tensor]:
    """Stage 3: every parameter is cut into as many parts as there are ranks, the last one padded."""
    found, start = {}, 0
    for name, shape in ((name, shape) for named in shapes for name, shape in named.items()):
        size = math.prod(shape)
        part = math.ceil(size / len(ranks))
        pieces = torch.cat([_piece(flat, name, start, part) for flat in ranks]).float()
        found[name] = pieces[:size].view(tuple(shape))
        start += part
    if any(len(flat) != start for flat in ranks):
        raise UserError(f"has parts that are not as long as its parameters: {_WAY_OUT}")
    return found


def _piece(flat: Tensor, name: str, start: int, size: int) -> Tensor:
    if start + size > len(flat):
        raise UserError(f"is truncated: its parts end before {name[:80]} does")
    return flat[start : start + size]
