"""Which way to a spectrum: exact where that costs no more, else sampling; and what that holds in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from spectra.density import dense_bytes, gram_bytes, gram_rows
from spectra.errors import UserError
from spectra.lanczos import basis_bytes
from spectra.landscape import Landscape
from spectra.members import member
from spectra.operators import (
    GRAPH,
    RECORDING,
    TANGENT,
    GraphMemory,
    JacobianSandwich,
    OperatorRow,
    SymmetricOperator,
)
from spectra.sharded import ShardedLandscape
from spectra.spectrum import SpectrumSettings

KRYLOV_BLOCK = 2
KRYLOV_EXTRA = 4
# A quarter of the probes' products goes to the Krylov space: near the best of the splits tried on the digits Hessian
# and Fisher for the trace and for log-determinants down to a thousandth of the largest eigenvalue
# (benchmarks/spectra_accuracy.py measures the one that is used).
KRYLOV_SHARE = 0.25
# Above this the eigendecomposition, of order rows^3, is dearer than the products.
EXACT_ROWS = 8192
# Parameter vectors, measured (docs/scale.md): theta, its gradients and a product of one vector, what checks it against
# finite differences included; and for each probe of a block start, product, present and last vector.
PRODUCT_VECTORS = 7
PROBE_VECTORS = 4
# Probes a pass where none are named. On the CPU 2, 4 and 8 take as long a probe, within 15 %: 2.5, 2.4 and 2.2 ms a
# product of the digits network, 63, 66 and 67 ms with 190,000 parameters, 334, 346 and 372 ms of a transformer of 2.5
# million, and a kill loses the fewest. Elsewhere a block also shares the start of each kernel.
PROBES_AT_ONCE, PROBES_AT_ONCE_ELSEWHERE = 2, 8
_PLAIN = "plain stochastic Lanczos quadrature"
_KRYLOV = "a Krylov space of dimension"


@dataclass(frozen=True)
class Plan:
    """How a spectrum will be computed.

    Attributes:
        route: ``dense``, ``gram``, ``slq`` or ``pyhessian``.
        depth: block steps of the Krylov space that is deflated; 0 for none.
        reorthogonalise: ``full`` or ``none``.
        products: operator-vector products it will take.
        notes: sentences on why.
    """

    route: str
    depth: int
    reorthogonalise: str
    products: int
    notes: tuple[str, ...]


def make_operator(landscape: Landscape | ShardedLandscape, settings: SpectrumSettings) -> SymmetricOperator:
    """The curvature that the settings name."""
    if isinstance(landscape, ShardedLandscape):
        return landscape.curvature(settings.operator, strategy=settings.strategy, memory=settings.memory)
    row = member("spectra.operators", settings.operator, OperatorRow)
    seed = {"seed": settings.seed} if row.drawn else {}
    return row.make(landscape, strategy=settings.strategy, memory=settings.memory, **seed)


def with_block(settings: SpectrumSettings, operator: SymmetricOperator, stored: int = 0) -> SpectrumSettings:
    """The settings with the probes a pass: as named, else those of a stored part, else chosen by the device."""
    chosen = stored or (PROBES_AT_ONCE if operator.device.type == "cpu" else PROBES_AT_ONCE_ELSEWHERE)
    return settings if settings.block else replace(settings, block=min(chosen, settings.probes))


def plan_route(operator: SymmetricOperator, settings: SpectrumSettings) -> Plan:
    """The route of a curvature of size n, with the reasons in words; what does not fit the memory is refused."""
    if operator.pieces is not None:
        if settings.engine not in ("auto", "slq"):
            raise UserError(f"of a sharded model the engine must be auto or slq, got {settings.engine}")
        return sampled_plan(operator, settings)
    if settings.engine == "pyhessian":
        steps = min(settings.steps, operator.size)
        return Plan("pyhessian", 0, "full", settings.probes * steps, ("computed through PyHessian's own Lanczos",))
    sampled = _yardstick(operator, settings) if settings.engine in ("auto", "slq") else None
    if settings.engine in ("auto", "gram"):
        gram = _gram_plan(operator, settings, sampled)
        if gram is not None:
            return gram
    if settings.engine == "dense" or (sampled is not None and settings.engine == "auto"):
        dense = _dense_plan(operator, settings, sampled)
        if dense is not None:
            return dense
    assert sampled is not None
    return sampled


def _yardstick(operator: SymmetricOperator, settings: SpectrumSettings) -> Plan:
    """The plan of sampling, or, where there is no room for what is to be deflated and no need, what it would take."""
    asked = settings.probes * min(settings.steps, operator.size) + _krylov(max(settings.deflate, 0) // KRYLOV_BLOCK)
    no_room = settings.deflate > most_deflated(operator, settings)
    if settings.engine == "slq" or not no_room or operator.size > asked:
        return sampled_plan(operator, settings)
    return replace(sampled_plan(operator, replace(settings, deflate=0)), products=asked)


def _gram_plan(operator: SymmetricOperator, settings: SpectrumSettings, sampled: Plan | None) -> Plan | None:
    asked = settings.engine == "gram"
    rows = gram_rows(operator) if isinstance(operator, JacobianSandwich) and (asked or _few_samples(operator)) else None
    if rows is None:
        if asked:
            raise UserError(
                f"the Gram route needs a Gauss-Newton or Fisher matrix of a built-in cost, got the {operator.name}"
            )
        return None
    need = gram_bytes(rows, operator.size, operator.dtype)
    if asked and need > settings.memory:
        raise UserError(
            f"the Gram route holds {rows} rows, {in_bytes(need)}, past the memory of {in_bytes(settings.memory)}"
        )
    if not asked and (sampled is None or rows > min(sampled.products, EXACT_ROWS) or need > settings.memory):
        return None
    reason = "asked for" if asked else f"no more than the {sampled.products if sampled else 0} products of sampling"
    return Plan("gram", 0, "full", rows, (f"exact by the Gram route: {rows} backward passes, {reason}",))


def _few_samples(operator: JacobianSandwich) -> bool:
    """Whether counting the rows, which costs a forward pass, can be worth it."""
    return operator.landscape.samples <= EXACT_ROWS


def _dense_plan(operator: SymmetricOperator, settings: SpectrumSettings, sampled: Plan | None) -> Plan | None:
    need = dense_bytes(operator.size, operator.dtype)
    if settings.engine == "dense":
        if need > settings.memory:
            raise UserError(
                f"the dense route needs {in_bytes(need)} for {operator.size} parameters, past the memory of "
                f"{in_bytes(settings.memory)}"
            )
        return Plan("dense", 0, "full", operator.size, ("exact by the dense route, asked for",))
    assert sampled is not None
    if operator.size > min(sampled.products, EXACT_ROWS) or need > settings.memory:
        return None
    reason = f"its {operator.size} products are no more than the {sampled.products} of sampling"
    return Plan("dense", 0, "full", operator.size, (f"exact by the dense route: {reason}",))


def sampled_plan(operator: SymmetricOperator, settings: SpectrumSettings) -> Plan:
    """The plan of the ``slq`` route: what is deflated, and whether the basis is kept."""
    notes, settings = [], with_block(settings, operator)
    steps = min(settings.steps, operator.size)
    block = min(settings.block, settings.probes)
    need = basis_bytes(operator.width, block, steps, operator.dtype)
    full = settings.reorthogonalise == "full" or (settings.reorthogonalise == "auto" and need <= settings.memory)
    if settings.reorthogonalise == "full" and need > settings.memory:
        raise UserError(
            f"full reorthogonalisation of {block} probes and {steps} steps needs {in_bytes(need)}, past the memory "
            f"of {in_bytes(settings.memory)}; use none, a smaller block, or more memory"
        )
    vectors = 4 * block * operator.width * operator.dtype.itemsize
    if vectors > settings.memory:
        raise UserError(
            f"a block of {block} probes takes {in_bytes(vectors)} for its vectors alone, past the memory of "
            f"{in_bytes(settings.memory)}; use a smaller block"
        )
    if full:
        notes.append(f"full reorthogonalisation, the basis takes {in_bytes(need)}")
    else:
        notes.append(
            f"no reorthogonalisation: a basis would take {in_bytes(need)}; densities stay right, counts of "
            "eigenvalues do not"
        )
    depth, sentence = _depth(operator, settings, steps)
    notes.append(sentence)
    return Plan("slq", depth, "full" if full else "none", _krylov(depth) + settings.probes * steps, tuple(notes))


def _depth(operator: SymmetricOperator, settings: SpectrumSettings, steps: int) -> tuple[int, str]:
    """Block steps to deflate, and the sentence that says so."""
    if settings.deflate == 0:
        return 0, _PLAIN
    automatic = settings.deflate < 0
    wanted = (
        int(settings.probes * steps * KRYLOV_SHARE) - KRYLOV_BLOCK * KRYLOV_EXTRA if automatic else settings.deflate
    )
    most = most_deflated(operator, settings)
    depth = min(wanted, most) // KRYLOV_BLOCK
    if depth < 1 or (not automatic and settings.deflate > most):
        if not automatic:
            allowed = f"between {KRYLOV_BLOCK} and {most}" if most >= KRYLOV_BLOCK else "0"
            raise UserError(f"deflate must be {allowed} here, by size and memory; got {settings.deflate}")
        return 0, f"{_PLAIN}: no room to deflate"
    sentence = _deflated(depth * KRYLOV_BLOCK)
    return depth, sentence


def with_stored_space(plan: Plan, captured: int) -> Plan:
    """The plan of a resumed run: further probes sample the complement of the stored space, not of one planned anew."""
    notes = (*(note for note in plan.notes if not note.startswith((_KRYLOV, _PLAIN))), _deflated(captured))
    depth = -(-captured // KRYLOV_BLOCK)
    return replace(plan, depth=depth, products=plan.products - _krylov(plan.depth) + _krylov(depth), notes=notes)


def _krylov(depth: int) -> int:
    """Products of a Krylov space."""
    return KRYLOV_BLOCK * (depth + KRYLOV_EXTRA) if depth else 0


def _deflated(captured: int) -> str:
    return f"{_KRYLOV} {captured} is treated exactly, probes sample its complement" if captured else _PLAIN


def most_deflated(operator: SymmetricOperator, settings: SpectrumSettings) -> int:
    """Largest dimension that can be deflated, by size and memory; 0 if there is no room."""
    # The basis, the two copies that projecting makes, and half of the space for the probes to sample.
    fitting = min(settings.memory // 3 // (operator.width * operator.dtype.itemsize), operator.size // 2)
    return max(0, fitting - KRYLOV_BLOCK * KRYLOV_EXTRA)


def in_bytes(count: float) -> str:
    """A number of bytes in words, to three digits: ``538 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


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
    """What a plan of the ``slq`` route will hold for ``size`` parameters.

    >>> graphs = GraphMemory(saved=0, vector=400, batches=1, repeatable=True)
    >>> plan = Plan("slq", 0, "none", 128, ())
    >>> footprint(graphs, plan, SpectrumSettings(block=2), 100, torch.float32).vectors
    15
    """
    block = min(settings.block or PROBES_AT_ONCE, settings.probes)
    basis = basis_bytes(size, block, min(settings.steps, size), dtype) if plan.reorthogonalise == "full" else 0
    if plan.depth:
        # The space's basis, and the two copies that projecting makes.
        basis += 3 * basis_bytes(size, KRYLOV_BLOCK, plan.depth + KRYLOV_EXTRA, dtype)
    vectors = PRODUCT_VECTORS + PROBE_VECTORS * block
    recorded = settings.strategy in ("auto", "recorded", "recorded-batched") and graphs.recordable(settings.memory)
    return Footprint(graphs.vector, vectors, basis, graphs, graphs.kept(settings.memory), recorded)
