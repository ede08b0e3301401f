"""How much there is to measure: what the work of a measure depends on, known before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from comparisons.evidence.compute_cost import GRADIENTS_PER_PRODUCT
from comparisons.evidence.evidence import Evidence
from comparisons.evidence.settings import EvidenceSettings
from comparisons.evidence.spectra import BLOCK, spectrum_settings

OPERATORS = ("hessian", "gauss-newton")


@dataclass(frozen=True)
class Extent:
    """What the work of measures depends on; by default that of the digits network.

    Attributes:
        size: number of parameters n.
        rows: rows of the training data.
        settings: what decides the numbers.
        products: curvature products that the spectrum of each of ``OPERATORS`` is going to take, 0 where it is stored.
        stored: methods of volumes that are stored.
    """

    size: int = 4810
    rows: int = 1024
    settings: EvidenceSettings = field(default_factory=EvidenceSettings)
    products: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(OPERATORS, 360.0))
    stored: frozenset[str] = frozenset()

    def spectrum(self, operator: str) -> dict[str, float]:
        """Gradients of a spectrum as an item of evidence."""
        products = self.products[operator]
        return {f"{operator}-spectrum": GRADIENTS_PER_PRODUCT * products + 1.0 if products else 0.0}

    @property
    def layer_probes(self) -> int:
        """Probes of the layers' traces, where no number was given."""
        budget = self.settings.budget
        return self.settings.probes * BLOCK if budget is None else max(2, budget // 2)


def extent_of(evidence: Evidence) -> Extent:
    """The extent of the task at a checkpoint; what its files hold already is not counted."""
    from spectra.plan import make_operator, plan_route

    landscape = evidence.landscape
    products = {}
    for operator in OPERATORS:
        if operator in evidence.stored_spectra or (operator == "gauss-newton" and landscape.likelihood is None):
            products[operator] = 0.0
            continue
        settings = spectrum_settings(evidence, operator)
        products[operator] = float(plan_route(make_operator(landscape, settings), settings).products)
    # Data that is read anew at each pass is not read for its count.
    kept = landscape.batches.kept
    rows = sum(batch.rows for batch in landscape.batches) if kept else math.ceil(landscape.samples)
    stored = {} if evidence.stored_study is None else evidence.stored_study.results
    volumes = frozenset(name for name, one in stored.items() if not one.failure)
    return Extent(landscape.size, max(1, rows), evidence.settings, products, volumes)
