"""``basinscope compare``: flatness measures of checkpoints side by side, from the command line."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basinscope.choices import one_of
from basinscope.spectrum_command import DebugOption, JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from basinscope.compare_run import CompareRequest
    from comparisons.agreement import Agreement
    from comparisons.comparison import Comparison
    from comparisons.rankings import Ranking
    from comparisons.standings import Standing

    Rankings = tuple[str, tuple[Ranking, ...]]

# Words that may be typed, here too so that --help needs no torch; a test holds them to the library's.
FAMILIES = ("curvature", "sharpness", "norms", "volumes", "learning-coefficient")
TABLES = ("md", "csv", "latex")
_ESTIMATE, _RESULT = "Estimate", "Result"


def compare(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(help="Files: .pt, .pth or .safetensors.", show_default=False, metavar="CHECKPOINT..."),
    ],
    measures: Annotated[
        str, typer.Option(help=f"all, or names of measures or families ({', '.join(FAMILIES)}), separated by commas.")
    ] = "all",
    task: Annotated[
        str | None,
        typer.Option(
            help="How to make a landscape: a built-in name (digits), package.module:function or "
            "path/to/file.py:function.",
            show_default="each checkpoint's own",
        ),
    ] = None,
    held_out_task: Annotated[
        str | None,
        typer.Option(help="Likewise, with held-out data.", show_default="that of a built-in task"),
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
    probes: Annotated[int, typer.Option(help="Of each spectrum.", rich_help_panel=_ESTIMATE)] = 6,
    steps: Annotated[int, typer.Option(help="Lanczos steps a probe.", rich_help_panel=_ESTIMATE)] = 48,
    cutoff: Annotated[float, typer.Option(help="Cost that bounds a basin.", rich_help_panel=_ESTIMATE)] = 0.01,
    directions: Annotated[int, typer.Option(help="Of sampled volumes.", rich_help_panel=_ESTIMATE)] = 64,
    k: Annotated[float, typer.Option(help="Of the shift k / s².", rich_help_panel=_ESTIMATE)] = 1.0,
    budget: Annotated[
        int | None,
        typer.Option(help="Gradients for each stochastic item, in place of the above.", rich_help_panel=_ESTIMATE),
    ] = None,
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_ESTIMATE)] = 0,
    jobs: Annotated[int, typer.Option(help="Checkpoints examined at once.", rich_help_panel=_ESTIMATE)] = 1,
    invariance: Annotated[
        bool,
        typer.Option(
            "--invariance",
            help="Change the parameters of one checkpoint so that its function stays, and show which measures move.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(help=f"Print the table as one of {', '.join(TABLES)}.", rich_help_panel=_RESULT),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HDF5 file to write.", rich_help_panel=_RESULT)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Figure to write: .png, .pdf or .svg.", rich_help_panel=_RESULT)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="One self-contained page to write (.html); with figures of the --reuse files, audits too.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=_RESULT)
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip checkpoints that the output holds.", rich_help_panel=_RESULT)
    ] = False,
    traces: Annotated[
        bool,
        typer.Option(
            "--traces/--no-traces", help="Keep each chain's cost trace in the output.", rich_help_panel=_RESULT
        ),
    ] = True,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare flatness measures of checkpoints: each with its error, its cost and what it is invariant to.

    A measure or a checkpoint that fails is reported, and the rest go on.
    """
    del debug  # read by main
    _check_words(table, as_json, jobs)
    settings = {
        "probes": probes,
        "steps": steps,
        "cutoff": cutoff,
        "directions": directions,
        "k": k,
        "budget": budget,
        "seed": seed,
    }
    source = {"task": task, "held_out_task": held_out_task, "initial": initial, "reuse": tuple(reuse or ())}
    where = {"output": output, "plot": plot, "overwrite": overwrite, "resume": resume, "jobs": jobs, "traces": traces}
    request = _request(checkpoints, measures, settings, {**source, **where})
    if invariance:
        given = {"report": report, "plot": plot, "table": table, "against": against, "reuse": reuse, "initial": initial}
        _check_invariance(request, as_json, [name for name, value in given.items() if value])
        return
    from basinscope.outputs import check_report

    check_report(report, overwrite=overwrite)
    _run(request, table, as_json, against, report)


def _check_words(table: str | None, as_json: bool, jobs: int) -> None:
    if table is not None:
        one_of("--table", table, TABLES)
    if table is not None and as_json:
        raise ValueError("--table and --json exclude each other: give one of them")
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")


def _request(paths: list[Path], measures: str, settings: dict[str, Any], options: dict[str, Any]) -> CompareRequest:
    from comparisons.evidence import EvidenceSettings

    checked = EvidenceSettings(**settings)
    from comparisons.registry import measures_named

    words = [word.strip() for word in measures.split(",") if word.strip()]
    names = tuple(measure.name for measure in measures_named(words))
    from basinscope.compare_run import CompareRequest

    unique = tuple(dict.fromkeys(paths))
    return CompareRequest(unique, names, checked, command=shlex.join(["basinscope", *sys.argv[1:]]), **options)


