"""``basinscope compare``: flatness measures of checkpoints side by side, from the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import nearest
from basinscope.cli.compare_show import list_measures, rankings_of, show_findings
from basinscope.cli.options import (
    OWN,
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
from basinscope.tasks import OPTIONS_HELP
from basinscope.tasks.own import chosen_task, task_on
from basinscope.terminal import emit, show
from comparisons.words import FAMILIES, FEWEST
from spectra.errors import UserError
from spectra.timing import FIGURES, phase

if TYPE_CHECKING:
    from basinscope.runs import CompareRequest
    from comparisons.findings import Findings
    from comparisons.options import Chosen

# Columns that a refusal names.
_SHOWN_COLUMNS = 20
_ESTIMATE = "Estimate"


def compare(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files (.pt, .pth, .safetensors, .gguf) or folders as transformers saves them.",
            show_default=False,
            metavar="CHECKPOINT...",
        ),
    ] = None,
    measures: Annotated[
        str,
        typer.Option(
            help="default (about 1,000 gradients), all, or names of measures, their beginnings or families "
            f"({', '.join(FAMILIES)}), separated by commas; list shows them with their cost and options."
        ),
    ] = "default",
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of a measure, or of a family's, such as keskar.epsilon=5e-4; repeatable.",
            metavar="MEASURE.OPTION=VALUE",
        ),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", help="TOML file of such options, in a table for each measure; --set goes before."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="How to make a landscape: a built-in name (digits, causal-lm), package.module:function or "
            f"path/to/file.py:function. {OPTIONS_HELP}",
            show_default="each checkpoint's own",
        ),
    ] = None,
    held_out_task: Annotated[
        str | None,
        typer.Option(help="The same with held-out data.", show_default="that of a built-in task"),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of the initialisation.", show_default="step 0 of the same run, beside it"),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="A spectrum.h5 or volume.h5 to take evidence from where it fits; repeatable."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Rank correlations with gap, error-gap, held-out-loss, loss, or an entry of the checkpoints' "
            "metadata (a number, or a label of two values).",
            show_default="gap, from 4 checkpoints with held-out data on",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            help="Rank correlations once a column is held fixed: a target as for --against, a measure or an entry of "
            "the metadata; repeatable.",
            show_default="loss",
        ),
    ] = None,
    probes: Annotated[int, typer.Option(help="Number of probes of each spectrum.", rich_help_panel=_ESTIMATE)] = 6,
    steps: Annotated[int, typer.Option(help="Lanczos steps a probe.", rich_help_panel=_ESTIMATE)] = 48,
    cutoff: Annotated[float, typer.Option(help="Cost that bounds a basin.", rich_help_panel=_ESTIMATE)] = 0.01,
    directions: Annotated[
        int, typer.Option(help="Number of directions of sampled volumes.", rich_help_panel=_ESTIMATE)
    ] = 64,
    k: Annotated[float, typer.Option(help="Number k of the shift k / s².", rich_help_panel=_ESTIMATE)] = 1.0,
    budget: Annotated[
        int | None,
        typer.Option(help="Gradients for each stochastic item, in place of the above.", rich_help_panel=_ESTIMATE),
    ] = None,
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_ESTIMATE)] = 0,
    jobs: Annotated[int, typer.Option(help="Checkpoints examined at once.", rich_help_panel=_ESTIMATE)] = 1,
    model: ModelOption = None,
    data: DataOption = None,
    loss: LossOption = None,
    held_out_data: Annotated[
        str | None,
        typer.Option(
            help="Other data for --model and --loss, as --held-out-task is for --task.",
            show_default=False,
            rich_help_panel=OWN,
        ),
    ] = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    memory: MemoryOption = "4GiB",
    threads: ThreadsOption = None,
    key: KeyOption = None,
    strip_prefix: StripPrefixOption = None,
    trust_pickle: TrustPickleOption = False,
    invariance: Annotated[
        bool,
        typer.Option(
            "--invariance",
            help="Change the parameters of one checkpoint so that its function stays, and show which measures move.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    table: TableOption = None,
    output: OutputOption = None,
    plot: PlotOption = None,
    agreement_plot: Annotated[
        Path | None,
        typer.Option(help="Figure of which measures agree: .png, .pdf or .svg.", rich_help_panel=RESULT),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="One self-contained page to write (.html); with figures of the --reuse files, audits too.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip checkpoints that the output holds.", rich_help_panel=RESULT)
    ] = False,
    traces: Annotated[
        bool,
        typer.Option(
            "--traces/--no-traces", help="Keep each chain's cost trace in the output.", rich_help_panel=RESULT
        ),
    ] = True,
    as_json: JsonOption = False,
    timings: TimingsOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare flatness measures of checkpoints: each with its error, its cost and what it is invariant to.

    A measure or a checkpoint that fails is reported, and the rest go on.
    """  # noqa: DOC501  # the help has no place for it
    del debug, timings  # read by main
    form = form_of(table, as_json)
    if measures == "list":
        list_measures(table, as_json)
        return
    _check_counts(checkpoints or [], jobs)
    from comparisons.evidence import EvidenceSettings

    asked = _measures(measures)
    settings = EvidenceSettings(
        probes=probes,
        steps=steps,
        cutoff=cutoff,
        directions=directions,
        k=k,
        budget=budget,
        seed=seed,
        options=_options(chosen or [], settings_file, asked),
    )
    machine = machine_of(dtype, device, memory, threads)
    from basinscope.runs import CompareRequest
    from spectra.checkpoint import cached

    request = CompareRequest(
        checkpoints=tuple(dict.fromkeys(cached(path) or path for path in checkpoints or [])),
        measures=asked,
        settings=settings,
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        held_out_task=task_on(held_out_task, model=model, data=held_out_data, loss=loss, option="--held-out-data"),
        initial=initial,
        reuse=tuple(reuse or ()),
        jobs=jobs,
        output=output,
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        traces=traces,
        command=command_line(),
    )
    if invariance:
        unused: dict[str, object] = {"given": given, "reuse": reuse, "initial": initial}
        unused |= {"report": report, "plot": plot, "agreement-plot": agreement_plot, "table": table, "against": against}
        _check_invariance(request, as_json, [name for name, value in unused.items() if value])
        return
    shown = _Shown(form, against, tuple(given) if given else None, agreement_plot, report)
    with _reserved(request, shown):
        _check_shown(request, shown)
        _run(request, shown)


