"""One run of ``basinscope compare``: checkpoint after checkpoint, each kept when it is done, one failure no end."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from basinscope.failures import sentence
from basinscope.outputs import TASK, to_continue
from basinscope.ranks import STORED, agreed, common, writes_files
from basinscope.runs.evidence import make_evidence
from basinscope.runs.progress import Report
from basinscope.runs.resumption import refuse_differences
from basinscope.runs.session import RunRequest, ends_early
from basinscope.tasks import task_files
from comparisons.comparison import Comparison, Examined
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.examination import examine
from comparisons.invariance import InvarianceTable, check_invariance
from comparisons.measures import measures_of
from comparisons.store import read_comparison, write_comparison
from spectra.errors import UserError, out_of_memory
from spectra.files import Provenance
from spectra.landscape import Landscape
from spectra.ranks import Ranks

Strategies = Mapping[str, Mapping[str, str]]
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


def run_compare(request: CompareRequest, progress: Report) -> Comparison:
    """Examine checkpoints, or those that a stored comparison lacks, keeping each in the output when it is done.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.

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
    known, strategies = _known(request)
    waiting = [name for name in request.sources if name not in known]

    def comparison() -> Comparison:
        # In the order asked for, then what the output held besides.
        order = dict.fromkeys([*request.sources, *known])
        rows = tuple(known[name] for name in order if name in known)
        return Comparison(request.settings, request.measures, rows)

    with ends_early(lambda: f"interrupted: {_left(request)}"):
        for examined in _examined(request, waiting, strategies, progress):
            known[examined.provenance.checkpoint] = examined
            if request.output is not None and writes_files():
                write_comparison(request.output, comparison(), traces=request.traces)
    found = comparison()
    if not found.done:
        raise UserError(found.checkpoints[0].failure)
    return found


def _left(request: CompareRequest) -> str:
    """What a run that ends early leaves, and how to go on."""
    if request.output is None:
        return "nothing is saved: with --output a run can be continued"
    return f"the checkpoints that were done are saved in {request.output}; go on with the same command and --resume"


def _examined(
    request: CompareRequest, waiting: list[str], strategies: Strategies, progress: Report
) -> Iterator[Examined]:
    if request.jobs == 1 or len(waiting) < 2:
        for place, name in enumerate(waiting):

            def tell(done: int, total: int, what: str, place: int = place, title: str = Path(name).stem) -> None:
                progress(place * total + done, len(waiting) * total, f"{title}: {what}")

            yield examine_file(request, name, strategies.get(name), tell)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(request.jobs, len(waiting)), mp_context=context) as pool:
        started = [pool.submit(examine_file, request, name, strategies.get(name)) for name in waiting]
        for done, future in enumerate(as_completed(started)):
            yield future.result()
            progress(done + 1, len(waiting), "checkpoints")


def examine_file(
    request: CompareRequest, name: str, strategies: Mapping[str, str] | None = None, progress: Report | None = None
) -> Examined:
    """Examine one of a request's checkpoints; what the user's files, task or memory make fail is said in the result."""
    try:
        return _examine(request, name, strategies, progress)
    except Exception as error:
        # On several ranks a failure may be one rank's alone, and then the others wait for it: it ends the run.
        if Ranks.current().alone and (isinstance(error, EXPECTED) or out_of_memory(error)):
            return Examined(Provenance(name, ""), failure=sentence(error))
        raise


def _examine(
    request: CompareRequest, name: str, strategies: Mapping[str, str] | None, progress: Report | None
) -> Examined:
    evidence, provenance = _evidence(request, name, request.reuse, strategies)
    provenance = common(provenance, "; ".join(evidence.notes))
    return examine(evidence, measures_of(request.measures), provenance, progress=progress)


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


def _known(request: CompareRequest) -> tuple[dict[str, Examined], Strategies]:
    """Stored checkpoints that are as asked for, and the strategies of all that are stored."""
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        agreed(STORED, "nothing")
        return {}, {}
    stored = read_comparison(output)
    agreed(STORED, f"{', '.join(one.provenance.checkpoint for one in stored.done)} with {', '.join(stored.measures)}")
    before, now = asdict(stored.settings), asdict(request.settings)
    changed = [name for name in now if before[name] != now[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{output} was made with {name} {before[name]}, not {now[name]}: it cannot be continued with it"
        )
    strategies = {one.provenance.checkpoint: one.strategies for one in stored.done}
    return {one.provenance.checkpoint: one for one in stored.done if _fits(one, request)}, strategies


def _fits(one: Examined, request: CompareRequest) -> bool:
    """Whether a stored checkpoint has all measures asked for, of the same file, data, cost and initialisation still."""
    name, output = one.provenance.checkpoint, request.output
    if any(measure not in one.outcomes for measure in request.measures):
        return False
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
