"""Measures that sum over all directions of parameter space, so that networks of different sizes do not compare."""

from __future__ import annotations

from comparisons.comparison import Comparison
from comparisons.measures import REGISTRY

EXTENSIVE = frozenset(measure.name for measure in REGISTRY if measure.extensive)


def incomparable(comparison: Comparison) -> frozenset[str]:
    """The comparison's measures whose values at its checkpoints do not compare: volumes in different dimensions.

    Args:
        comparison: comparison of some checkpoints.

    Returns:
        Names of measures; none where all checkpoints have as many parameters.

    >>> from comparisons.comparison import Examined
    >>> from comparisons.evidence import EvidenceSettings
    >>> from spectra.files import Provenance
    >>> both = tuple(Examined(Provenance(f"{size}.pt", ""), size=size) for size in (10, 20))
    >>> incomparable(Comparison(EvidenceSettings(), ("star-domain", "margin"), both))
    frozenset({'star-domain'})
    >>> incomparable(Comparison(EvidenceSettings(), ("star-domain", "margin"), both[:1]))
    frozenset()
    """
    many = len({one.size for one in comparison.done}) > 1
    return EXTENSIVE & frozenset(comparison.measures) if many else frozenset()
