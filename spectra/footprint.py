"""Memory that a spectrum takes above the loaded model, predicted before it is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spectra.lanczos import basis_bytes
from spectra.operators import GRAPH, RECORDING, TANGENT, GraphMemory
from spectra.plan import KRYLOV_BLOCK, KRYLOV_EXTRA, Plan
from spectra.spectrum import SpectrumSettings

# Parameter vectors, measured (docs/scale.md): theta, its gradients and a product of one vector, what checks it against
# finite differences included; and for each probe of a block start, product, present and last vector.
PRODUCT_VECTORS = 7
PROBE_VECTORS = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run holds at once.

    Attributes:
        vector: a parameter vector.
        vectors: how many are held beside bases and graphs.
        basis: bases of the Lanczos runs and the deflated space.
        graphs: what is differentiated.
        kept: whether all batches' graphs are held at once, else one.
        recorded: whether a product may be recorded on the way.
    """

    vector: int
    vectors: int
    basis: int
    graphs: GraphMemory
    kept: bool
    recorded: bool

    @property
    def graph_bytes(self) -> int:
        """Of the graphs that are held at once."""
        return self.graphs.all() if self.kept else self.graphs.graph()

    @property
    def working_bytes(self) -> int:
        """What a product works with beside its graph, or what recording it does."""
        return (RECORDING - GRAPH if self.recorded else TANGENT) * self.graphs.saved

    @property
    def total(self) -> int:
        """All of it."""
        return self.vector * self.vectors + self.basis + self.graph_bytes + self.working_bytes


def footprint(graphs: GraphMemory, plan: Plan, settings: SpectrumSettings, size: int, dtype: torch.dtype) -> Footprint:
    """What a plan of the ``slq`` route will hold.

    Args:
        graphs: memory of the operator's graphs.
        plan: how the spectrum will be computed.
        settings: what was asked for.
        size: number of parameters n.
        dtype: dtype of the vectors.

    Returns:
        The footprint.

    >>> graphs = GraphMemory(saved=0, vector=400, batches=1, repeatable=True)
    >>> plan = Plan("slq", 0, "none", 128, ())
    >>> footprint(graphs, plan, SpectrumSettings(block=2), 100, torch.float32).vectors
    15
    """
    block = min(settings.block, settings.probes)
    basis = basis_bytes(size, block, min(settings.steps, size), dtype) if plan.reorthogonalise == "full" else 0
    if plan.depth:
        # The space's basis, and the two copies that projecting makes.
        basis += 3 * basis_bytes(size, KRYLOV_BLOCK, plan.depth + KRYLOV_EXTRA, dtype)
    vectors = PRODUCT_VECTORS + PROBE_VECTORS * block
    recorded = settings.strategy in ("auto", "recorded", "recorded-batched") and graphs.recordable(settings.memory)
    return Footprint(graphs.vector, vectors, basis, graphs, graphs.kept(settings.memory), recorded)
