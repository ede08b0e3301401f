"""``basinscope audit``: how far estimators are from the truth, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.cli.options import (
    RESULT,
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
    StripPrefixOption,
    TableOption,
    ThreadsOption,
    TimingsOption,
    TrustPickleOption,
    command_line,
    form_of,
    machine_of,
    reading_of,
)
from basinscope.outputs import reserved
from basinscope.tasks.own import chosen_task
from spectra.errors import UserError
from spectra.timing import FIGURES, phase

if TYPE_CHECKING:
    from basinscope.runs import AuditRequest
    from volume.audit import AuditReport

_EFFORT, _CHECKPOINT = "Effort", "Checkpoint"


def audit(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A .pt, .pth or .safetensors file; or --known.", show_default=False),
    ] = None,
    known: Annotated[bool, typer.Option("--known", help="Audit on the cases whose truth is known.")] = False,
    estimators: Annotated[
        list[str] | None,
        typer.Option(help="Names, or their beginnings such as star-domain; repeatable.", show_default="all but bridge"),
    ] = None,
    cases: Annotated[
        list[str] | None, typer.Option(help="Known cases, named in the same way; repeatable.", show_default="all")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Seeds an estimator and case.", rich_help_panel=_EFFORT)] = 12,
    directions: Annotated[
        int, typer.Option(help="Number of directions of sampled methods.", rich_help_panel=_EFFORT)
    ] = 100,
    probes: Annotated[int, typer.Option(help="Number of probes of spectra.", rich_help_panel=_EFFORT)] = 8,
    steps: Annotated[int, typer.Option(help="Lanczos steps a probe.", rich_help_panel=_EFFORT)] = 32,
    products: Annotated[int, typer.Option(help="Number of products of traces.", rich_help_panel=_EFFORT)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the first repeat.", rich_help_panel=_EFFORT)] = 0,
    facts: Annotated[
        bool, typer.Option("--facts/--no-facts", help="With --known: check the seven facts of the sampler too.")
    ] = True,
    spectrum: Annotated[
        Path | None,
        typer.Option(
            help="With --known: a spectrum file to put on a random basis.",
            show_default="that of the digits network, where its data is",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task, as for basinscope volume.", rich_help_panel=_CHECKPOINT)
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="The cost, as for basinscope volume.", rich_help_panel=_CHECKPOINT)
    ] = None,
    cutoff: Annotated[float, typer.Option(help="Cost that bounds the basin.", rich_help_panel=_CHECKPOINT)] = 0.01,
    prior: Annotated[
        str, typer.Option(help="The prior, as for basinscope volume.", rich_help_panel=_CHECKPOINT)
    ] = "gaussian",
    truth: Annotated[
        list[str] | None,
        typer.Option(
            help="Nats and their standard error: -1300:5 of the sublevel set, star=-1400:5 of the star domain; a "
            "bridge file of either; or bridge, bridge-star: run one. Repeatable, one a set.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = None,
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows that the output has.", rich_help_panel=RESULT)
    ] = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    timings: TimingsOption = False,
    debug: DebugOption = False,
) -> None:
    """Audit estimators: bias, spread, coverage and cost over repeats, against the truth where it is known.

    Log-volumes are in nats. With --known the truth is a closed form or a quadrature; of a checkpoint it is what --truth
    says: each estimator is held against the truth of the set that it claims, the sublevel set or the star domain, and
    without one the estimators are only held against each other.
    """  # noqa: DOC501  # the help has no place for it
    del debug, timings  # read by main
    if known == (checkpoint is not None):
        raise UserError("audit needs a checkpoint or --known, and not both")
    form = form_of(table, as_json)
    effort = {"directions": directions, "probes": probes, "steps": steps, "products": products}
    machine = machine_of(dtype, device, memory, threads)
    from basinscope.runs import AuditRequest

    request = AuditRequest(
        checkpoint=checkpoint,
        effort=effort,
        facts=facts and known,
        spectrum=spectrum,
        estimators=tuple(estimators or ()),
        cases=tuple(cases or ()),
        repeats=repeats,
        seed=seed,
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        cutoff=cutoff,
        prior=prior,
        truth=tuple(truth or ()),
        output=output,
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
    )
    with reserved(
        results={"--output": output},
        figures={"--plot": plot},
        inputs=request.inputs,
        overwrite=overwrite,
        resume=resume,
    ):
        _run(request, form)


def _run(request: AuditRequest, form: str) -> None:
    from basinscope.runs import announce, progress_report, run_audit

    with progress_report("rows") as progress:
        report = run_audit(request, progress, announce)
    files = {} if request.output is None else {"audit": str(request.output)}
    try:
        if request.plot is not None:
            with phase(FIGURES):
                from spectra.plots import save_figure
                from volume.audit import audit_figure

                save_figure(audit_figure(report.table), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_report(report, form, files)


def show_report(report: AuditReport, form: str, files: dict[str, str]) -> None:
    """Print an audit on stdout, with the files that were written by kind."""
    from basinscope.views import print_result, report_json, report_table

    print_result(
        form,
        table=lambda: report_table(report, files),
        rows=report.records,
        found=lambda: report_json(report, files),
    )
