"""``basinscope bridge``: the ground truth of a basin's volume, from the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basinscope.choices import forms, nearest, one_of
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
from basinscope.tasks.own import chosen_task
from spectra.errors import UserError
from spectra.members import stating
from spectra.timing import FIGURES, phase
from spectra.words import BASIN_COSTS
from volume.chains import ORIGINS, window_of
from volume.priors import prior_forms

if TYPE_CHECKING:
    from basinscope.runs import BridgeRequest, SandwichRequest
    from basinscope.views import OtherBridge
    from volume.bridge import BridgeResult, SandwichResult

_LADDER = "Ladder"
_SANDWICH = "Bounds from both sides"
# Settings of a ladder to a set, which a sandwich does not take.
_OF_A_SET = ("target", "origin", "standard_error", "budget")


def bridge(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, as of basinscope volume.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(help="HDF5 file, written after every rung.", show_default=False, rich_help_panel=RESULT),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="The task, as for basinscope volume.", show_default="the checkpoint's own; of digits its held-out rows"
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(help="The cost, as for basinscope volume.", show_default="kl for classifiers, else task"),
    ] = None,
    cutoff: Annotated[
        list[float] | None,
        typer.Option(help="Cost that bounds the basin; repeatable, and larger ones are free.", show_default="0.01"),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(help=forms(prior_forms("smooth"))),
    ] = "gaussian",
    target: Annotated[
        str,
        typer.Option(
            help="sublevel: all that costs less; star: what does so all the way from the checkpoint; window:W: what "
            "does so on the last share W of that way."
        ),
    ] = "sublevel",
    origin: Annotated[
        str | None,
        typer.Option(
            help="prior: cooled from the prior, all of the set is measured; quadratic: let go from the quadratic model "
            "at the checkpoint, what chains reach from there.",
            show_default="quadratic for star, else prior",
        ),
    ] = None,
    # Few chains of many draws: short ones lag behind the ensemble as it cools (docs/bridge.md).
    chains: Annotated[int, typer.Option(help="Side by side; their spread is the error.", rich_help_panel=_LADDER)] = 8,
    draws: Annotated[
        int, typer.Option(help="Number of draws of each chain at each rung.", rich_help_panel=_LADDER)
    ] = 80,
    warm_up: Annotated[int, typer.Option(help="Trajectories before, at each rung.", rich_help_panel=_LADDER)] = 8,
    work_spread: Annotated[
        float,
        typer.Option(help="Spread of the work between rungs, nats: how far apart they are.", rich_help_panel=_LADDER),
    ] = 4.0,
    standard_error: Annotated[
        float,
        typer.Option(
            help="Passes are added until the log-volumes are known to this, nats.",
            show_default="one pass",
            rich_help_panel=_LADDER,
        ),
    ] = math.inf,
    budget: Annotated[
        float,
        typer.Option(help="Gradients after which no rung is begun.", show_default="no limit", rich_help_panel=_LADDER),
    ] = math.inf,
    seed: Annotated[int, typer.Option(help="The one seed of all randomness.", rich_help_panel=_LADDER)] = 0,
    sandwich: Annotated[
        bool,
        typer.Option(
            "--sandwich",
            help="Bound from both sides the posterior of labels that a network drawn from the prior gives: whether "
            "such a ladder suffices for this architecture, data and prior.",
            rich_help_panel=_SANDWICH,
        ),
    ] = False,
    temperatures: Annotated[
        int | None,
        typer.Option(
            help="Of a sandwich, from one rung to the next: more close the gap.",
            show_default="32",
            rich_help_panel=_SANDWICH,
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
    plot: PlotOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the output, where there is one.", rich_help_panel=RESULT)
    ] = False,
    table: TableOption = None,
    as_json: JsonOption = False,
    timings: TimingsOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure the volume of the basin around a checkpoint by a bridge: slow, and with an error bar that covers it.

    Chains lead from an ensemble that is known exactly to the real cost. Log-volumes are logarithms of a probability
    under the prior, in nats; one ladder gives the whole curve of log V against the cutoff.
    """  # noqa: DOC501  # the help has no place for it
    del debug, timings  # read by main
    origin = origin or ("quadratic" if target == "star" else "prior")
    _check_words(target, origin, prior, cost)
    form = form_of(table, as_json)
    machine = machine_of(dtype, device, memory, threads)
    from volume.chains import BridgeSettings

    settings = BridgeSettings(
        cutoffs=tuple(cutoff or (0.01,)),
        target=target,
        origin=origin,
        chains=chains,
        draws=draws,
        warm_up=warm_up,
        kept=draws,
        work_spread=work_spread,
        standard_error=standard_error,
        budget=budget,
        seed=seed,
    )
    from basinscope.runs import SandwichRequest, reserved_for

    request = SandwichRequest(
        checkpoint=checkpoint,
        settings=settings,
        output=output,
        prior=prior,
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        machine=machine,
        reading=reading_of(key, strip_prefix, trust_pickle),
        plot=plot,
        overwrite=overwrite,
        resume=resume,
        command=command_line(),
        temperatures=32 if temperatures is None else temperatures,
    )
    if temperatures is not None and not sandwich:
        raise UserError("--temperatures is of bounds from both sides: give --sandwich too")
    if sandwich:
        _check_sandwich(request)
    with reserved_for(request):
        (_run_sandwich if sandwich else _run)(request, form)


