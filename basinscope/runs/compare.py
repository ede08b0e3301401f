"""One run of ``basinscope compare``: checkpoint after checkpoint, each kept when it is done, one failure no end."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from basinscope.failures import sentence
from basinscope.outputs import TASK, to_continue
from basinscope.ranks import STORED, agreed, common, writes_files
from basinscope.runs.announcement import forecast, seconds_of
from basinscope.runs.evidence import make_evidence
from basinscope.runs.progress import Report
from basinscope.runs.resumption import refuse_differences
from basinscope.runs.session import RunRequest, ends_early
from basinscope.tasks import task_files
from comparisons.comparison import Comparison, Examined
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.examination import ExpectedWork, examine, expected_work
from comparisons.flatness import Measure
from comparisons.invariance import InvarianceTable, check_invariance
from comparisons.measures import measures_of
from comparisons.options import Value
from comparisons.store import read_comparison, write_comparison
from spectra.errors import UserError, out_of_memory
from spectra.files import Provenance, counted
from spectra.landscape import Landscape
from spectra.ranks import Ranks

Strategies = Mapping[str, Mapping[str, str]]
# What is asked of each checkpoint, by its name.
Requests = Mapping[str, "CompareRequest"]
# Says what is going to be done, from the evidence and the measures.
Told = Callable[[Evidence, Sequence[Measure]], None]
# What a user's file or task may be at fault for; anything else is a mistake of ours.
EXPECTED = (UserError, OSError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class CompareRequest(RunRequest):
    """What the user asked for.

    Attributes:
        checkpoints: their paths, or one landscape of the user's own; in the order of the table.
        measures: names of measures.
        settings: what decides the numbers.
        held_out_task: name of the task on held-out data, or None for a built-in task's.
        initial: checkpoint of the initialisation, or None to look for it.
        reuse: files of spectra and volumes.
        jobs: processes.
        traces: whether the output keeps the chains' whole series.
    """

    checkpoints: tuple[Path | Landscape, ...]
    measures: tuple[str, ...]
    settings: EvidenceSettings
    held_out_task: str | None = None
    initial: Path | None = None
    reuse: tuple[Path, ...] = ()
    jobs: int = 1
    traces: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """Those checkpoints that are files."""
        return tuple(one for one in self.checkpoints if isinstance(one, Path))

    @property
    def inputs(self) -> list[tuple[str, Path | None]]:
        """What is read, each with the option that names it."""
        return [
            *(("CHECKPOINT", path) for path in self.files),
            ("--initial", self.initial),
            *(("--reuse", path) for path in self.reuse),
            *((TASK, path) for path in (*task_files(self.task), *task_files(self.held_out_task))),
        ]

    @property
    def sources(self) -> dict[str, Path | Landscape]:
        """The checkpoints by the names that the table gives them."""
        return {
            f"landscape {place}" if isinstance(one, Landscape) else str(one): one
            for place, one in enumerate(self.checkpoints, 1)
        }


def run_compare(request: CompareRequest, progress: Report, announce: Callable[[str], None] | None = None) -> Comparison:
    """Examine checkpoints, or those that a stored comparison lacks, keeping each in the output when it is done.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with each line on what is going to be done; None where nobody is told.

    Returns:
        The comparison; a checkpoint that could not be examined has a sentence in place of its outcomes.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
        LostRankError: if another rank of several has died, saying the same.
    """
    if request.jobs != 1 and not Ranks.current().alone:
        raise UserError("--jobs starts processes of its own, which ranks have already: leave it out under torchrun")
    stored, kept, strategies = _known(request)
    request = request if stored is None else replace(request, settings=_joined(stored.settings, request.settings))
    known = {name: one for name, one in kept.items() if not _lacking(request, one)}
    # Of a checkpoint that is stored and unchanged only the measures that it lacks are examined.
    waiting = {
        name: replace(request, measures=_lacking(request, kept.get(name)))
        for name in request.sources
        if name not in known
    }

    def comparison() -> Comparison:
        # In the order asked for, then what the output held besides; measures that only the output has stay in it.
        order = dict.fromkeys([*request.sources, *known, *kept])
        held = kept | known
        rows = tuple(held[name] for name in order if name in held)
        return Comparison(request.settings, _measures(request, stored), rows)

    with ends_early(lambda: f"interrupted: {_left(request)}"):
        told = _once(announce, len(waiting))
        for examined in _examined(request.jobs, waiting, strategies, progress, told):
            name = examined.provenance.checkpoint
            known[name] = _merged(kept.get(name), examined)
            if request.output is not None and writes_files():
                write_comparison(request.output, comparison(), traces=request.traces)
    found = comparison()
    if not found.done:
        raise UserError(found.checkpoints[0].failure)
    return found


def _joined(before: EvidenceSettings, now: EvidenceSettings) -> EvidenceSettings:
    """The settings with the options of measures that only the stored comparison has."""
    return replace(now, options={**before.options, **now.options})


def _measures(request: CompareRequest, stored: Comparison | None) -> tuple[str, ...]:
    """The measures asked for and those of the stored comparison, in the order of the registry, then those it lacks."""
    names = (*request.measures, *(() if stored is None else stored.measures))
    return tuple(dict.fromkeys((*(measure.name for measure in measures_of(names)), *names)))


# Items of evidence that the announcement names.
_NAMED = 6


def _lacking(request: CompareRequest, one: Examined | None) -> tuple[str, ...]:
    """The measures asked for that a stored checkpoint, or None, does not have; none of one that is not asked for."""
    if one is None:
        return request.measures
    if one.provenance.checkpoint not in request.sources:
        return ()
    return tuple(name for name in request.measures if name not in one.outcomes)


def _merged(before: Examined | None, now: Examined) -> Examined:
    """A checkpoint with what was stored of it and is still right, and what was examined now."""
    if before is None:
        return now
    if now.failure:
        return before
    notes = tuple(dict.fromkeys((*before.notes, *now.notes)))
    outcomes = {**before.outcomes, **now.outcomes}
    return replace(now, outcomes=outcomes, work=before.work + now.work, notes=notes)


def _once(announce: Callable[[str], None] | None, checkpoints: int) -> Told:
    """What says, at the first checkpoint that can be read, what it and all others are going to take."""
    waiting = announce is not None

    def told(evidence: Evidence, measures: Sequence[Measure]) -> None:
        nonlocal waiting
        if waiting and announce is not None:
            waiting = False
            for line in announcement_lines(evidence.landscape, expected_work(evidence, measures), checkpoints):
                announce(line)

    return told


def announcement_lines(landscape: Landscape, work: ExpectedWork, checkpoints: int) -> list[str]:
    """What measures are going to take, by a gradient that is timed, and which have no value, in lines."""
    lines = []
    reasons: dict[str, list[str]] = {}
    for name, reason in work.missing.items():
        reasons.setdefault(reason, []).append(name)
    lines += [f"no value: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    if work.gradients < 1.0:
        return lines
    items = sorted(work.items.items(), key=lambda item: -item[1])
    named = [f"{_shortened(name)} {gradients:,.0f}" for name, gradients in items[:_NAMED] if gradients >= 1.0]
    rest = sum(gradients for _, gradients in items[len(named) :])
    parts = ", ".join(named + ([f"all else {rest:,.0f}"] if rest >= 1.0 else []))
    whole = checkpoints * work.gradients
    # Ranks must take the same steps, and a timing takes as many as its own clock says.
    alone = landscape.ranks.alone
    said = forecast(whole, "gradient", seconds_of(landscape.gradient, landscape.device)) if alone else ""
    each = f", {work.gradients:,.0f} for each of {checkpoints} checkpoints" if checkpoints > 1 else ""
    lines.append(f"cost: {said or counted(round(whole), 'gradient')}{each} ({parts})")
    return lines


def _shortened(item: str) -> str:
    """An item of evidence without what tells it from others of its kind."""
    return item.partition(" ")[0]


def _left(request: CompareRequest) -> str:
    """What a run that ends early leaves, and how to go on."""
    if request.output is None:
        return "nothing is saved: with --output a run can be continued"
    return f"the checkpoints that were done are saved in {request.output}; go on with the same command and --resume"


def _examined(jobs: int, waiting: Requests, strategies: Strategies, progress: Report, told: Told) -> Iterator[Examined]:
    if jobs == 1 or len(waiting) < 2:
        for place, (name, request) in enumerate(waiting.items()):

            def tell(done: int, total: int, what: str, place: int = place, title: str = Path(name).stem) -> None:
                progress(place * total + done, len(waiting) * total, f"{title}: {what}")

            yield examine_file(request, name, strategies.get(name), tell, told)
        return
    _tell_first(waiting, strategies, told)
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(waiting)), mp_context=context) as pool:
        started = [pool.submit(examine_file, request, name, strategies.get(name)) for name, request in waiting.items()]
        for done, future in enumerate(as_completed(started)):
            yield future.result()
            progress(done + 1, len(waiting), "checkpoints")


def _tell_first(waiting: Requests, strategies: Strategies, told: Told) -> None:
    """The same where processes of their own examine: the first checkpoint that can be read is read here for it."""
    for name, request in waiting.items():
        try:
            evidence, _ = _evidence(request, name, request.reuse, strategies.get(name))
            told(evidence, measures_of(request.measures))
        except EXPECTED:
            continue  # said when its turn comes
        return


def examine_file(
    request: CompareRequest,
    name: str,
    strategies: Mapping[str, str] | None = None,
    progress: Report | None = None,
    told: Told | None = None,
) -> Examined:
    """Examine one of a request's checkpoints; what the user's files, task or memory make fail is said in the result."""
    try:
        return _examine(request, name, strategies, progress, told)
    except Exception as error:
        # On several ranks a failure may be one rank's alone, and then the others wait for it: it ends the run.
        if Ranks.current().alone and (isinstance(error, EXPECTED) or out_of_memory(error)):
            return Examined(Provenance(name, ""), failure=sentence(error))
        raise


def _examine(
    request: CompareRequest,
    name: str,
    strategies: Mapping[str, str] | None,
    progress: Report | None,
    told: Told | None,
) -> Examined:
    evidence, provenance = _evidence(request, name, request.reuse, strategies)
    provenance = common(provenance, "; ".join(evidence.notes))
    measures = measures_of(request.measures)
    if told is not None:
        told(evidence, measures)
    return examine(evidence, measures, provenance, progress=progress)


def _evidence(
    request: CompareRequest, name: str, reuse: tuple[Path, ...], strategies: Mapping[str, str] | None = None
) -> tuple[Evidence, Provenance]:
    return make_evidence(
        request.sources[name],
        request.settings,
        machine=request.machine,
        reading=request.reading,
        task=request.task,
        held_out_task=request.held_out_task,
        initial=request.initial,
        reuse=reuse,
        command=request.command,
        strategies=strategies,
        title=name,
    )


def run_invariance(request: CompareRequest, progress: Report) -> InvarianceTable:
    """Check which measures move where the parameters change and the function does not.

    Args:
        request: request for one checkpoint.
        progress: called with work done, all work and what is being done.

    Returns:
        The table.

    Raises:
        UserError: if there is more than one checkpoint, or a file to write.
    """
    if not Ranks.current().alone:
        raise UserError("--invariance runs in one process: leave torchrun out")
    if len(request.checkpoints) != 1:
        raise UserError(f"--invariance takes one checkpoint, got {len(request.checkpoints)}")
    if request.output is not None:
        raise UserError("--invariance writes no file: leave out --output, or use --json")
    (name,) = request.sources
    evidence, _ = _evidence(request, name, ())
    measures = measures_of(request.measures)
    return check_invariance(
        evidence.landscape, measures, request.settings, held_out=evidence.held_out, progress=progress
    )


def _known(request: CompareRequest) -> tuple[Comparison | None, dict[str, Examined], Strategies]:
    """The stored comparison, its checkpoints that are still right, and the strategies of all that are stored."""
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        agreed(STORED, "nothing")
        return None, {}, {}
    stored = read_comparison(output)
    agreed(STORED, f"{', '.join(one.provenance.checkpoint for one in stored.done)} with {', '.join(stored.measures)}")
    changed = _changed(stored, request)
    if changed:
        name, before, now = changed[0]
        raise UserError(
            f"{output} was made with {name} {before}, not {now}: it cannot be continued with it (write to another "
            "file, or use --overwrite)"
        )
    strategies = {one.provenance.checkpoint: one.strategies for one in stored.done}
    return stored, {one.provenance.checkpoint: one for one in stored.done if _fits(one, request)}, strategies


def _changed(stored: Comparison, request: CompareRequest) -> list[tuple[str, Value, Value]]:
    """Settings, and options of measures that the stored comparison has too, that are others now."""
    first, second = asdict(stored.settings), asdict(request.settings)
    found = [(name, first[name], second[name]) for name in second if name != "options" and first[name] != second[name]]
    both = set(stored.measures) & set(request.measures)
    for measure in measures_of(tuple(both)):
        was, becomes = measure.values(stored.settings.options), measure.values(request.settings.options)
        shown = {option.name: option.shown_default for option in measure.options}
        for name in becomes:
            if was[name] != becomes[name]:
                before, now = (shown[name] if one[name] is None else one[name] for one in (was, becomes))
                found.append((f"{measure.name}.{name}", before, now))
    return found


def _fits(one: Examined, request: CompareRequest) -> bool:
    """Whether a stored checkpoint is still of the same file, data, cost and initialisation, or is not asked for."""
    name, output = one.provenance.checkpoint, request.output
    if name not in request.sources:
        return True
    try:
        evidence, provenance = _evidence(request, name, ())
    except EXPECTED:
        return False  # it will be said when the checkpoint is examined
    if output is not None:
        kept, now = one.provenance, provenance
        if kept.checkpoint_sha256 == now.checkpoint_sha256 and kept.checkpoint_weights:
            refuse_differences(output, [("checkpoint_weights", kept.checkpoint_weights, now.checkpoint_weights)])
        refuse_differences(output, [(key, getattr(kept, key), getattr(now, key)) for key in ("dtype", "device")])
    landscape, beside = evidence.landscape, evidence.held_out
    costs = (landscape.anchor_cost, math.nan if beside is None else beside.anchor_cost)
    return (
        one.provenance.same_weights(provenance.checkpoint_sha256, provenance.checkpoint_weights)
        and (landscape.batches.sha256, provenance.cost) == (one.data_sha256, one.provenance.cost)
        and set(evidence.notes) <= set(one.notes)
        # To rounding: threads and libraries may differ.
        and np.allclose(costs, (one.cost, one.held_out_cost), rtol=1e-4, atol=0.0, equal_nan=True)
    )