@dataclass(frozen=True)
class _Shown:
    """What is made of the comparison: how it is printed, and the options of the same names."""

    form: str
    against: str | None
    given: tuple[str, ...] | None
    agreement_plot: Path | None
    report: Path | None


def _check_counts(checkpoints: list[Path], jobs: int) -> None:
    if not checkpoints:
        raise UserError("compare needs at least one CHECKPOINT (--measures list needs none)")
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")


def _measures(words: str) -> tuple[str, ...]:
    """Names of the measures that names and families stand for."""
    from comparisons.measures import measures_named

    return tuple(one.name for one in measures_named([word.strip() for word in words.split(",") if word.strip()]))


def _options(words: list[str], file: Path | None, measures: tuple[str, ...]) -> Chosen:
    """Options of measures as a file and the command line give them; the latter goes before."""
    from comparisons.measures import chosen_options, measures_of, options_in_file, options_in_words

    given = {} if file is None else options_in_file(file)
    for measure, values in options_in_words(words).items():
        given[measure] = {**given.get(measure, {}), **values}
    return chosen_options(given, measures_of(measures))


def _reserved(request: CompareRequest, shown: _Shown) -> AbstractContextManager[None]:
    """Checks and holds the files that are written."""
    return reserved(
        results={"--output": request.output},
        figures={"--plot": request.plot, "--agreement-plot": shown.agreement_plot},
        pages={"--report": shown.report},
        inputs=request.inputs,
        overwrite=request.overwrite,
        resume=request.resume,
    )