def _check_words(target: str, origin: str, prior: str, cost: str | None) -> None:
    window_of(target)
    one_of("--origin", origin, ORIGINS)
    if cost is not None:
        one_of("--cost", cost, BASIN_COSTS)
    kind, known = prior.partition(":")[0], stating("volume.priors", "smooth")
    if kind not in known:
        *others, last = prior_forms("smooth")
        raise UserError(
            f"--prior of a bridge must be {', '.join(others)} or {last}; got {prior!r}{nearest(kind, known)}"
        )


def _check_sandwich(request: SandwichRequest) -> None:
    """Refuses what asks for the checkpoint's own set, of which a sandwich knows nothing."""
    from volume.chains import BridgeSettings

    plain, asked = BridgeSettings(origin="prior"), request.settings
    given = {
        "--cost": request.cost is not None,
        "--plot": request.plot is not None,
        "--cutoff": asked.cutoffs != plain.cutoffs,
        **{f"--{name.replace('_', '-')}": getattr(asked, name) != getattr(plain, name) for name in _OF_A_SET},
    }
    if unfit := [option for option, differs in given.items() if differs]:
        raise UserError(f"--sandwich is of a posterior of drawn labels, not of a set: leave out {', '.join(unfit)}")


def _run_sandwich(request: SandwichRequest, form: str) -> None:
    from basinscope.runs import announce, progress_report, run_sandwich

    with progress_report() as progress:
        result = run_sandwich(request, progress, announce)
    show_sandwich(result, form, {"sandwich": str(request.output)})


def show_sandwich(result: SandwichResult, form: str, files: dict[str, str]) -> None:
    """Print bounds from both sides, complete or not, with the files written by kind."""
    from basinscope.views import print_result, sandwich_json, sandwich_table

    print_result(
        form,
        table=lambda: sandwich_table(result, files),
        rows=lambda: result.records() if result.complete else [],
        found=lambda: sandwich_json(result, files),
    )


def _run(request: BridgeRequest, form: str) -> None:
    from basinscope.runs import announce, progress_report, run_bridge

    with progress_report() as progress:
        result, source = run_bridge(request, progress, announce)
    files = {"bridge": str(request.output)}
    try:
        if request.plot is not None and result.complete:
            with phase(FIGURES):
                from basinscope.ranks import writes_files
                from basinscope.views import figure_of
                from spectra.plots import save_figure

                if writes_files():
                    save_figure(figure_of(result, source), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_bridge(result, source, form, files)


def show_bridge(
    result: BridgeResult,
    source: dict[str, str],
    form: str,
    files: dict[str, str],
    other: OtherBridge | None = None,
) -> None:
    """Print a bridge, complete or not, with its source, the files written by kind, and what it is compared with."""
    from basinscope.views import bridge_json, bridge_rows, bridge_table, print_result

    print_result(
        form,
        table=lambda: bridge_table(result, source, files, other),
        rows=lambda: bridge_rows(result, source, other),
        found=lambda: bridge_json(result, source, files, other),
    )
