"""The preconditioner of a study by its name, and its eps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from spectra.checkpoint import AdamMoments
from spectra.errors import UserError
from spectra.lanczos import Eigenpairs, top_eigenpairs
from spectra.landscape import Landscape
from spectra.members import member
from spectra.operators import SymmetricOperator
from spectra.spectrum import SpectrumSettings
from volume.chunks import at_once
from volume.preconditioners import (
    EXPONENT,
    Material,
    Preconditioner,
    PreconditionerRow,
)
from volume.priors import Prior
from volume.rays import StarDomainSettings, search_eps

# On the digits network 40, 100, 200 and 400 pairs give -3173, -2872, -2724 and -2698 nats (200 directions each).
PAIRS = 200
FEWEST_PAIRS = 4
# Bytes that the search for them may hold, of 2 vectors a pair and 12 a vector of its block.
PAIRS_BYTES = 2 * 10**9
BLOCK = 4
# Directions that each eps is tried on; as many of a large model as are held at once, but at least FEWEST.
EPS_DIRECTIONS, FEWEST_EPS_DIRECTIONS = 32, 4
ROOM = "volume.preconditioners"


def check_preconditioner(name: str, landscape: Landscape) -> None:
    """Refuses by a UserError, before any work, a preconditioner that the landscape does not allow."""
    member(ROOM, name, PreconditionerRow).check(landscape)


def choose_preconditioner(
    name: str,
    eps: float | None,
    landscape: Landscape,
    settings: StarDomainSettings,
    *,
    operator: Callable[[], SymmetricOperator],
    moments: AdamMoments | None = None,
    prior: Prior | None = None,
    exponent: float = EXPONENT,
    memory: int = SpectrumSettings.memory,
) -> tuple[Preconditioner, float]:
    """The preconditioner of that name, its eps searched on directions of its own if none is given.

    Args:
        name: one of ``volume.study.PRECONDITIONERS``.
        eps: the eps; None searches it. Of low-rank it is the shift over the largest eigenvalue.
        landscape: the cost.
        settings: of the sampler.
        operator: gives the curvature, if it is needed.
        moments: Adam's, if the name wants them.
        prior: the measure that the search maximises.
        exponent: of the curvature.
        memory: bytes that the search for eigenpairs may hold.

    Returns:
        The preconditioner and its eps, nan if it has none.

    Raises:
        UserError: if Adam's moments are wanted and missing, the curvature is zero or not finite, the model is too
            large for ``full``, or for ``low-rank`` in the memory, or is none that ``hesscale`` knows.
    """
    row = member(ROOM, name, PreconditionerRow)
    seed = settings.seed

    def leading() -> Eigenpairs:
        count, block = pair_count(landscape.size, operator().dtype, memory)
        return top_eigenpairs(operator(), count, block=block, seed=seed)

    build = row.build(Material(landscape.size, operator, leading, landscape, moments, seed), exponent)
    if not row.tuned:
        return build(math.nan), math.nan
    if eps is not None:
        return build(eps), eps
    tried = max(FEWEST_EPS_DIRECTIONS, at_once(landscape.size, EPS_DIRECTIONS))
    found = search_eps(landscape, build, settings, prior=prior, directions=tried)
    return build(found), found


def pair_count(size: int, dtype: torch.dtype, memory: int = SpectrumSettings.memory) -> tuple[int, int]:
    """Eigenpairs of the low-rank preconditioner, by size and memory, and vectors a step of the search for them.

    Args:
        size: number of parameters n.
        dtype: of the vectors.
        memory: bytes that the search may hold.

    Returns:
        Their number: 200, fewer for models of fewer than 800 or more than a million parameters; and the block.

    Raises:
        UserError: if not even four pairs fit the memory.

    >>> pair_count(4810, torch.float32), pair_count(40, torch.float32), pair_count(31_000_000, torch.float32)
    ((200, 4), (10, 4), (4, 1))
    """
    one = size * dtype.itemsize
    fitting = (min(PAIRS_BYTES, memory) // one - 12 * BLOCK) // 2
    if fitting >= FEWEST_PAIRS:
        return max(1, min(PAIRS, size // 4, fitting)), BLOCK
    need = (2 * FEWEST_PAIRS + 12) * one
    if need > memory:
        raise UserError(
            f"the preconditioner low-rank holds {need / 1e9:.3g} GB for {size:,} parameters, past the memory of "
            f"{memory / 1e9:.3g} GB; use identity, or more memory"
        )
    return max(1, min(FEWEST_PAIRS, size // 4)), 1
