"""Where a checkpoint lies: a path, or the name of a model in this machine's cache of Hugging Face."""

from __future__ import annotations

import os
import re
from pathlib import Path

# As the hub has them: an owner, a model, and after an @ a revision.
_NAME = re.compile(r"(?P<owner>[\w-][\w.-]*)/(?P<model>[\w-][\w.-]*?)(@(?P<revision>[\w.-]+))?")


def located(path: Path) -> Path:
    """The path itself if there is something; else the folder in the cache that a name ``owner/model[@revision]`` means.

    Nothing is fetched: the cache is that of ``HF_HUB_CACHE``, ``HF_HOME`` or the home folder, as the hub's own tools
    find it.

    Args:
        path: what was given.

    Returns:
        Path of a file or folder.

    Raises:
        FileNotFoundError: if there is neither.

    >>> located(Path("/"))
    PosixPath('/')
    """
    found = cached(path)
    if found is None and not (path.exists() or path.is_symlink()):
        named = _name(path)
        raise FileNotFoundError(
            f"{path} does not exist"
            if named is None
            else f"{path} does not exist, nor has the Hugging Face cache {_cache()} a model of this name: "
            f"fetch it first, with hf download {named['owner']}/{named['model']}"
        )
    return found or path


def cached(path: Path) -> Path | None:
    """The folder in the cache that a name means; None where there is a file or folder at the path, or no such folder.

    Args:
        path: what was given.

    Returns:
        Path of the folder of a model's revision.

    >>> cached(Path("nobody/has-this")) is None
    True
    """
    named = _name(path)
    if named is None or path.exists():
        return None
    home = _cache() / f"models--{named['owner']}--{named['model']}"
    revision = named["revision"] or "main"
    reference = home / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    # A damaged reference must not point anywhere else.
    found = home / "snapshots" / commit
    return found if re.fullmatch(r"[\w.-]+", commit) and commit.strip(".") and found.is_dir() else None


def _name(path: Path) -> re.Match[str] | None:
    known_ending = path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".gguf")
    return None if known_ending else _NAME.fullmatch(path.as_posix())


def _cache() -> Path:
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(given or Path(home) / "hub").expanduser()
