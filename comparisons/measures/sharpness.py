"""The sharpness measures as rows of the registry: searches and draws around the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from comparisons.evidence import Evidence, Tally, gauss_newton_density, prior_width
from comparisons.flatness import EVERY_INVARIANCE, Measure, Reading, reading_of
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.sharpness_result import Sharpness
    from spectra.landscape import Landscape

SUBSPACE = 100
# A budget of gradients is spent on this many starts at least, and draws, and steps.
LEAST = 2
_PERMUTED = frozenset({"permutation"})


def _measured(
    name: str, function: Callable[..., Sharpness], options: Callable[[int | None], dict[str, int]], evidence: Evidence
) -> Reading:
    """One search or set of draws as evidence; ``options`` says what a budget of gradients leaves of it."""

    def build(tally: Tally) -> Sharpness:
        found = function(evidence.landscape, seed=evidence.settings.seed, **options(evidence.settings.budget))
        tally.evaluations += found.cost_evaluations
        tally.gradients += found.gradient_evaluations
        tally.products += found.products
        return found

    return _reading(evidence.item(name, build))


def _reading(found: Sharpness) -> Reading:
    details = {f"sample {place}": float(one) for place, one in enumerate(found.samples)} if _few(found) else {}
    samples = len(found.samples) if found.standard_error > 0.0 else 0
    return Reading(found.value, found.standard_error, found.cautions, details, found.search_error, samples)


def _few(found: Sharpness) -> bool:
    return 1 < len(found.samples) <= 10


def _searches(budget: int | None) -> dict[str, int]:
    # A search takes some 11 costs with their gradients.
    return {} if budget is None else {"starts": max(LEAST, min(5, budget // 15))}


def _climbs(budget: int | None) -> dict[str, int]:
    return {} if budget is None else {"steps": max(LEAST, min(20, budget // 3))}


def _draws(budget: int | None) -> dict[str, int]:
    return {} if budget is None else {"pairs": max(LEAST, 3 * budget // 2)}


def _noises(budget: int | None) -> dict[str, int]:
    # Fifteen bisections of each repeat at worst.
    return {} if budget is None else {"draws": max(LEAST, min(10, 3 * budget // 45))}


def _batches(budget: int | None) -> dict[str, int]:
    del budget  # one step on each batch: two gradients over the data in all
    return {}


def _forms(budget: int | None) -> dict[str, int]:
    return {} if budget is None else {"probes": max(LEAST, min(100, budget // 2))}


def _search(name: str, **settings: Any) -> Callable[..., Sharpness]:
    """A function of ``comparisons.searches`` with some of its settings, loaded when it is run."""

    def run(landscape: Landscape, **others: Any) -> Sharpness:
        import comparisons.searches as searches

        found: Sharpness = getattr(searches, name)(landscape, **settings, **others)
        return found

    run.__name__ = name
    return run


def _in_subspace(landscape: Landscape, *, seed: int, starts: int = 5) -> Sharpness:
    from comparisons.searches import keskar_sharpness

    dimension = min(SUBSPACE, landscape.size)
    return keskar_sharpness(landscape, subspace=dimension, starts=starts, seed=seed)


def _last_layer(landscape: Landscape, *, seed: int, probes: int = 100) -> Sharpness:
    from comparisons.searches import relative_flatness

    shapes = zip(landscape.parameters.names, landscape.parameters.shapes, strict=True)
    matrices = [name for name, shape in shapes if len(shape) == 2]
    if not matrices:
        raise UserError("there is no layer with a weight of two dimensions")
    return relative_flatness(landscape, matrices[-1], probes=probes, seed=seed)


def window_entropy(evidence: Evidence) -> Reading:
    """Local entropy of the Gauss-Newton quadratic, its cost summed over samples, in a window of stiffness k / s^2.

    The integral over the window alone and the cost at the checkpoint are left out.
    """
    from comparisons.searches import local_entropy

    landscape = evidence.landscape
    stiffness = evidence.settings.k / prior_width(evidence) ** 2
    found = local_entropy(gauss_newton_density(evidence), stiffness=stiffness, inverse_temperature=landscape.samples)
    window = local_entropy_window(landscape.size, stiffness)
    return reading_of(found.transform(lambda x: x - window, lambda _: 1.0))


def local_entropy_window(size: int, stiffness: float) -> float:
    """``n/2 log(2 pi / g)``, the local entropy of a cost that is zero.

    >>> round(local_entropy_window(2, 1.0), 4)
    1.8379
    """
    return 0.5 * size * math.log(2.0 * math.pi / stiffness)


_Row = tuple[str, str, str, str, frozenset[str], Callable[..., "Sharpness"], Callable[[int | None], dict[str, int]]]
_ROWS: tuple[_Row, ...] = (
    ("keskar", "Keskar, full space", "%", "Keskar et al. 2017", _PERMUTED, _search("keskar_sharpness"), _searches),
    (
        "keskar-subspace",
        f"Keskar, subspace of {SUBSPACE}",
        "%",
        "Keskar et al. 2017",
        frozenset(),
        _in_subspace,
        _searches,
    ),
    (
        "sam",
        "SAM, one step, 0.05",
        "cost",
        "Foret et al. 2021",
        _PERMUTED,
        _search("worst_case", radius=0.05, scaling="plain", steps=1, starts=1),
        lambda _: {},
    ),
    (
        "asam",
        "ASAM, one step, 0.5",
        "cost",
        "Kwon et al. 2021",
        _PERMUTED,
        _search("worst_case", radius=0.5, scaling="asam", steps=1, starts=1),
        lambda _: {},
    ),
    ("worst-case", "worst case, radius 0.05", "cost", "Foret et al. 2021", _PERMUTED, _search("worst_case"), _climbs),
    (
        "adaptive-worst-case",
        "worst case, 0.5 of the weights",
        "cost",
        "Kwon et al. 2021",
        EVERY_INVARIANCE,
        _search("worst_case", radius=0.5, scaling="adaptive"),
        _climbs,
    ),
    ("m-sharpness", "m-sharpness, m = 128", "cost", "Foret et al. 2021", _PERMUTED, _search("m_sharpness"), _batches),
    ("average-case", "average case, 0.01", "cost", "Neyshabur et al. 2017", _PERMUTED, _search("average_case"), _draws),
    (
        "adaptive-average-case",
        "average case, 0.05 of the weights",
        "cost",
        "Andriushchenko et al. 2023",
        EVERY_INVARIANCE,
        _search("average_case", deviation=0.05, scaling="adaptive"),
        _draws,
    ),
    (
        "pac-bayes",
        "PAC-Bayes 1/σ²",
        "1 / parameter²",
        "Jiang et al. 2020",
        _PERMUTED,
        _search("pac_bayes_sharpness"),
        _noises,
    ),
    (
        "pac-bayes-magnitude",
        "PAC-Bayes 1/σ², of the weights",
        "1",
        "Jiang et al. 2020",
        EVERY_INVARIANCE,
        _search("pac_bayes_sharpness", scaling="adaptive"),
        _noises,
    ),
    (
        "relative-flatness",
        "relative flatness, last layer",
        "cost",
        "Petzka et al. 2021",
        EVERY_INVARIANCE,
        _last_layer,
        _forms,
    ),
)

MEASURES = tuple(
    Measure(name, title, "sharpness", unit, source, "smaller", kept, ("gradients",), partial(_measured, name, run, cut))
    for name, title, unit, source, kept, run, cut in _ROWS
) + (
    Measure(
        "local-entropy",
        "local entropy of the quadratic",
        "sharpness",
        "nat",
        "Chaudhari et al. 2017",
        "larger",
        frozenset({"permutation", "parameter-scale"}),
        ("likelihood",),
        window_entropy,
        extensive=True,
    ),
)
