"""All measures at one checkpoint, from one evidence; a measure that fails is reported and the rest go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from comparisons.comparison import Examined, Outcome, Plain
from comparisons.evidence import ComputeCost, Evidence, error_rate
from comparisons.flatness import Measure
from spectra.checkpoint import Checkpoint
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.ranks import LostRankError

Progress = Callable[[int, int, str], None]


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
        progress: called with measures done, all measures and the name of the next.

    Returns:
        The outcomes; measures whose needs are not met, or that fail, have a sentence in place of a reading.
    """
    outcomes = {}
    for place, measure in enumerate(measures):
        if progress is not None:
            progress(place, len(measures), measure.name)
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
    missing = [reason for need in measure.needs if (reason := evidence.missing(need))]
    if missing:
        return Outcome(None, ComputeCost(), missing[0])
    try:
        found, work = evidence.watch(measure.compute)
    except LostRankError:
        raise
    except Exception as error:  # one measure that fails must not cost the numbers of all the others
        # A user's model may refuse a derivative that other measures do without.
        blame = "" if isinstance(error, RuntimeError) else "a bug of basinscope, please report it: "
        return Outcome(None, ComputeCost(), f"{blame}{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if isinstance(found, UserError):
        return Outcome(None, work, " ".join(str(found).split()))
    return Outcome(found, work)


def hyperparameters(checkpoint: Checkpoint) -> dict[str, Plain]:
    """The plain values among a checkpoint's metadata, without lists and the like or the file of the initialisation."""
    plain = {name: value for name, value in checkpoint.metadata.items() if isinstance(value, str | int | float | bool)}
    plain.pop("initialisation", None)
    return plain
