"""``basinscope spectrum``: the spectrum of a checkpoint, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import one_of
from basinscope.cli.options import (
    MACHINE,
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
from basinscope.tasks import CHECKPOINT_HELP, OPTIONS_HELP
from basinscope.tasks.own import chosen_task
from spectra.errors import UserError
from spectra.timing import FIGURES, phase
from spectra.words import COSTS, ENGINES, NEGATIVE_RULES, OPERATORS, REORTHOGONALISATIONS

if TYPE_CHECKING:
    from basinscope.runs import Request
    from spectra.store import StoredSpectrum

ShiftOption = Annotated[
    list[float] | None,
    typer.Option(
        "--shift",
        help="c of log det(H + cI), unit of the eigenvalues; repeatable.",
        show_default="three parts of the largest eigenvalue at which both sums exist",
    ),
]
NegativeOption = Annotated[
    str,
    typer.Option(
        help="What log-determinants do with negative eigenvalues: raise (undefined where they reach "
        "beyond the shift), clip or abs."
    ),
]
_METHOD = "Method"


def spectrum(
    checkpoint: Annotated[Path, typer.Argument(help=CHECKPOINT_HELP, show_default=False)],
    task: Annotated[
        str | None,
        typer.Option(
            help="How to make a landscape of the checkpoint: a built-in name (digits, causal-lm), "
            f"package.module:function or path/to/file.py:function. {OPTIONS_HELP}",
            show_default="the checkpoint's own",
        ),
    ] = None,
    operator: Annotated[str, typer.Option(help=f"One of {', '.join(OPERATORS)}.")] = "hessian",
    cost: Annotated[str | None, typer.Option(help=f"One of {', '.join(COSTS)}.", show_default="the task's")] = None,
    layers: Annotated[str, typer.Option(help="Parameters to differentiate: patterns, ! excludes.")] = "*",
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Each layer's block too.")] = False,
    top: Annotated[
        int,
        typer.Option(
            help="Find the K largest eigenpairs one by one, and of a matrix that may have negative eigenvalues up to K "
            "of the most negative, each with its residual.",
            metavar="K",
        ),
    ] = 0,
    keep_vectors: Annotated[bool, typer.Option("--keep-vectors", help="Keep the eigenvectors of --top too.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough answer in about 60 products: few probes of few steps.")
    ] = False,
    probes: Annotated[int, typer.Option(help="Number of probe vectors.", rich_help_panel=_METHOD)] = 8,
    steps: Annotated[int, typer.Option(help="Lanczos steps a probe.", rich_help_panel=_METHOD)] = 64,
    deflate: Annotated[
        int,
        typer.Option(
            help="Dimension of the Krylov space treated without sampling; -1 chooses, 0 is plain quadrature.",
            rich_help_panel=_METHOD,
        ),
    ] = -1,
    engine: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(ENGINES)}; auto takes an exact route that costs no more.",
            rich_help_panel=_METHOD,
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_METHOD)] = 0,
    reorthogonalise: Annotated[
        str, typer.Option(help=f"One of {', '.join(REORTHOGONALISATIONS)}.", rich_help_panel=_METHOD)
    ] = "auto",
    strategy: Annotated[
        str,
        typer.Option(help="How products are computed; auto times the candidates.", rich_help_panel=MACHINE),
    ] = "auto",
    block: Annotated[
        int,
        typer.Option(
            help="Probes a pass; a kill loses at most these.",
            show_default="2 on the CPU, 8 elsewhere",
            rich_help_panel=MACHINE,
        ),
    ] = 0,
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
    shift: ShiftOption = None,
    negative: NegativeOption = "raise",
    output: OutputOption = None,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the output, with more probes too.", rich_help_panel=RESULT),
    ] = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    timings: TimingsOption = False,
    debug: DebugOption = False,
) -> None:
    """Compute the eigenvalue spectrum of a checkpoint's Hessian or Fisher matrix.

    Everything is checked before anything is computed; each finished block of probes is kept in the output.
    """  # noqa: DOC501  # the help has no place for it
    del debug, timings  # read by main
    _check_words(operator, engine, negative, reorthogonalise, cost)
    if engine == "pyhessian":
        _only_ours(
            {
                "--deflate": deflate != -1,
                "--strategy": strategy != "auto",
                "--reorthogonalise": reorthogonalise != "auto",
            }
        )
    check_shifts(shift or [])
    form, machine = form_of(table, as_json), machine_of(dtype, device, memory, threads)
    from spectra.spectrum import SpectrumSettings

    settings = SpectrumSettings(
        operator=operator,
        probes=probes,
        steps=steps,
        deflate=deflate,
        engine=engine,
        reorthogonalise=reorthogonalise,
        strategy=strategy,
        seed=seed,
        block=block,
        layers=layers,
        per_layer=per_layer,
        top=top,
        keep_vectors=keep_vectors,
    )
    from basinscope.runs import Request, reserved_for
    from spectra.checkpoint import located

    request = Request(
        checkpoint=located(checkpoint),
        settings=settings,
        quick=quick,
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
    with reserved_for(request):
        _run(request, shift or [], negative, form)


def _check_words(operator: str, engine: str, negative: str, reorthogonalise: str, cost: str | None) -> None:
    one_of("--operator", operator, OPERATORS)
    one_of("--engine", engine, ENGINES)
    one_of("--negative", negative, NEGATIVE_RULES)
    one_of("--reorthogonalise", reorthogonalise, REORTHOGONALISATIONS)
    if cost is not None:
        one_of("--cost", cost, COSTS)


def _only_ours(given: dict[str, bool]) -> None:
    ignored = [name for name, is_given in given.items() if is_given]
    if ignored:
        raise UserError(f"--engine pyhessian computes in its own way and knows no {' or '.join(ignored)}: leave it out")


def check_shifts(shifts: list[float]) -> None:
    """Refuse shifts that no log-determinant can take: those that are not positive and finite."""
    for shift in shifts:
        if not 0.0 < shift < float("inf"):
            raise UserError(f"--shift must be positive and finite, got {shift}")


def _run(request: Request, shifts: list[float], rule: str, form: str) -> None:
    from basinscope.runs import announce, progress_report, run_spectrum

    with progress_report("products") as report:
        stored, said = run_spectrum(request, report, announce)
    files = {} if request.output is None else {"spectrum": str(request.output)}
    try:
        if request.plot is not None:
            with phase(FIGURES):
                from basinscope.ranks import writes_files
                from spectra.plots import save_figure, spectrum_figure

                if writes_files():
                    save_figure(spectrum_figure(stored), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_summary(stored, shifts, rule, form, files, said)


def show_summary(
    stored: StoredSpectrum,
    shifts: list[float],
    rule: str,
    form: str,
    files: dict[str, str],
    said: tuple[str, ...] = (),
) -> None:
    """Print the summary of a spectrum on stdout; its table leaves out the notes that were ``said`` already."""
    from basinscope.views import print_result, summarise, summary_json, summary_rows, summary_table

    summary = summarise(stored, shifts=shifts, rule=rule)
    print_result(
        form,
        table=lambda: summary_table(summary, files, said),
        rows=lambda: summary_rows(summary),
        found=lambda: summary_json(summary, files),
    )
