"""``basinscope volume``: the basin volume of a checkpoint, from the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from basinscope.choices import forms, nearest, one_of
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
from basinscope.tasks import CHECKPOINT_HELP, OPTIONS_HELP
from basinscope.tasks.own import chosen_task, task_on
from spectra.errors import UserError
from spectra.members import stated, stating
from spectra.words import BASIN_COSTS, NEGATIVE_RULES
from volume.priors import prior_forms

METHODS = tuple(stated("volume.methods"))
PRECONDITIONERS = tuple(stated("volume.preconditioners"))
OPERATORS = stating("spectra.operators", "models_cost")
EXPONENT = 0.5
_ESTIMATE = "Estimate"


def volume(
    checkpoint: Annotated[Path | None, typer.Argument(help=CHECKPOINT_HELP, show_default=False)] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(METHODS)}; repeatable.",
            show_default="quadratic-mass (gaussian priors) and star-domain",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="How to make a landscape: a built-in name (digits, on its held-out rows; causal-lm), "
            f"package.module:function or path/to/file.py:function. {OPTIONS_HELP}",
            show_default="the checkpoint's own",
        ),
    ] = None,
    validation_task: Annotated[
        str | None,
        typer.Option(
            help="The same network on data that it was not trained on, where basins are then measured; segment takes "
            "the curvature of --task's data beside it.",
            show_default="digits-heldout for digits, else none",
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            help="kl (divergence from the checkpoint's outputs) or task (the task's own, above its value there).",
            show_default="kl for classifiers, else task",
        ),
    ] = None,
    cutoff: Annotated[float, typer.Option(help="Cost that bounds the basin.")] = 0.01,
    prior: Annotated[
        str,
        typer.Option(help=forms(prior_forms())),
    ] = "gaussian",
    preconditioner: Annotated[
        str | None,
        typer.Option(
            help=f"Preconditioner of star-domain's directions: one of {', '.join(PRECONDITIONERS)}.",
            show_default="low-rank",
            rich_help_panel=_ESTIMATE,
        ),
    ] = None,
    eps: Annotated[
        str,
        typer.Option(
            help="Part of the largest curvature that the preconditioner adds to all: a number, or search.",
            rich_help_panel=_ESTIMATE,
        ),
    ] = "search",
    exponent: Annotated[
        float, typer.Option(help="Exponent of the curvature in the preconditioner.", rich_help_panel=_ESTIMATE)
    ] = EXPONENT,
    directions: Annotated[
        int, typer.Option(help="Number of directions of sampled methods.", rich_help_panel=_ESTIMATE)
    ] = 1000,
    probes: Annotated[
        int, typer.Option(help="Number of probes of the curvature's spectrum.", rich_help_panel=_ESTIMATE)
    ] = 8,
    steps: Annotated[int, typer.Option(help="Lanczos steps a probe.", rich_help_panel=_ESTIMATE)] = 64,
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_ESTIMATE)] = 0,
    operator: Annotated[
        str | None,
        typer.Option(
            help=f"Curvature of determinants and preconditioners: {', '.join(OPERATORS)}.",
            show_default="fisher of kl, gauss-newton of likelihoods, else hessian",
            rich_help_panel=_ESTIMATE,
        ),
    ] = None,
    negative: Annotated[
        str,
        typer.Option(help=f"Rule for negative eigenvalues: {', '.join(NEGATIVE_RULES)}.", rich_help_panel=_ESTIMATE),
    ] = "raise",
    k: Annotated[
        float,
        typer.Option(
            help="Number k of the shift k / s² in shifted-determinant (0: none) and ellipsoid-slice-corrected.",
            rich_help_panel=_ESTIMATE,
        ),
    ] = 1.0,
    sweep_cutoff: Annotated[
        str,
        typer.Option(
            help="LOW:HIGH:COUNT for volumes and slopes at so many cutoffs too.",
            show_default="none",
            rich_help_panel=_ESTIMATE,
        ),
    ] = "",
    model: ModelOption = None,
    data: DataOption = None,
    loss: LossOption = None,
    validation_data: Annotated[
        str | None,
        typer.Option(
            help="Other data for --model and --loss, as --validation-task is for --task.",
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
    rank_tolerance: Annotated[
        float,
        typer.Option(
            help="Share of the largest curvature below which segment takes it as zero.",
            show_default="rounding, 10 n eps",
            rich_help_panel=_ESTIMATE,
        ),
    ] = 0.0,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another checkpoint, or a volume file: the differences too, by common randomness; repeatable.",
            show_default=False,
        ),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(
            help="A folder of checkpoints, or a pattern in one ('DIR/clean_seed0_*'), in place of CHECKPOINT; "
            "--output is then a folder.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the output, with more directions or methods too.", rich_help_panel=RESULT
        ),
    ] = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    timings: TimingsOption = False,
    debug: DebugOption = False,
) -> None:
    """Estimate the volume of the basin around a checkpoint: the points that cost less than the cutoff.

    Log-volumes are in nats; under a prior they are the logarithm of a probability.
    """  # noqa: DOC501  # the help has no place for it
    del debug, timings  # read by main
    _check_words(prior, negative, operator, preconditioner, cost)
    _check_identity(preconditioner, eps, exponent)
    form = form_of(table, as_json)
    if not 0.0 < cutoff < math.inf:
        raise UserError(f"--cutoff must be positive and finite, got {cutoff}")
    methods, machine = _methods(method, prior), machine_of(dtype, device, memory, threads)
    place = _place(checkpoint, trajectory, against or [])
    from volume.study import VolumeSettings

    settings = VolumeSettings(
        methods=methods,
        cutoff=cutoff,
        prior=prior,
        eps=eps,
        exponent=exponent,
        directions=directions,
        probes=probes,
        steps=steps,
        seed=seed,
        negative=negative,
        k=k,
        sweep_cutoff=sweep_cutoff,
        rank_tolerance=rank_tolerance,
        operator=operator or "",
    )
    from basinscope.cli.volume_report import report_trajectory, report_volume
    from basinscope.runs import VolumeRequest

    request = VolumeRequest(
        checkpoint=place,
        settings=settings,
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        task=chosen_task(task, model=model, data=data, loss=loss),
        validation_task=task_on(
            validation_task, model=model, data=validation_data, loss=loss, option="--validation-data"
        ),
        cost=cost,
        preconditioner=preconditioner,
        output=output,
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
    )
    if trajectory is None:
        report_volume(request, form, against or [])
    else:
        report_trajectory(request, place, form)


def _check_identity(preconditioner: str | None, eps: str, exponent: float) -> None:
    if preconditioner == "identity" and eps != "search":
        raise UserError("--preconditioner identity takes no --eps: leave it out")
    if preconditioner == "identity" and exponent != EXPONENT:
        raise UserError("--preconditioner identity takes no --exponent: leave it out")


def _place(checkpoint: Path | None, trajectory: Path | None, against: list[Path]) -> Path:
    """The checkpoint, or where those of the trajectory are."""
    if (checkpoint is None) == (trajectory is None):
        raise UserError("give either CHECKPOINT or --trajectory, a folder of checkpoints")
    if trajectory is not None and against:
        raise UserError("--against compares checkpoints one by one, and excludes --trajectory")
    place = checkpoint or trajectory
    assert place is not None
    from spectra.checkpoint import located

    for path in against:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    return place if checkpoint is None else located(place)


def _methods(asked: list[str] | None, prior: str) -> tuple[str, ...]:
    if asked:
        return tuple(dict.fromkeys(one_of("--method", name, METHODS) for name in asked))
    gaussian = prior.partition(":")[0] in stating("volume.priors", "gaussian")
    return ("quadratic-mass", "star-domain") if gaussian else ("star-domain",)


def _check_words(prior: str, negative: str, operator: str | None, preconditioner: str | None, cost: str | None) -> None:
    kind, known = prior.partition(":")[0], stated("volume.priors")
    if kind not in known:
        *others, last = prior_forms()
        raise UserError(f"--prior must be {', '.join(others)} or {last}; got {prior!r}{nearest(kind, known)}")
    one_of("--negative", negative, NEGATIVE_RULES)
    if operator is not None:
        one_of("--operator", operator, OPERATORS)
    if preconditioner is not None:
        one_of("--preconditioner", preconditioner, PRECONDITIONERS)
    if cost is not None:
        one_of("--cost", cost, BASIN_COSTS)
