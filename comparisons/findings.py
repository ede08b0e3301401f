"""All that a comparison tells: rankings, what confounders leave of them, agreement, and the figures of its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comparisons.comparison import Comparison
from comparisons.measures import measures_of
from comparisons.statistics import (
    Agreement,
    GranulatedRanking,
    PartialRanking,
    Ranking,
    agreement_of,
    granulated_rankings,
    partial_rankings,
)
from comparisons.targets import target_values
from comparisons.words import FEWEST
from spectra.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GIVEN = "loss"


@dataclass(frozen=True, eq=False)
class Findings:
    """What a table, a JSON object or a page tells.

    Attributes:
        comparison: comparison with at least one checkpoint done.
        against: the target of the rankings.
        rankings: none where there are too few checkpoints.
        granulated: none where no hyperparameter varies.
        agreement: None with too few checkpoints.
        partials: rankings given a column, by its name.
        figures: captions and figures of the evidence: densities, volumes, audits.
    """

    comparison: Comparison
    against: str = "gap"
    rankings: tuple[Ranking, ...] = ()
    granulated: tuple[GranulatedRanking, ...] = ()
    agreement: Agreement | None = None
    partials: tuple[tuple[str, tuple[PartialRanking, ...]], ...] = ()
    figures: tuple[tuple[str, Figure], ...] = ()


def findings_of(
    comparison: Comparison, against: str, rankings: tuple[Ranking, ...], given: Sequence[str] | None = None
) -> Findings:
    """What hyperparameters, the training cost and other measures leave of the rankings.

    Args:
        comparison: comparison of some checkpoints.
        against: the target of the rankings.
        rankings: rankings of measures; none where there are too few checkpoints, and then nothing is held against them.
        given: columns to rank given each; None for the training cost where it varies and is not the target.

    Returns:
        The findings, without figures.

    Raises:
        UserError: if a column asked for is not there.
    """
    if not rankings and given:
        raise UserError(f"rank correlations given {given[0]} need at least {FEWEST} checkpoints with a target")
    agreement = agreement_of(comparison) if len(comparison.done) >= FEWEST else None
    if not rankings:
        return Findings(comparison, against, agreement=agreement)
    measures, seed = measures_of(comparison.measures), comparison.settings.seed
    if given is None:
        given = (GIVEN,) if against != GIVEN and len(set(target_values(comparison, GIVEN).tolist())) > 1 else ()
    partials = tuple((one, partial_rankings(comparison, measures, against, one, seed=seed)) for one in given)
    return Findings(comparison, against, rankings, granulated_rankings(comparison, against), agreement, partials)
