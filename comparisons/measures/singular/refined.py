"""Refined learning coefficients: of a part of the parameters, or on a part of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comparisons.evidence import Evidence, Extent, Tally, hessian_density, spectrum_settings
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures import SAMPLED, TEMPERATURE, chain_settings, chain_work
from comparisons.options import Option
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from comparisons.langevin import LocalLearningCoefficient
    from spectra.landscape import Landscape

PARTS = ("layer", "head", "class")
# How many layers a network is expected to have before that is known.
LIKELY_PARTS = 4


def refined_coefficient(evidence: Evidence, *, by: str = PARTS[0], **asked: Any) -> Reading:
    """The largest refined coefficient, that of each part in the details.

    By layer or by head the others' parameters stay as they are; by class the cost is that of the samples of one class,
    at the temperature of all of the data, and its chains are set from a spectrum of that cost.

    Args:
        evidence: evidence of a checkpoint.
        by: ``layer``, ``head`` or ``class``.
        **asked: options of the chains.

    Returns:
        The reading; cautions of parts say of which.

    Raises:
        UserError: if there are no such parts, or no part has a value.

    Reference:
        Wang et al., Differentiation and specialization of attention heads via the refined local learning coefficient,
        2024.
    """
    from comparisons.measures.singular.heads import head_positions

    parts = {"layer": layer_positions, "head": head_positions}
    if by == "class":
        found = {f"class {name}": _on(evidence, rows, asked) for name, rows in class_rows(evidence.landscape).items()}
    else:
        found = {name: _of(evidence, name, place, asked) for name, place in parts[by](evidence.landscape).items()}
    known = {name: one for name, one in found.items() if math.isfinite(one.estimate.value)}
    if not known:
        raise UserError("; ".join(dict.fromkeys(text for one in found.values() for text in one.cautions)))
    largest = max(known.values(), key=lambda one: one.estimate.value).estimate
    cautions = tuple(f"{name}: {text}" for name, one in found.items() for text in one.cautions)
    details = {name: one.estimate.value for name, one in found.items()}
    details |= {f"{name}, error": one.estimate.standard_error for name, one in known.items()}
    chains = next(iter(known.values())).chains
    details |= {"inverse temperature": chains.inverse_temperature, "localisation": chains.localisation}
    return reading_of(replace(largest, cautions=cautions), details=details)


def layer_positions(landscape: Landscape) -> dict[str, Tensor]:
    """Positions in theta of each layer's parameters."""
    layout = landscape.parameters
    return {layer: layout.positions(names) for layer, names in layout.layers().items()}


def class_rows(landscape: Landscape) -> dict[int, Tensor]:
    """Rows of the data of each class.

    Raises:
        UserError: if the cost is no cross-entropy of one class a row.
    """
    import torch

    from comparisons.evidence import all_rows, has_classes

    targets = all_rows(landscape.whole.taken()).targets
    if not has_classes(landscape) or targets.dim() != 1:
        raise UserError("by=class needs a cross-entropy with one class a row; choose by=layer")
    return {int(one): torch.nonzero(targets == one).flatten() for one in torch.unique(targets) if one >= 0}


def landscape_of_rows(landscape: Landscape, rows: Tensor) -> Landscape:
    """The same cost on some rows of the data alone, around the same anchor."""
    from comparisons.evidence import all_rows

    return landscape.derived([all_rows(landscape.whole.taken()).cut(rows)], l2=landscape.l2)


def _of(evidence: Evidence, name: str, places: Tensor, asked: Mapping[str, Any]) -> LocalLearningCoefficient:
    from comparisons.langevin import local_learning_coefficient

    settings = chain_settings(evidence, **asked)

    def build(tally: Tally) -> LocalLearningCoefficient:
        density = hessian_density(evidence)
        found = local_learning_coefficient(evidence.landscape, settings, density=density, positions=places)
        tally.gradients += found.chains.gradient_evaluations
        return found

    return evidence.item(f"chains of {name} {settings}", build)


def _on(evidence: Evidence, rows: Tensor, asked: Mapping[str, Any]) -> LocalLearningCoefficient:
    from comparisons.langevin import local_learning_coefficient, row_count
    from spectra.compute import compute_spectrum

    settings = chain_settings(evidence, **asked)

    def build(tally: Tally) -> LocalLearningCoefficient:
        part = landscape_of_rows(evidence.landscape, rows)
        share = len(rows) / row_count(evidence.landscape)
        spectrum = compute_spectrum(part, spectrum_settings(evidence, "hessian"))
        tally.products += int(math.ceil(share * spectrum.products))
        own = replace(settings, batch_size=None if settings.batch_size is None else min(settings.batch_size, len(rows)))
        found = local_learning_coefficient(part, own, density=spectrum.density)
        tally.gradients += share * found.chains.gradient_evaluations
        return found

    return evidence.item(f"chains on {rows.tolist()} {settings}", build)


def _expected(extent: Extent, asked: Mapping[str, Any]) -> dict[str, float]:
    named = {name: value for name, value in asked.items() if name != "by"}
    return {**extent.spectrum("hessian"), f"refined {asked}": LIKELY_PARTS * chain_work(extent, named)}


MEASURES = (
    Measure(
        "refined-coefficient",
        "largest refined learning coefficient",
        "learning-coefficient",
        "1",
        "Wang et al. 2024",
        "smaller",
        frozenset(),
        ("hessian", "drawn-rows"),
        refined_coefficient,
        options=(
            TEMPERATURE,
            *SAMPLED,
            Option(
                "by", PARTS[0], "parts: parameters of a layer or an attention head, or samples of a class", words=PARTS
            ),
        ),
        work=_expected,
    ),
)
