"""Pickled code, run where the user trusts its author: the one place where that happens, and what runs is said first."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from spectra.checkpoint.inert import read_torch
from spectra.errors import UserError, foreign

# Storages of torch, which stand for kinds of numbers, not for code.
_STORAGES = re.compile(r"torch\.(storage\.)?\w*Storage")
_MOST_MODULES = 12


def run_pickle(path: Path, file: BufferedReader) -> tuple[Any, str]:
    """The content of a torch file, its pickled code run, and in words how far damage would have been noticed.

    What is going to run is said on stderr, module by module, before it runs.

    Raises:
        UserError: if the file is damaged, or a class was defined in the script that saved it, so that it is nowhere to
            be imported from.
        ForeignError: if the code fails.
    """
    names: set[str] = set()
    file.seek(0)
    _, integrity = read_torch(file, named=names)
    modules: dict[str, list[str]] = {}
    for name in sorted(name for name in names if not _is_kind(name)):
        module, _, last = name.rpartition(".")
        modules.setdefault(module, []).append(last)
    if "__main__" in modules:
        raise UserError(
            f"contains pickled code ({modules['__main__'][0][:80]}) that was defined in the script that saved it: "
            "load it in that script and save its state_dict"
        )
    # The user's own modules first.
    order = sorted(
        modules, key=lambda module: (module.partition(".")[0] in ("torch", "builtins", "collections"), module)
    )
    said = "; ".join(f"{module} ({', '.join(modules[module])})" for module in order[:_MOST_MODULES])
    more = f"; and of {len(order) - _MOST_MODULES} more modules" if len(order) > _MOST_MODULES else ""
    printable = "".join(letter if letter.isprintable() else "?" for letter in said)
    print(f"--trust-pickle: running the pickled code of {path}, from {printable}{more}", file=sys.stderr, flush=True)
    with _own_modules(), foreign("has pickled code that"):
        # The same open file, for another may lie at its path by now.
        file.seek(0)
        found = torch.load(file, map_location="cpu", weights_only=False)
    return found, f"{integrity}; pickled code was run"


def _is_kind(name: str) -> bool:
    """Whether a name stands for a kind of numbers."""
    module, _, last = name.rpartition(".")
    return bool(_STORAGES.fullmatch(name)) or (
        module == "torch" and isinstance(getattr(torch, last, None), torch.dtype)
    )


@contextmanager
def _own_modules() -> Iterator[None]:
    """Modules of the folder that the user is in can be imported, as under ``python -m``."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