def _run(request: CompareRequest, table: str | None, as_json: bool, against: str | None, report: Path | None) -> None:
    from basinscope.compare_run import run_compare
    from basinscope.volume_progress import volume_progress
    from volume.audit_store import is_audit_file

    evidence = tuple(file for file in request.reuse if not is_audit_file(file))
    if len(evidence) < len(request.reuse) and report is None:
        raise ValueError("--reuse with an audit needs --report: measures take nothing from an audit")
    with volume_progress() as progress:
        comparison = run_compare(replace(request, reuse=evidence), progress)
    files = {} if request.output is None else {"comparison": str(request.output)}
    if request.plot is not None:
        from comparisons.plots import comparison_figure
        from spectra.plots import save_figure

        save_figure(comparison_figure(comparison), request.plot)
        files["figure"] = str(request.plot)
    rankings = rankings_of(comparison, against)
    if report is not None:
        from basinscope.evidence_figures import evidence_figures
        from comparisons.report import Findings, write_report

        figures = evidence_figures(request.reuse, comparison)
        write_report(report, Findings(comparison, *rankings, *studied(comparison, rankings), figures))
        files["report"] = str(report)
    show_comparison(comparison, files, table, as_json, rankings)


def _check_invariance(request: CompareRequest, as_json: bool, given: list[str]) -> None:
    if given:
        words = ", ".join(f"--{name}" for name in given)
        raise ValueError(f"--invariance prints a table of its own and takes no {words}: leave it out, or use --json")
    from basinscope.compare_run import run_invariance
    from basinscope.invariance_table import invariance_json, invariance_table
    from basinscope.summary_table import page
    from basinscope.volume_progress import volume_progress

    with volume_progress() as report:
        table = run_invariance(request, report)
    if as_json:
        print(json.dumps(invariance_json(request.checkpoints[0], table), allow_nan=False))
        return
    page().print(invariance_table(request.checkpoints[0], table))


def rankings_of(comparison: Comparison, against: str | None) -> Rankings:
    """The rank correlations with a target: those asked for, or with the gap where that can be.

    Args:
        comparison: the comparison.
        against: the target as typed, or None.

    Returns:
        The target and the rankings; none where nothing was asked for and there are too few checkpoints.

    Raises:
        ValueError: if what was asked for is not to be had.
    """
    from comparisons.rankings import LEAST, rank_measures
    from comparisons.registry import measures_of

    gaps = sum(math.isfinite(one.gap) for one in comparison.done)
    if against is None and gaps < LEAST:
        return "gap", ()
    target = against or "gap"
    measures = measures_of(comparison.measures)
    return target, rank_measures(comparison, measures, target, seed=comparison.settings.seed)


def show_comparison(
    comparison: Comparison, files: dict[str, str], table: str | None, as_json: bool, rankings: Rankings
) -> None:
    """Print a comparison on stdout.

    Args:
        comparison: the comparison.
        files: where results were written, by kind.
        table: ``md``, ``csv`` or ``latex`` in place of the table for terminals; or None.
        as_json: print one JSON object instead.
        rankings: the target and the rank correlations with it.
    """
    if as_json:
        from basinscope.agreement_table import standings_json
        from basinscope.compare_json import comparison_json, rankings_json

        found = (
            comparison_json(comparison, files)
            | rankings_json(*rankings)
            | standings_json(*studied(comparison, rankings))
        )
        print(json.dumps(found, allow_nan=False))
        return
    if table is not None:
        from comparisons.tables import plain_table

        print(plain_table(comparison, table))
        return
    from basinscope.compare_table import comparison_table
    from basinscope.summary_table import page

    console = page()
    console.print(comparison_table(comparison, files, console.width))
    if rankings[1]:
        from basinscope.ranking_table import ranking_table

        console.print(ranking_table(rankings[1], rankings[0]))
    _show_studied(comparison, rankings, console)


def studied(comparison: Comparison, rankings: Rankings) -> tuple[tuple[Standing, ...], Agreement | None]:
    """What hyperparameters explain of the rankings, and which measures agree.

    Args:
        comparison: the comparison.
        rankings: the target and the rank correlations with it.

    Returns:
        Standings (none without rankings or hyperparameters), and the agreement (None with too few checkpoints).
    """
    from comparisons.agreement import agreement_of
    from comparisons.rankings import LEAST
    from comparisons.standings import standings_of

    found = agreement_of(comparison) if len(comparison.done) >= LEAST else None
    return standings_of(comparison, rankings[0]) if rankings[1] else (), found


def _show_studied(comparison: Comparison, rankings: Rankings, console: Console) -> None:
    from basinscope.agreement_table import agreement_table, standings_table

    standings, found = studied(comparison, rankings)
    if standings:
        console.print(standings_table(standings, rankings[0]))
    if found is not None:
        console.print(agreement_table(found))
