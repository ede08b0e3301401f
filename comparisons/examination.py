"""All measures at one checkpoint, from one evidence; a measure that fails is reported and the rest go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from comparisons.comparison import Examined, Outcome, Plain
from comparisons.evidence import ComputeCost, Evidence, Extent, error_rate, extent_of
from comparisons.flatness import Measure
from comparisons.measures import chosen_options
from spectra.checkpoint import Checkpoint
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.ranks import LostRankError

Progress = Callable[[int, int, str], None]
# Of all gradients, how many lie between two reports of progress at least.
SHARE = 0.02


def examine(
    evidence: Evidence,
    measures: Sequence[Measure],
    provenance: Provenance,
    *,
    progress: Progress | None = None,
) -> Examined:
    """What each measure says of a checkpoint.

    Args:
        evidence: evidence of the checkpoint.
        measures: rows of the registry.
        provenance: what the checkpoint is.
        progress: called with the gradients that are behind, all that are expected, and the name of the next measure.

    Returns:
        The outcomes; measures whose needs are not met, or that fail, have a sentence in place of a reading.

    Raises:
        UserError: if the settings have an option that no measure has, or a value that is out of range.
    """
    chosen_options(evidence.settings.options)
    outcomes = {}
    steps = None if progress is None else _Steps(evidence, expected_work(evidence, measures), progress)
    for measure in measures:
        if steps is not None:
            steps.at(measure)
        outcomes[measure.name] = outcome_of(evidence, measure)
    landscape, held_out = evidence.landscape, evidence.held_out
    return Examined(
        provenance=provenance,
        size=landscape.size,
        samples=landscape.samples,
        data_sha256=landscape.batches.sha256,
        cost=landscape.cost(),
        held_out_cost=math.nan if held_out is None else held_out.cost(),
        error=error_rate(landscape),
        held_out_error=math.nan if held_out is None else error_rate(held_out),
        held_out_samples=0.0 if held_out is None else held_out.samples,
        hyperparameters={} if evidence.checkpoint is None else hyperparameters(evidence.checkpoint),
        outcomes=outcomes,
        work=sum(evidence.work.values(), ComputeCost()),
        strategies=dict(evidence.strategies),
        notes=(*evidence.notes, *landscape.notes),
    )


@dataclass(frozen=True, eq=False)
class ExpectedWork:
    """What measures are going to take, said before anything is computed.

    Attributes:
        extent: what it depends on.
        items: gradients of each item of evidence, counted once however many measures share it.
        measures: gradients that each measure that can be read needs alone, by name.
        missing: why each of the others has no value, by name.
    """

    extent: Extent
    items: Mapping[str, float]
    measures: Mapping[str, float]
    missing: Mapping[str, str]

    @property
    def gradients(self) -> float:
        """All of them."""
        return sum(self.items.values())


def expected_work(evidence: Evidence, measures: Sequence[Measure]) -> ExpectedWork:
    """What measures are going to take at a checkpoint, and which of them it has no value of; computes neither.

    Args:
        evidence: evidence of the checkpoint, not yet computed.
        measures: rows of the registry.

    Returns:
        The work.
    """
    missing = {measure.name: reason for measure in measures if (reason := _missing(evidence, measure))}
    extent = extent_of(evidence)
    items: dict[str, float] = {}
    alone: dict[str, float] = {}
    for measure in measures:
        if measure.name not in missing:
            needed = measure.expected(extent)
            items |= needed
            alone[measure.name] = sum(needed.values())
    return ExpectedWork(extent, items, alone, missing)


class _Steps:
    """How far an examination has come, in gradients: those of the items that are behind, and of the present one."""

    def __init__(self, evidence: Evidence, work: ExpectedWork, progress: Progress) -> None:
        self._work, self._progress = work, progress
        self._behind, self._said, self._name, self._all = 0.0, 0.0, "", math.ceil(work.gradients)
        self._left, self._coming = dict(work.items), dict[str, float]()
        evidence.follow = self._tell

    def at(self, measure: Measure) -> None:
        """A measure begins: the items of the one before are behind."""
        self._behind += sum(self._coming.values())
        needed = () if measure.name in self._work.missing else measure.expected(self._work.extent)
        self._coming = {name: self._left.pop(name) for name in needed if name in self._left}
        self._name = measure.name
        self._tell(0.0)

    def _tell(self, gradients: float) -> None:
        # Never beyond what was expected of the present items, so that it does not go back where the next one begins.
        done = self._behind + min(gradients, sum(self._coming.values()))
        # A step or two, with all that is set up for them, say nothing of how long the rest will take.
        if gradients == 0.0 or done - self._said >= SHARE * self._all:
            self._said = done
            self._progress(math.floor(done), self._all, self._name)


def outcome_of(evidence: Evidence, measure: Measure) -> Outcome:
    """One measure's reading, or why there is none.

    Args:
        evidence: evidence of a checkpoint.
        measure: a row of the registry.

    Returns:
        The outcome.

    Raises:
        LostRankError: if another rank of several has died.
    """
    if reason := _missing(evidence, measure):
        return Outcome(None, ComputeCost(), reason)
    try:
        found, work = evidence.watch(measure.read)
    except LostRankError:
        raise
    except Exception as error:  # one measure that fails must not cost the numbers of all the others
        # A user's model may refuse a derivative that other measures do without.
        blame = "" if isinstance(error, RuntimeError) else "a bug of basinscope, please report it: "
        return Outcome(None, ComputeCost(), f"{blame}{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if isinstance(found, UserError):
        return Outcome(None, work, " ".join(str(found).split()))
    return Outcome(found, work)


def _missing(evidence: Evidence, measure: Measure) -> str:
    """Why a measure cannot be read; empty if it can, as far as is known before it is computed."""
    return next((reason for need in measure.needs if (reason := evidence.missing(need))), "")


def hyperparameters(checkpoint: Checkpoint) -> dict[str, Plain]:
    """The plain values among a checkpoint's metadata, without lists and the like or the file of the initialisation."""
    plain = {name: value for name, value in checkpoint.metadata.items() if isinstance(value, str | int | float | bool)}
    plain.pop("initialisation", None)
    return plain
