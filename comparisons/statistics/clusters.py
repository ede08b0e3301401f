"""Which measures say the same: rank correlations between them, neighbours by hierarchical clustering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.comparison import Comparison
from comparisons.measures import measures_of
from comparisons.statistics.extensive import incomparable
from comparisons.statistics.rankings import agreement

Array = NDArray[np.float64]
# Measures whose mean tau_b with each other is at least this are printed as one group.
ALIKE = 0.7


@dataclass(frozen=True, eq=False)
class Agreement:
    """Measures beside each other.

    Attributes:
        names: names of the measures, similar ones next to each other.
        taus: (measures, measures) Kendall's tau_b, each measure turned so that smaller is flatter.
        groups: names of measures that agree, by average linkage at ``ALIKE``; in the order of ``names``.
        left_out: measures without a tau_b to some other: constant, without values, or incomparable.
    """

    names: tuple[str, ...]
    taus: Array
    groups: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]


def agreement_of(comparison: Comparison) -> Agreement | None:
    """How far the measures of a comparison order its checkpoints alike.

    Args:
        comparison: comparison of some checkpoints.

    Returns:
        The matrix in the order of the clusters; None with fewer than three checkpoints or two measures.
    """
    measures = measures_of(comparison.measures)
    taus = agreement(comparison, measures)
    names = [measure.name for measure in measures]
    apart = incomparable(comparison)
    kept = [place for place, name in enumerate(names) if name not in apart]
    # The one with most gaps goes first: one empty measure must not take all others with it.
    while kept and not np.isfinite(taus[np.ix_(kept, kept)]).all():
        gaps = (~np.isfinite(taus[np.ix_(kept, kept)])).sum(0)
        del kept[int(gaps.argmax())]
    if len(kept) < 2:
        return None
    order, labels = clustered(taus[np.ix_(kept, kept)])
    places = [kept[i] for i in order]
    grouped: dict[int, list[str]] = {}
    for i in order:
        grouped.setdefault(int(labels[i]), []).append(names[kept[i]])
    left_out = tuple(name for place, name in enumerate(names) if place not in kept)
    together = tuple(tuple(group) for group in grouped.values())
    return Agreement(tuple(names[i] for i in places), taus[np.ix_(places, places)], together, left_out)


def clustered(taus: Array) -> tuple[list[int], NDArray[np.int64]]:
    """The leaves of an average linkage of the distance 1 - tau (m, m) in order, and each one's group (m,)."""
    apart = 1.0 - taus
    np.fill_diagonal(apart, 0.0)
    from scipy.cluster import hierarchy  # slow to import
    from scipy.spatial import distance

    tree = hierarchy.linkage(distance.squareform(apart, checks=False), "average", optimal_ordering=True)
    labels = np.asarray(hierarchy.fcluster(tree, 1.0 - ALIKE, "distance"), dtype=np.int64)
    return [int(i) for i in hierarchy.leaves_list(tree)], labels
