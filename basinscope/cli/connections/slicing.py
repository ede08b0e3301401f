"""``basinscope slice``: the cost on a plane through one checkpoint or three, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import one_of
from basinscope.cli.options import (
    DataOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeyOption,
    LossOption,
    MemoryOption,
    ModelOption,
    OutputOption,
    OverwriteOption,
    PlotOption,
    ResumeOption,
    StripPrefixOption,
    TableOption,
    TaskOption,
    ThreadsOption,
    TrustPickleOption,
    command_line,
    form_of,
    machine_of,
    reading_of,
)
from basinscope.tasks.own import chosen_task
from spectra.errors import UserError
from spectra.words import COSTS

if TYPE_CHECKING:
    from basinscope.runs.connections import SliceRequest
    from comparisons.connections import CostSlice

_METHOD = "Method"


def slice(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT [SECOND THIRD]",
            help="One checkpoint, for a plane of two eigenvectors of its Hessian; or three of one model, for the plane "
            "through them.",
            show_default=False,
        ),
    ],
    task: TaskOption = None,
    cost: Annotated[str | None, typer.Option(help=f"One of {', '.join(COSTS)}.", show_default="the task's")] = None,
    axes: Annotated[
        str,
        typer.Option(
            help="Eigenvectors that span the plane: 1 is the one of the largest eigenvalue, -1 of the lowest.",
            rich_help_panel=_METHOD,
        ),
    ] = "1,2",
    points: Annotated[int, typer.Option(help="Points along each side of the window.", rich_help_panel=_METHOD)] = 31,
    reach: Annotated[
        float,
        typer.Option(
            help="Half of the window, as a multiple of how far the quadratic model holds.", rich_help_panel=_METHOD
        ),
    ] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the eigenvectors' start.", rich_help_panel=_METHOD)] = 0,
    model: ModelOption = None,
    data: DataOption = None,
    loss: LossOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    memory: MemoryOption = "4GiB",
    threads: ThreadsOption = None,
    key: KeyOption = None,
    strip_prefix: StripPrefixOption = None,
    trust_pickle: TrustPickleOption = False,
    output: OutputOption = None,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw the cost on a plane around a checkpoint with its quadratic model over it, and say where that breaks.

    Through three checkpoints the plane shows the valleys between them. The cost is that of the first's task.
    """  # noqa: DOC501  # the help has no place for it
    del debug  # read by main
    if cost is not None:
        one_of("--cost", cost, COSTS)
    if len(checkpoints) not in (1, 3):
        raise UserError(f"a slice leads through one checkpoint or three, got {len(checkpoints)}")
    numbers = _axes(axes)
    form, machine = form_of(table, as_json), machine_of(dtype, device, memory, threads)
    from basinscope.runs import reserved_for
    from basinscope.runs.connections import SliceRequest
    from comparisons.connections import SliceSettings
    from spectra.checkpoint import located

    first, *others = checkpoints
    request = SliceRequest(
        checkpoint=located(first),
        others=tuple(map(located, others)),
        settings=SliceSettings(axes=numbers, points=points, reach=reach, seed=seed),
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        output=output,
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
    )
    with reserved_for(request, inputs=[("CHECKPOINT", path) for path in others]):
        _run(request, form)


def _axes(text: str) -> tuple[int, int]:
    try:
        first, second = map(int, text.split(","))
    except ValueError as error:
        raise UserError(f"--axes must be two whole numbers, such as 1,2 or 1,-1; got {text!r}") from error
    return first, second


def _run(request: SliceRequest, form: str) -> None:
    from basinscope.runs import announce, progress_report
    from basinscope.runs.connections import run_slice

    with progress_report() as report:
        found = run_slice(request, report, announce)
    files = {} if request.output is None else {"slice": str(request.output)}
    try:
        if request.plot is not None:
            from comparisons.connections import slice_figure
            from spectra.plots import save_figure

            save_figure(slice_figure(found), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_slice(found, form, files)


def show_slice(found: CostSlice, form: str, files: dict[str, str]) -> None:
    """Print a slice on stdout, with the files written by kind."""
    from basinscope.views import print_result
    from basinscope.views.connections import slice_json, slice_rows, slice_table

    print_result(
        form,
        table=lambda: slice_table(found, files),
        rows=lambda: slice_rows(found),
        found=lambda: slice_json(found, files),
    )
