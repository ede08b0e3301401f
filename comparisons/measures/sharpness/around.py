"""The sharpness measures as rows of the registry: searches and draws around the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comparisons.evidence import (
    GRADIENTS_PER_EVALUATION,
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    gauss_newton_density,
    prior_width,
)
from comparisons.flatness import EVERY_INVARIANCE, Measure, Reading, reading_of
from comparisons.options import PRIOR, SHIFT, Option
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.sharpness_result import Sharpness
    from spectra.landscape import Landscape

SUBSPACE = 100
# A budget of gradients is spent on this many starts at least, and draws, and steps.
LEAST = 2
_PERMUTED = frozenset({"permutation"})
# A cost together with its gradient, in gradients.
_BOTH = 1.0 + GRADIENTS_PER_EVALUATION
# What the numbers are that a budget cuts, where neither it nor the user says.
_STARTS, _STEPS, _PAIRS, _DRAWS, _PROBES = 5, 20, 50, 10, 100


@dataclass(frozen=True)
class _Row:
    """A search, or a set of draws, around the checkpoint.

    Attributes:
        name: the measure's.
        title: the measure's.
        unit: the measure's.
        source: who proposed it.
        kept: changes of the parameters that it is invariant to.
        function: name of what searches in ``comparisons.searches``, or a function of this file.
        options: of the measure, each a setting of the function.
        gradients: what it is expected to take, from its settings.
        cut: options that nobody gave, from the budget in gradients.
        fixed: settings of the function that are no options.
        needs: of the measure.
    """

    name: str
    title: str
    unit: str
    source: str
    kept: frozenset[str]
    function: str | Callable[..., Sharpness]
    options: tuple[Option, ...]
    gradients: Callable[[Mapping[str, Any]], float]
    cut: Callable[[int | None], dict[str, int]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ("gradients",)

    def settings(self, budget: int | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a run: what was given goes before the budget's, and that before the defaults."""
        usual = {option.keyword: option.default for option in self.options if option.default is not None}
        chosen = {name: value for name, value in given.items() if value is not None}
        return {**self.fixed, **usual, **self.cut(budget), **chosen}

    def read(self, evidence: Evidence, **given: Any) -> Reading:
        """The search as evidence; what searches is loaded here."""

        def build(tally: Tally) -> Sharpness:
            import comparisons.searches as searches

            function = getattr(searches, self.function) if isinstance(self.function, str) else self.function
            settings = self.settings(evidence.settings.budget, given)
            found: Sharpness = function(evidence.landscape, seed=evidence.settings.seed, **settings)
            tally.evaluations += found.cost_evaluations
            tally.gradients += found.gradient_evaluations
            tally.products += found.products
            return found

        return _reading(evidence.item(self.name, build))

    def expected(self, extent: Extent, given: Mapping[str, Any]) -> dict[str, float]:
        """The gradients that it is expected to take."""
        return {self.name: self.gradients(self.settings(extent.settings.budget, given))}


def _reading(found: Sharpness) -> Reading:
    details = {f"sample {place}": float(one) for place, one in enumerate(found.samples)} if _few(found) else {}
    samples = len(found.samples) if found.standard_error > 0.0 else 0
    return Reading(found.value, found.standard_error, found.cautions, details, found.search_error, samples)


def _few(found: Sharpness) -> bool:
    return 1 < len(found.samples) <= 10


