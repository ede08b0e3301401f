"""Chains whose steps are preconditioned: the factors of each direction, and the spectrum in their metric."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comparisons.calibration.ensemble import Ensemble, Members
from comparisons.calibration.outlook import Metric, Outlook
from comparisons.calibration.settings import SweepSettings
from comparisons.langevin import AVERAGED, SHARE_OF_LIMIT, ChainSettings, row_count
from spectra.lanczos import basis_bytes, lanczos, probes_of
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from volume.prior_units import ScaledOperator

Array = NDArray[np.float64]
# Chains whose gradients are averaged, and of those of usual settings the decay and the floor.
PILOTS, _USUAL = 2, ChainSettings()
# Probes and their Lanczos steps: ``1 / (1 - x)`` at shares x of the limit up to a half is known to 1e-8 after so few.
# Up to as many parameters all unit vectors are probes, and so the trace has no error.
_PROBES, _STEPS = 16, 6
# Lanczos runs that find the ends of the spectrum, and their steps.
_END_PROBES, _END_STEPS = 2, 32


def factors_of(
    landscape: Landscape, settings: SweepSettings, warm: Array, pull: Array, outlook: Outlook, at_once: int
) -> Tensor:
    """F of each place (t * l, n): ``1 / (sqrt(v) + floor)`` over its largest, v a mean square of gradients.

    The gradients are those of the minibatches of short plain chains at that place, over the last of as many steps as
    the running means of ``ChainSettings`` remember.

    Args:
        landscape: the cost that is sampled.
        settings: settings of the sweep.
        warm: (t,) inverse temperatures.
        pull: (l,) localisations.
        outlook: what the spectrum says of plain chains.
        at_once: chains that are run together.

    Returns:
        The factors, the localisations of one temperature after those of another; the same whenever they are made.
    """
    limits = [zip(pull.tolist(), outlook.limits(nb, pull).tolist(), strict=True) for nb in warm.tolist()]
    cells = [(nb, g, SHARE_OF_LIMIT * e) for nb, each in zip(warm.tolist(), limits, strict=True) for g, e in each]
    size = settings.batch_size
    full = size is None or size >= row_count(landscape)
    members = Members(PILOTS, pilot_steps(), settings.seed, "sgld", 0, stream="llc-pilot")
    squares = []
    for first in range(0, len(cells), max(1, at_once // PILOTS)):
        some = cells[first : first + max(1, at_once // PILOTS)]
        pilots = Ensemble(landscape, members, some, None if full else size)
        pilots.advance(members.steps - _USUAL.memory)
        squares.append(pilots.mean_squares(_USUAL.memory))
    found = torch.cat(squares).sqrt_().add_(_USUAL.floor).reciprocal_()
    return found.div_(found.amax(1, keepdim=True))


def pilot_steps() -> int:
    """Steps of the chains whose gradients make the factors."""
    return AVERAGED * _USUAL.memory


def metric_products(size: int, settings: SweepSettings) -> int:
    """Products with the Hessian that the metric of one temperature and localisation takes."""
    ends = _END_PROBES * min(_END_STEPS, settings.lanczos_steps, size)
    return 2 * min(size, _PROBES) * min(_STEPS, size) + ends


def metric_of(
    operator: SymmetricOperator,
    factors: Tensor,
    warm: Array,
    pull: Array,
    settings: SweepSettings,
    *,
    penalty: float = 0.0,
    memory: float = math.inf,
    progress: Callable[[int, int, str], None] | None = None,
) -> Metric:
    """The spectrum in the metric of some factors at each temperature and localisation.

    Args:
        operator: H, the Hessian of the task's cost.
        factors: (t * l, n) F, the localisations of one temperature after those of another.
        warm: (t,) inverse temperatures.
        pull: (l,) localisations.
        settings: settings of the sweep.
        penalty: l2 of the sampled cost less that of the task's.
        memory: bytes that a Lanczos basis may take; past them there is none.
        progress: called after each place with the products done, all of them, and what is being done.
    """
    found: list[tuple[Array, ...]] = []
    products = metric_products(operator.size, settings)
    for (nb, g), each in zip(((nb, g) for nb in warm.tolist() for g in pull.tolist()), factors, strict=True):
        found.append(_place(operator, each.to(operator.dtype), nb, g, settings, penalty, memory))
        if progress is not None:
            progress(len(found) * products, len(factors) * products, "spectrum in the preconditioner's metric")
    nodes, masses, ends, range_ = (
        np.stack(part).reshape(len(warm), len(pull), *part[0].shape) for part in zip(*found, strict=True)
    )
    return Metric(warm, pull, nodes, masses, ends, range_, operator.size <= _PROBES)


def _place(
    operator: SymmetricOperator,
    factors: Tensor,
    nb: float,
    g: float,
    settings: SweepSettings,
    penalty: float,
    memory: float,
) -> tuple[Array, Array, Array, Array]:
    r"""Nodes and masses (probes, nodes), ends and range of factors of one place.

    ``nb F^(1/2) H F^(1/2) = M - g F``, and with probes z ``tr(M f(M)) = E z M f(M) z`` and ``tr(F f(M)) = E y f(M) y``,
    ``y = F^(1/2) z``: the same z for both, so that what F makes of z cancels but for terms of e^2.
    """
    size, root = operator.size, factors.sqrt()
    scaled = ScaledOperator(operator.shifted(penalty + g / nb), root)
    parts, count = [], min(size, _PROBES)
    each = 2 * basis_bytes(size, 1, min(_STEPS, size), operator.dtype)
    for first in range(0, count, at_once := max(1, int(min(count, memory / each)))):
        probes = _probes(operator, settings.seed, first, min(first + at_once, count))
        starts = torch.cat([probes, probes * root])
        nodes, weights = lanczos(scaled, starts, _STEPS).tridiagonal.quadrature()
        masses = starts.double().square().sum(1).cpu().numpy()[:, None] * weights
        many, nodes = len(probes), nb * nodes
        parts.append(
            (np.hstack(np.split(nodes, [many])), np.hstack([masses[:many] * nodes[:many], -g * masses[many:]]))
        )
    nodes, masses = (np.concatenate(part) for part in zip(*parts, strict=True))
    steps = min(_END_STEPS, settings.lanczos_steps, size)
    fits = basis_bytes(size, _END_PROBES, steps, operator.dtype) <= memory
    starts = probes_of(operator, _END_PROBES, seed=settings.seed, stream="llc-metric-ends")
    run = lanczos(scaled, starts, steps, reorthogonalise="full" if fits else "none").tridiagonal
    outer, (below, above) = run.quadrature()[0], run.end_residuals()
    low = float((outer[:, 0] - below).min())
    # An outer bound below zero only says that the lowest node is not sharp.
    ends = nb * np.array([low if low > 0.0 else outer[:, 0].min(), (outer[:, -1] + above).max()])
    return nodes, masses, ends, np.array([float(factors.min()), float(factors.mean())])


def _probes(operator: SymmetricOperator, seed: int, first: int, last: int) -> Tensor:
    """Probes of some numbers (k, n), of norm sqrt n: signs at random, or all unit vectors where these are as many."""
    size = operator.size
    if size <= _PROBES:
        return math.sqrt(size) * torch.eye(size, dtype=operator.dtype, device=operator.device)[first:last]
    return probes_of(operator, last - first, seed=seed, first=first, kind="rademacher", stream="llc-metric")