def _check_shown(request: CompareRequest, shown: _Shown) -> None:
    """Refuses what cannot be shown before anything is computed."""
    many = len(request.checkpoints)
    if shown.against is not None and many < FEWEST and not request.resume:
        target = shown.against
        raise UserError(f"rank correlations need at least {FEWEST} checkpoints with a value of {target}, got {many}")
    if shown.agreement_plot is not None and many < FEWEST and not request.resume:
        raise UserError(f"--agreement-plot needs at least {FEWEST} checkpoints, got {many}")
    columns = {"--against": (shown.against,), "--given": shown.given or ()}
    for option, names in columns.items():
        for name in names:
            if name is not None and not request.resume:
                _check_column(request, option, name)


def _check_column(request: CompareRequest, option: str, name: str) -> None:
    """Refuses a column that the table will not have."""
    from comparisons.examination import hyperparameters
    from comparisons.targets import TARGETS
    from spectra.checkpoint import read_checkpoint

    measured = request.measures if option == "--given" else ()
    if name in TARGETS or name in measured:
        return
    known = dict.fromkeys((*TARGETS, *measured))
    for path in request.files:
        try:
            entries = hyperparameters(read_checkpoint(path, request.reading))
        except (OSError, UserError):  # said when its turn comes, and the others go on
            continue
        if name in entries:
            return
        known.update(dict.fromkeys(entries))
    found = ", ".join(list(known)[:_SHOWN_COLUMNS])
    raise UserError(f"{option} {name} is no column of these checkpoints; there are {found}{nearest(name, known)}")


def _run(request: CompareRequest, shown: _Shown) -> None:
    from basinscope.ranks import writes_files
    from basinscope.runs import announce, progress_report, run_compare
    from volume.audit import is_audit_file

    evidence = tuple(file for file in request.reuse if not is_audit_file(file))
    if len(evidence) < len(request.reuse) and shown.report is None:
        raise UserError("--reuse with an audit needs --report: measures take nothing from an audit")
    # Every rank takes part in what is found out for the announcement, and one says it.
    said = announce if writes_files() else lambda _: None
    with progress_report("gradients" if request.jobs == 1 else "checkpoints") as progress:
        comparison = run_compare(replace(request, reuse=evidence), progress, said)
    from comparisons.findings import Findings, findings_of

    files = {} if request.output is None else {"comparison": str(request.output)}
    try:
        found = findings_of(comparison, *rankings_of(comparison, shown.against), shown.given)
    except UserError:  # a ranking that cannot be had does not cost the numbers
        show_findings(Findings(comparison), files, shown.form)
        raise
    try:
        files |= _drawn(request, shown, found)
        if shown.report is not None:
            from basinscope.views import evidence_figures
            from comparisons.report import write_report

            if writes_files():
                write_report(shown.report, replace(found, figures=evidence_figures(request.reuse, comparison)))
            files["report"] = str(shown.report)
    finally:  # a figure or a page that fails does not cost the numbers
        show_findings(found, files, shown.form)


@phase(FIGURES)
def _drawn(request: CompareRequest, shown: _Shown, found: Findings) -> dict[str, str]:
    """Figures written, by kind."""
    from basinscope.ranks import writes_files
    from spectra.plots import save_figure

    files = {}
    if request.plot is not None:
        from comparisons.plots import comparison_figure

        if writes_files():
            save_figure(comparison_figure(found.comparison), request.plot)
        files["figure"] = str(request.plot)
    if shown.agreement_plot is not None:
        from comparisons.statistics import agreement_figure

        if found.agreement is None:
            raise UserError(
                f"--agreement-plot needs two measures that vary over at least {FEWEST} checkpoints, got "
                f"{len(found.comparison.measures)} measures of {len(found.comparison.done)}"
            )
        if writes_files():
            save_figure(agreement_figure(found.agreement), shown.agreement_plot)
        files["figure of agreement"] = str(shown.agreement_plot)
    return files


def _check_invariance(request: CompareRequest, as_json: bool, given: list[str]) -> None:
    if given:
        words = ", ".join(f"--{name}" for name in given)
        raise UserError(f"--invariance prints a table of its own and takes no {words}: leave it out, or use --json")
    from basinscope.runs import progress_report, run_invariance
    from basinscope.views import invariance_json, invariance_table

    with progress_report() as report:
        table = run_invariance(request, report)
    if as_json:
        emit(invariance_json(request.files[0], table))
        return
    show(invariance_table(request.files[0], table))
