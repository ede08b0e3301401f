"""Where results go: checked and held before anything is computed, so that no file of the user's is ever lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from basinscope.ranks import writes_files
from spectra.errors import UserError
from spectra.files import check_regular, open_regular, writing_rights

PLOT_FORMATS = (".png", ".pdf", ".svg")
PAGE_FORMATS = (".html", ".htm")
SETTINGS_FORMATS = (".toml",)
_FIGURES = (b"\x89PNG\r\n\x1a\n", b"%PDF-")
# Bytes at the beginning of a file, by which it is known, and of an old result that are searched for its name.
_HEAD, _MOST = 2**14, 2**26
_KINDS = (
    *("spectrum", "volume", "bridge", "sandwich", "audit", "comparison", "training"),
    *("connection", "slice", "calibration"),
)
Named = Iterable[tuple[str, Path | None]]


@contextmanager
def reserved(
    *,
    results: Mapping[str, Path | None],
    figures: Mapping[str, Path | None] | None = None,
    pages: Mapping[str, Path | None] | None = None,
    settings: Mapping[str, Path | None] | None = None,
    inputs: Named = (),
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[None]:
    """Check all files of a run, each by the option that names it, and hold those that it writes while it lasts.

    Raises:
        UserError: if a file is one of the inputs or named twice, is of another kind than what would replace it or no
            regular file, has an ending that says otherwise, or another run is writing it.
        FileExistsError: if a file exists and may not be replaced.
        FileNotFoundError: if a folder does not exist.
        PermissionError: if a folder cannot be written to.
    """
    if resume and not any(results.values()):
        raise UserError("--resume needs --output, the file to continue")
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    figures, pages, settings = figures or {}, pages or {}, settings or {}
    _check_endings(figures, PLOT_FORMATS, "a plot")
    _check_endings(pages, PAGE_FORMATS, "a report")
    _check_endings(settings, SETTINGS_FORMATS, "a file of settings")
    named = [*results.items(), *figures.items(), *pages.items(), *settings.items()]
    outputs = [(option, path) for option, path in named if path is not None]
    sources = [(option, path) for option, path in inputs if path is not None]
    for _, path in sources:
        if path.exists() and not path.is_dir():
            check_regular(path)
    _check_distinct(outputs, sources)
    for _, path in outputs:
        _check_place(path)
    with ExitStack() as rights:
        if writes_files():
            for _, path in outputs:
                _hold(rights, path)
        if not resume:
            _check_free(results, overwrite, "a result file of basinscope", _is_result, " or --resume to continue it")
        _check_free(figures, overwrite or resume, "a figure (PNG, PDF or SVG)", _is_figure)
        _check_free(pages, overwrite, "a report of basinscope", _is_page)
        _check_free(settings, overwrite or resume, "a file of settings by basinscope", _is_settings)
        yield


def to_continue(output: Path | None, *, resume: bool) -> Path | None:
    """The output, if it is to be continued and is there; else None."""
    return output if resume and output is not None and output.exists() else None


def _check_endings(files: Mapping[str, Path | None], endings: tuple[str, ...], what: str) -> None:
    for path in files.values():
        if path is not None and path.suffix.lower() not in endings:
            raise UserError(f"{what} must end in {', '.join(endings)}; got {path}")


def _check_distinct(outputs: list[tuple[str, Path]], inputs: list[tuple[str, Path]]) -> None:
    """Refuses a file that would be written twice, or that the run reads, by whatever name or link."""
    for number, (option, path) in enumerate(outputs):
        for other, known in outputs[:number]:
            if _same(path, known):
                raise UserError(f"{other} and {option} name the same file, {path}: give each a name of its own")
        for source, known in inputs:
            if _same(path, known) or (source == TASK and _lies_in(path, known)):
                raise UserError(
                    f"{option} {path} is the file of {source} too ({known}): choose another name for {option}"
                )


# How inputs that a task reads are named; a folder of images is one with all that lies in it.
TASK = "the task"


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _lies_in(path: Path, folder: Path) -> bool:
    # A folder with a config.json is a model's, and results may lie beside its weights.
    if not path.exists() or not folder.is_dir() or (folder / "config.json").exists():
        return False
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _check_place(path: Path) -> None:
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a regular file, so it cannot be written")
    folder = target.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: the folder {folder} is not writable")


def _hold(rights: ExitStack, path: Path) -> None:
    try:
        rights.enter_context(writing_rights(path))
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error


def _check_free(
    files: Mapping[str, Path | None], replace: bool, what: str, fits: Callable[[Path], bool], also: str = ""
) -> None:
    for option, path in files.items():
        if path is None or not path.exists():
            continue
        if not replace:
            raise FileExistsError(f"{path} exists: use --overwrite to replace it{also}")
        # An empty file has nothing to lose.
        if path.stat().st_size and not fits(path):
            raise UserError(f"{path} is not {what}, so it is not replaced: choose another {option}, or remove it first")


def _is_result(path: Path) -> bool:
    """Whether basinscope wrote a file, damaged or not: HDF5 is not trusted with files of unknown origin."""
    from spectra.files import SIGNATURE, TRAILER

    with open_regular(path) as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return False
        file.seek(max(0, path.stat().st_size - 2 * len(TRAILER)))
        if TRAILER in file.read():
            return True
        file.seek(0)
        content = file.read(_MOST)
        return any(f"basinscope {kind}".encode() in content for kind in _KINDS)


def _head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(_HEAD)


def _is_figure(path: Path) -> bool:
    head = _head(path)
    return head.startswith(_FIGURES) or (head.lstrip().startswith((b"<?xml", b"<svg")) and b"<svg" in head)


def _is_page(path: Path) -> bool:
    head = _head(path)
    return head.startswith(b"<!DOCTYPE html>") and b"basinscope" in head


def _is_settings(path: Path) -> bool:
    return _head(path).startswith(b"# Settings") and b"by basinscope" in _head(path)
