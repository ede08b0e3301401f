"""The call of Python for ``basinscope llc``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basinscope.calibration.run import LlcRequest, reserved_for_llc, run_llc
from basinscope.given import Source, path_of, shown, source_of, threads_kept, with_changes
from basinscope.runs import Machine, Report
from basinscope.tasks.own import chosen_task
from comparisons.calibration import Calibration, SweepSettings, write_settings
from spectra.checkpoint import ReadingOptions


def llc(
    source: Source,
    settings: SweepSettings | None = None,
    *,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    settings_output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> Calibration:
    """The local learning coefficient over a grid of settings, and its plateau, as ``basinscope llc`` calibrates it.

    Args:
        source: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own.
        settings: the grid, calls, chains, steps and the rest of what decides the numbers.
        task: name of the task that makes a landscape of the checkpoint; None for the checkpoint's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        machine: dtype, device, memory and threads.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps the spectrum, finished cells, and chains that are underway; None keeps nothing.
        settings_output: TOML file for the settings that are chosen, which ``basinscope compare --settings`` reads.
        overwrite: whether existing files may be replaced.
        resume: whether to go on with the output if it exists.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``steps=500``.

    Returns:
        The calibration: ``verdict.cell.estimate`` is the coefficient, if there is a plateau.

    Raises:
        UserError: if what was asked for is not possible, in a sentence; if settings are to be written and there is no
            plateau.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    request = LlcRequest(
        checkpoint=source_of(source),
        settings=with_changes(settings or SweepSettings(), changes),
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        output=path_of(output),
        settings_output=path_of(settings_output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.llc from Python",
    )
    with threads_kept(), reserved_for_llc(request), shown(progress) as report:
        found = run_llc(request, report)
        if request.settings_output is not None:
            write_settings(request.settings_output, found)
        return found