def _searches(budget: int | None) -> dict[str, int]:
    # A search takes some 11 costs with their gradients.
    return {"starts": _STARTS if budget is None else max(LEAST, min(_STARTS, budget // 15))}


def _climbs(budget: int | None) -> dict[str, int]:
    return {"steps": _STEPS if budget is None else max(LEAST, min(_STEPS, budget // 3))}


def _draws(budget: int | None) -> dict[str, int]:
    return {"pairs": _PAIRS if budget is None else max(LEAST, 3 * budget // 2)}


def _noises(budget: int | None) -> dict[str, int]:
    # Fifteen bisections of each repeat at worst.
    return {"draws": _DRAWS if budget is None else max(LEAST, min(_DRAWS, 3 * budget // 45))}


def _forms(budget: int | None) -> dict[str, int]:
    return {"probes": _PROBES if budget is None else max(LEAST, min(_PROBES, budget // 2))}


def _fixed(budget: int | None) -> dict[str, int]:
    del budget  # a step or two, and on each batch alike: no budget is below that
    return {}


def _box(settings: Mapping[str, Any]) -> float:
    # Beside the searches some twenty points on the way from corner to corner.
    return float(_BOTH * (1.1 * settings["starts"] * settings["iterations"] + 20.0))


def _ball(settings: Mapping[str, Any]) -> float:
    return float(_BOTH * settings.get("steps", 1) * settings.get("starts", 1))


def _parts(settings: Mapping[str, Any]) -> float:
    # One step from the checkpoint; more of them from a random point too.
    return float(_BOTH * settings["steps"] * (1 if settings["steps"] == 1 else 2))


def _noise(settings: Mapping[str, Any]) -> float:
    # Some six bisections of each repeat.
    return float(GRADIENTS_PER_EVALUATION * 6.0 * settings["draws"] * settings["repeats"])


def _pairs(settings: Mapping[str, Any]) -> float:
    return float(2.0 * GRADIENTS_PER_EVALUATION * settings["pairs"])


def _products(settings: Mapping[str, Any]) -> float:
    return float(GRADIENTS_PER_PRODUCT * settings["probes"])


def _in_subspace(landscape: Landscape, *, dimension: int, **settings: Any) -> Sharpness:
    from comparisons.searches import keskar_sharpness

    return keskar_sharpness(landscape, subspace=min(dimension, landscape.size), **settings)


def _of_a_layer(landscape: Landscape, *, layer: str | None = None, **settings: Any) -> Sharpness:
    from comparisons.searches import relative_flatness

    shapes = zip(landscape.parameters.names, landscape.parameters.shapes, strict=True)
    matrices = [name for name, shape in shapes if len(shape) == 2]
    if not matrices:
        raise UserError("there is no layer with a weight of two dimensions")
    return relative_flatness(landscape, layer or matrices[-1], **settings)


def window_entropy(evidence: Evidence, *, k: float | None = None, prior: float | None = None) -> Reading:
    """Local entropy of the Gauss-Newton quadratic, its cost summed over samples, in a window of stiffness k / s^2.

    The integral over the window alone and the cost at the checkpoint are left out.
    """
    from comparisons.searches import local_entropy

    landscape = evidence.landscape
    stiffness = (k or evidence.settings.k) / (prior or prior_width(evidence)) ** 2
    found = local_entropy(gauss_newton_density(evidence), stiffness=stiffness, inverse_temperature=landscape.samples)
    window = local_entropy_window(landscape.size, stiffness)
    return reading_of(found.transform(lambda x: x - window, lambda _: 1.0))


def local_entropy_window(size: int, stiffness: float) -> float:
    """``n/2 log(2 pi / g)``, the local entropy of a cost that is zero.

    >>> round(local_entropy_window(2, 1.0), 4)
    1.8379
    """
    return 0.5 * size * math.log(2.0 * math.pi / stiffness)


def _radius(default: float, what: str) -> Option:
    return Option("radius", default, f"rho, the radius of the ball, {what}", above=0.0)


_EPSILON = Option("epsilon", 1e-3, "half width of the box, as a share of |parameter| + 1", above=0.0)
_ITERATIONS = Option("iterations", 10, "iterations of L-BFGS-B from each start", least=1)
_BY_BUDGET = ", or what --budget leaves"
_SEARCHES = Option("starts", None, "searches, the first from the checkpoint", int, f"{_STARTS}{_BY_BUDGET}", least=1)
_ASCENT = (
    Option("steps", None, "gradients from each start", int, f"{_STEPS}{_BY_BUDGET}", least=1),
    Option("starts", 2, "starts, the first from the checkpoint", least=1),
)
_PAIRED = Option("pairs", None, "pairs of draws", int, f"{_PAIRS}{_BY_BUDGET}", least=1)
_NOISES = (
    Option("drop", 0.1, "accuracy that the noise costs", above=0.0, most=1.0),
    Option("draws", None, "draws of the noise for each accuracy", int, f"{_DRAWS}{_BY_BUDGET}", least=1),
    Option("repeats", 3, "searches, for the error", least=1),
)
_OF_PARAMETERS, _OF_WEIGHTS = "unit of the parameters", "as a share of the weights"


_ROWS = (
    _Row(
        "keskar",
        "Keskar, full space",
        "%",
        "Keskar et al. 2017",
        _PERMUTED,
        "keskar_sharpness",
        (_EPSILON, _ITERATIONS, _SEARCHES),
        _box,
        _searches,
    ),
    _Row(
        "keskar-subspace",
        "Keskar, random subspace",
        "%",
        "Keskar et al. 2017",
        frozenset(),
        _in_subspace,
        (_EPSILON, _ITERATIONS, _SEARCHES, Option("dimension", SUBSPACE, "of the subspace, at most all", least=1)),
        _box,
        _searches,
    ),
    _Row(
        "sam",
        "SAM, one step",
        "cost",
        "Foret et al. 2021",
        _PERMUTED,
        "worst_case",
        (_radius(0.05, _OF_PARAMETERS),),
        _ball,
        _fixed,
        {"scaling": "plain", "steps": 1, "starts": 1},
    ),
    _Row(
        "asam",
        "ASAM, one step",
        "cost",
        "Kwon et al. 2021",
        _PERMUTED,
        "worst_case",
        (_radius(0.5, _OF_WEIGHTS),),
        _ball,
        _fixed,
        {"scaling": "asam", "steps": 1, "starts": 1},
    ),
    _Row(
        "worst-case",
        "worst case in a ball",
        "cost",
        "Foret et al. 2021",
        _PERMUTED,
        "worst_case",
        (_radius(0.05, _OF_PARAMETERS), *_ASCENT),
        _ball,
        _climbs,
    ),
    _Row(
        "adaptive-worst-case",
        "worst case, relative to weights",
        "cost",
        "Kwon et al. 2021",
        EVERY_INVARIANCE,
        "worst_case",
        (_radius(0.5, _OF_WEIGHTS), *_ASCENT),
        _ball,
        _climbs,
        {"scaling": "adaptive"},
    ),
    _Row(
        "m-sharpness",
        "m-sharpness",
        "cost",
        "Foret et al. 2021",
        _PERMUTED,
        "m_sharpness",
        (
            Option("size", 128, "m, samples of a batch", least=1),
            _radius(0.05, _OF_PARAMETERS),
            Option("steps", 1, "gradients from each start", least=1),
        ),
        _parts,
        _fixed,
        needs=("gradients", "drawn-rows"),
    ),
    _Row(
        "average-case",
        "average case",
        "cost",
        "Neyshabur et al. 2017",
        _PERMUTED,
        "average_case",
        (Option("deviation", 0.01, f"standard deviation of the noise, {_OF_PARAMETERS}", above=0.0), _PAIRED),
        _pairs,
        _draws,
    ),
    _Row(
        "adaptive-average-case",
        "average case, relative to weights",
        "cost",
        "Andriushchenko et al. 2023",
        EVERY_INVARIANCE,
        "average_case",
        (Option("deviation", 0.05, f"standard deviation of the noise, {_OF_WEIGHTS}", above=0.0), _PAIRED),
        _pairs,
        _draws,
        {"scaling": "adaptive"},
    ),
    _Row(
        "pac-bayes",
        "PAC-Bayes 1/σ²",
        "1 / parameter²",
        "Jiang et al. 2020",
        _PERMUTED,
        "pac_bayes_sharpness",
        _NOISES,
        _noise,
        _noises,
        needs=("gradients", "classes"),
    ),
    _Row(
        "pac-bayes-magnitude",
        "PAC-Bayes 1/σ², of the weights",
        "1",
        "Jiang et al. 2020",
        EVERY_INVARIANCE,
        "pac_bayes_sharpness",
        _NOISES,
        _noise,
        _noises,
        {"scaling": "adaptive"},
        needs=("gradients", "classes"),
    ),
    _Row(
        "relative-flatness",
        "relative flatness of a layer",
        "cost",
        "Petzka et al. 2021",
        EVERY_INVARIANCE,
        _of_a_layer,
        (
            Option("layer", None, "name of the layer, as the model has it", str, "the last with a matrix"),
            Option("probes", None, "number of probes", int, f"{_PROBES}{_BY_BUDGET}", least=1),
        ),
        _products,
        _forms,
        needs=("gradients", "layer"),
    ),
)

MEASURES = tuple(
    Measure(
        row.name,
        row.title,
        "sharpness",
        row.unit,
        row.source,
        "smaller",
        row.kept,
        row.needs,
        row.read,
        options=row.options,
        work=row.expected,
    )
    for row in _ROWS
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
        options=(SHIFT, PRIOR),
        work=lambda extent, _: extent.spectrum("gauss-newton"),
    ),
)
