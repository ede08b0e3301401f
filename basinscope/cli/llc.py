"""``basinscope llc``: the local learning coefficient over a grid of settings, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import one_of
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
from comparisons.words import SAMPLERS
from spectra.errors import UserError

if TYPE_CHECKING:
    from basinscope.calibration import LlcRequest
    from comparisons.calibration import Calibration

_GRID, _CHAINS, _SPECTRUM = "Grid", "Chains", "Spectrum"
_FORM = "A:B:N for N values from A to B, or values separated by commas."


def llc(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP, show_default=False)],
    step_sizes: Annotated[
        str | None,
        typer.Option(
            help=f"Step sizes of the chains: {_FORM}",
            show_default="five shares of the limit that the spectrum sets in each cell",
            rich_help_panel=_GRID,
        ),
    ] = None,
    inverse_temperature: Annotated[
        str | None,
        typer.Option(
            help="Inverse temperatures times the number of samples, in the same form.",
            show_default="half of, once and twice n / log n",
            rich_help_panel=_GRID,
        ),
    ] = None,
    localisation: Annotated[
        str | None,
        typer.Option(
            help="Pulls g of g/2 |w - w*|² to the checkpoint, in the same form.",
            show_default="three from the least at which the spectrum expects sound chains",
            rich_help_panel=_GRID,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="Share by which estimates of a plateau may differ.", rich_help_panel=_GRID),
    ] = 0.15,
    calls: Annotated[
        int, typer.Option(help="Independent calls of each cell; their spread is the error.", rich_help_panel=_CHAINS)
    ] = 4,
    chains: Annotated[int, typer.Option(help="Chains of each call.", rich_help_panel=_CHAINS)] = 2,
    steps: Annotated[
        int, typer.Option(help="Steps of each chain, at most half of them burn-in.", rich_help_panel=_CHAINS)
    ] = 1500,
    sampler: Annotated[
        str,
        typer.Option(
            help="How the chains move: sgld, plain; rmsprop, with shorter steps where gradients are large; mala, on "
            "all rows with each step accepted or rejected, the reference for small models.",
            rich_help_panel=_CHAINS,
        ),
    ] = SAMPLERS[0],
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows of a minibatch; 0 takes all of them.",
            show_default="64; all for mala",
            rich_help_panel=_CHAINS,
        ),
    ] = None,
    penalty: Annotated[
        str,
        typer.Option(
            help="l2 of the penalty l2/2 |w|² that the cost was trained with: a number; none; or auto, to find it "
            "where the checkpoint is a minimum with it alone.",
            rich_help_panel=_CHAINS,
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_CHAINS)] = 0,
    probes: Annotated[
        int, typer.Option(help="Random vectors of the spectrum that predicts.", rich_help_panel=_SPECTRUM)
    ] = 6,
    lanczos_steps: Annotated[
        int,
        typer.Option(
            help="Products with the Hessian for each of them, and for the gradient.", rich_help_panel=_SPECTRUM
        ),
    ] = 48,
    task: TaskOption = None,
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
    settings_output: Annotated[
        Path | None,
        typer.Option(help="TOML file of the chosen settings to write, for compare --settings.", rich_help_panel=RESULT),
    ] = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Calibrate the local learning coefficient: chains over a grid of settings, and the plateau that they have.

    Beside each cell stands what the spectrum predicts for it: value, step limit, bias of the step, burn-in. Without a
    plateau there is no value, but the reason.
    """  # noqa: DOC501  # the help has no place for it
    del debug  # read by main
    form, machine = form_of(table, as_json), machine_of(dtype, device, memory, threads)
    one_of("--sampler", sampler, SAMPLERS)
    if sampler == "mala" and batch_size:
        raise UserError(f"--batch-size must be left out with --sampler mala, which takes all rows, got {batch_size}")
    from comparisons.calibration import BATCH_SIZE, SweepSettings, axis

    def values(name: str, text: str | None) -> tuple[float, ...]:
        return () if text is None else axis(name, text)

    settings = SweepSettings(
        step_sizes=values("--step-sizes", step_sizes),
        inverse_temperatures=values("--inverse-temperature", inverse_temperature),
        localisations=values("--localisation", localisation),
        calls=calls,
        chains=chains,
        steps=steps,
        sampler=sampler,
        batch_size=BATCH_SIZE if batch_size is None else batch_size or None,
        penalty=penalty,
        tolerance=tolerance,
        probes=probes,
        lanczos_steps=lanczos_steps,
        seed=seed,
    )
    from basinscope.calibration import LlcRequest, reserved_for_llc
    from spectra.checkpoint import located

    request = LlcRequest(
        checkpoint=located(checkpoint),
        settings=settings,
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        output=output,
        plot=plot,
        settings_output=settings_output,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
    )
    with reserved_for_llc(request):
        _run(request, form)


def _run(request: LlcRequest, form: str) -> None:
    from basinscope.calibration import run_llc
    from basinscope.runs import announce, progress_report

    with progress_report() as progress:
        found = run_llc(request, progress, announce)
    files = {} if request.output is None else {"calibration": str(request.output)}
    try:
        if request.plot is not None:
            from comparisons.calibration import calibration_figure
            from spectra.plots import save_figure

            save_figure(calibration_figure(found), request.plot)
            files["figure"] = str(request.plot)
        if request.settings_output is not None:
            from comparisons.calibration import write_settings

            write_settings(request.settings_output, found)
            files["settings"] = str(request.settings_output)
    finally:  # a figure that fails, or settings that cannot be chosen, do not cost the numbers
        show_calibration(found, form, files)


def show_calibration(found: Calibration, form: str, files: dict[str, str]) -> None:
    """Print a calibration, complete or not, with the files written by kind."""
    from basinscope.calibration import calibration_json, calibration_table
    from basinscope.views import print_result

    print_result(
        form,
        table=lambda: calibration_table(found, files),
        rows=found.records,
        found=lambda: calibration_json(found, files),
    )
