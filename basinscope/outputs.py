"""Where results go, checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from spectra.errors import UserError

PLOT_FORMATS = (".png", ".pdf", ".svg")


def check_output(path: Path | None, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse an output that could not be written, or would replace something unasked.

    Args:
        path: the file to be written, or None.
        overwrite: whether an existing file may be replaced.
        resume: whether an existing file is to be continued.

    Raises:
        FileExistsError: if there is such a file and neither was asked for.
        FileNotFoundError: if its folder does not exist.
        PermissionError: if its folder cannot be written to.
        UserError: if what is there is not a regular file.
    """
    if path is None:
        return
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a regular file, so it cannot be written")
    if target.exists() and not (overwrite or resume):
        raise FileExistsError(f"{path} exists: use --overwrite to replace it or --resume to continue it")
    folder = target.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: the folder {folder} is not writable")


def to_continue(output: Path | None, plot: Path | None, *, overwrite: bool, resume: bool) -> Path | None:
    """The file that a run goes on from, after all checks of its files that need no computing.

    Args:
        output: the file of the store, or None.
        plot: the file of the figure, or None.
        overwrite: whether existing files may be replaced.
        resume: whether to continue the output if it exists.

    Returns:
        The output, if it is to be continued and is there.

    Raises:
        UserError: if the options contradict one another, or a path is none that can be written.
        OSError: as of ``check_output`` and ``check_plot``.
    """
    if resume and output is None:
        raise UserError("--resume needs --output, the file to continue")
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    check_output(output, overwrite=overwrite, resume=resume)
    check_plot(plot, overwrite=overwrite or resume)
    return output if resume and output is not None and output.exists() else None


def check_plot(path: Path | None, *, overwrite: bool) -> None:
    """Refuse a figure file that could not be written, likewise.

    Args:
        path: the file to be written, or None.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: if its ending names no format that figures are written in.
        FileExistsError: if there is such a file and it may not be replaced.
    """
    if path is None:
        return
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UserError(f"a plot must end in {', '.join(PLOT_FORMATS)}; got {path}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: use --overwrite to replace it")
    check_output(path, overwrite=overwrite)


def check_report(path: Path | None, *, overwrite: bool) -> None:
    """Refuse a page that could not be written, likewise.

    Args:
        path: the file to be written, or None.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: if it does not end in .html.
        FileExistsError: if there is such a file and it may not be replaced.
    """
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"a report must end in .html; got {path}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: use --overwrite to replace it")
    check_output(path, overwrite=overwrite)
