"""The calls that lead from one checkpoint to others: ``connect`` and ``slice``, as the commands of these names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.given import Source, path_of, shown, source_of, threads_kept, with_changes
from basinscope.runs import Machine, Report, reserved_for
from basinscope.runs.connections import ConnectRequest, SliceRequest, run_connect, run_slice
from basinscope.tasks.own import chosen_task
from comparisons.connections import PathSettings, SliceSettings
from spectra.checkpoint import ReadingOptions
from spectra.landscape import Landscape

if TYPE_CHECKING:
    from comparisons.connections import Connection, CostSlice


def connect(
    first: Source,
    second: Source,
    settings: PathSettings | None = None,
    *,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> Connection:
    """The barrier on the way from one checkpoint to another, as ``basinscope connect`` finds it.

    Args:
        first: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own.
        second: another checkpoint of the same model; a landscape where the first is one.
        settings: points, tolerance, and how hidden units are matched.
        task: name of the task that makes a landscape of the checkpoints; None for the first's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        machine: dtype, device and threads.
        reading: which weights of the files, under which names, and whether their pickled code may run.
        output: HDF5 file that keeps each round of points; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with the output if it exists.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``matching="activations"``.

    Returns:
        The connection: its ``path("straight").barrier`` has height, error and place.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    other = source_of(second)
    request = ConnectRequest(
        checkpoint=source_of(first),
        other=other,
        settings=with_changes(settings or PathSettings(), changes),
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.connect from Python",
    )
    read = [] if isinstance(other, Landscape) else [("second", other)]
    with threads_kept(), reserved_for(request, inputs=read), shown(progress) as report:
        return run_connect(request, report)


def slice(
    source: Source,
    *others: Source,
    settings: SliceSettings | None = None,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    cost: str | None = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> CostSlice:
    """The cost on a plane through one checkpoint or three beside its quadratic model, as ``basinscope slice`` draws it.

    Args:
        source: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own: the origin.
        *others: none, for a plane of eigenvectors; or two further ones of the same kind, for the plane through them.
        settings: axes, points and reach.
        task: name of the task that makes a landscape of the checkpoints; None for the first's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        cost: name of a cost in place of the task's.
        machine: dtype, device, memory and threads.
        reading: which weights of the files, under which names, and whether their pickled code may run.
        output: HDF5 file that keeps each row of points; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with the output if it exists.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``axes=(1, -1)``.

    Returns:
        The slice.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    sources = [source_of(one) for one in others]
    request = SliceRequest(
        checkpoint=source_of(source),
        others=tuple(sources),
        settings=with_changes(settings or SliceSettings(), changes),
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.slice from Python",
    )
    read = [("others", one) for one in sources if isinstance(one, Path)]
    with threads_kept(), reserved_for(request, inputs=read), shown(progress) as report:
        return run_slice(request, report)
