"""``basinscope connect``: the cost on the way from one checkpoint to another, from the command line."""

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
from basinscope.tasks import CHECKPOINT_HELP
from basinscope.tasks.own import chosen_task
from comparisons.words import MATCHINGS, STATISTICS

if TYPE_CHECKING:
    from basinscope.runs.connections import ConnectRequest
    from comparisons.connections import Connection

_METHOD = "Method"


def connect(
    first: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP, show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another checkpoint of the same model.", show_default=False)],
    task: TaskOption = None,
    matching: Annotated[
        str,
        typer.Option(
            help=f"How hidden units are matched for the aligned path: {', '.join(MATCHINGS)}; none leaves it out.",
            rich_help_panel=_METHOD,
        ),
    ] = "weights",
    running_statistics: Annotated[
        str,
        typer.Option(
            help=f"Batch norm's running statistics on the way: {' or '.join(STATISTICS)}; computed anew from the data, "
            "as REPAIR does, at both ends too.",
            rich_help_panel=_METHOD,
        ),
    ] = "recompute",
    points: Annotated[int, typer.Option(help="Points that a path begins with.", rich_help_panel=_METHOD)] = 25,
    tolerance: Annotated[
        float,
        typer.Option(
            help="What a barrier may be off by, as a share of the range of costs on its path: it is refined until it "
            "is known so well.",
            rich_help_panel=_METHOD,
        ),
    ] = 1e-3,
    most: Annotated[int, typer.Option(help="Points at which a path is given up.", rich_help_panel=_METHOD)] = 200,
    model: ModelOption = None,
    data: DataOption = None,
    loss: LossOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
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
    """Find the barrier on the way from one checkpoint to another: straight, and to its aligned copy.

    The aligned path leads to the second network with its hidden units in the order that is nearest to the first's,
    which changes nothing of what it computes. The cost is that of the first's task.
    """  # noqa: DOC501  # the help has no place for it
    del debug  # read by main
    one_of("--matching", matching, MATCHINGS)
    one_of("--running-statistics", running_statistics, STATISTICS)
    form, machine = form_of(table, as_json), machine_of(dtype, device, threads=threads)
    from basinscope.runs import reserved_for
    from basinscope.runs.connections import ConnectRequest
    from comparisons.connections import PathSettings
    from spectra.checkpoint import located

    request = ConnectRequest(
        checkpoint=located(first),
        other=located(second),
        settings=PathSettings(
            points=points, tolerance=tolerance, most=most, matching=matching, statistics=running_statistics
        ),
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        output=output,
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
    )
    with reserved_for(request, inputs=[("SECOND", second)]):
        _run(request, form)


def _run(request: ConnectRequest, form: str) -> None:
    from basinscope.runs import announce, progress_report
    from basinscope.runs.connections import run_connect

    with progress_report() as report:
        found = run_connect(request, report, announce)
    files = {} if request.output is None else {"connection": str(request.output)}
    try:
        if request.plot is not None:
            from comparisons.connections import connection_figure
            from spectra.plots import save_figure

            save_figure(connection_figure(found), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_connection(found, form, files)


def show_connection(found: Connection, form: str, files: dict[str, str]) -> None:
    """Print a connection on stdout, with the files written by kind."""
    from basinscope.views import print_result
    from basinscope.views.connections import connection_json, connection_rows, connection_table

    print_result(
        form,
        table=lambda: connection_table(found, files),
        rows=lambda: connection_rows(found),
        found=lambda: connection_json(found, files),
    )
