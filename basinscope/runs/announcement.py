"""What a run is going to do and take, said before it starts."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from rich.file_proxy import FileProxy

from basinscope.runs.progress import in_words
from basinscope.terminal import say
from spectra.compute import check_top
from spectra.files import counted
from spectra.lanczos import least_products, probes_of
from spectra.landscape import Landscape
from spectra.operators import Curvature, SymmetricOperator
from spectra.plan import (
    KRYLOV_BLOCK,
    Footprint,
    Plan,
    footprint,
    in_bytes,
    make_operator,
    plan_route,
    with_block,
    with_stored_space,
)
from spectra.ranks import ALONE, Ranks
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.timing import FORECAST, phase, synchronise

# Less than this is nobody's worry, and is not announced.
WORTH_SAYING = 256e6
# What a direction takes at least where the cost is nearly quadratic along it: three to the crossing, two below it.
EVALUATIONS_A_DIRECTION = 5
# Seconds from which one run times a step well enough.
_LONG = 0.05
# Rows of the dense route's blocks that are timed.
TIMED_ROWS = 8
# Seconds from which a run says what its first parts show.
LOOK_FROM = 10.0


@phase(FORECAST)
def seconds_of(step: Callable[[], object], device: torch.device | str = "cpu", ranks: Ranks = ALONE) -> float:
    """Seconds that a step takes here, after one that warms up; of a short step the shortest of three.

    The figure is for people: nothing that is computed may depend on it.

    Args:
        step: one product, gradient or evaluation of the cost, on the landscape that will be used.
        device: where it computes; what is queued there is waited for.
        ranks: processes that take the step together; they go by the slowest, so that all take it equally often.

    Returns:
        The seconds of one step.
    """
    step()
    taken = ranks.largest(_timed(step, torch.device(device)))
    if taken >= _LONG:
        return taken
    return min(taken, *(ranks.largest(_timed(step, torch.device(device))) for _ in range(2)))


def _timed(step: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def forecast(count: float, unit: str, seconds: float, *, bound: str = "about") -> str:
    """What work will cost, in words: how many steps, and how long by the time that one took.

    Args:
        count: number of steps.
        unit: name of a step, in the singular: ``product``, ``gradient``, ``evaluation of the cost``.
        seconds: seconds that one took, as ``seconds_of`` measures them.
        bound: how the time is to be read: ``about``, ``at most about``, ``at least about``.

    >>> forecast(650, "product", 0.0625)
    '650 products, about 41 s at 62.5 ms each'
    >>> forecast(1, "evaluation of the cost", 2e-5, bound="at most about")
    '1 evaluation of the cost, at most about 1 s at 0.02 ms each'
    """
    noun, _, rest = unit.partition(" ")
    each = (
        f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s" if seconds < 99.5 else in_words(seconds)
    )
    steps = f"{counted(round(count), noun)} {rest}".rstrip()
    return f"{steps}, {bound} {in_words(count * seconds)} at {each} each"


@dataclass(frozen=True)
class Planned:
    """A spectrum before it is computed.

    Attributes:
        operator: the curvature, which the computation takes over with what its first products chose.
        settings: the settings with what an earlier run has fixed.
        plan: the plan, as the computation makes it again.
        need: what sampling holds in memory; None for another route.
    """

    operator: SymmetricOperator
    settings: SpectrumSettings
    plan: Plan
    need: Footprint | None

    def left(self, resume: Spectrum | None) -> int:
        """Products that are left to do beside a stored part."""
        if resume is None:
            return self.plan.products
        runs, done = resume.density.runs, resume.density.exact
        return 0 if done or runs.probes >= self.settings.probes else self.plan.products - runs.diagonal.size


def planned(landscape: Landscape, settings: SpectrumSettings, resume: Spectrum | None) -> Planned:
    """What will be computed of a landscape, from a stored part on if there is one."""
    if settings.layers != "*":
        landscape = landscape.restricted(settings.layers)
    if resume is not None:
        settings = replace(settings, strategy=resume.strategy or settings.strategy)
    operator = make_operator(landscape, settings)
    check_top(operator, settings)
    settings = with_block(settings, operator, 0 if resume is None else resume.settings.block)
    plan, need = plan_route(operator, settings), None
    if plan.route == "slq":
        if resume is not None and not resume.density.unsampled:
            plan = with_stored_space(plan, resume.density.deflation.captured)
        if isinstance(operator, Curvature) and not settings.per_layer:
            need = footprint(operator.graph_memory, plan, settings, operator.size, operator.dtype)
    return Planned(operator, settings, plan, need)


def seconds_a_product(known: Planned) -> float:
    """Seconds that a product takes, in a block as large as the computation's own; of the Gram route a backward pass.

    The products prepare the operator, which the computation then need not do.
    """
    operator, plan = known.operator, known.plan
    if not isinstance(operator, Curvature) or plan.route == "pyhessian":
        return math.nan
    landscape = operator.landscape
    landscape.gradient()  # first, for it refuses models whose parameters it cannot reach
    if plan.route == "gram":
        return seconds_of(landscape.gradient, operator.device, operator.ranks) / landscape.count()
    rows = (
        min(TIMED_ROWS, operator.size)
        if plan.route == "dense"
        else KRYLOV_BLOCK
        if plan.depth
        else known.settings.block
    )
    starts = probes_of(operator, rows, seed=known.settings.seed, stream="timing")
    return seconds_of(lambda: operator.matmat(starts), operator.device, operator.ranks) / rows


def announcement(known: Planned, resume: Spectrum | None, seconds: float = math.nan) -> str:
    """A plan in a line: route, products, what they take by the seconds of one, and the plan's reasons."""
    plan, settings, left = known.plan, known.settings, known.left(resume)
    before = ""
    if resume is not None:
        done = f"{resume.density.runs.probes} of {counted(settings.probes, 'probe')}"
        before = f"{'all eigenvalues' if resume.density.exact else done} are stored and kept; "
    blocks = " and those of each layer's block" if settings.per_layer else ""
    if settings.top and (resume is None or not resume.has_top(settings)):
        blocks += f" and those of the top eigenpairs, at least {least_products(known.operator, settings.top):,}"
    unit, bound = ("backward pass", "at most about") if plan.route == "gram" else ("product", "about")
    cost = counted(left, "product") if math.isnan(seconds) else forecast(left, unit, seconds, bound=bound)
    return "; ".join((f"plan: {plan.route} route, {before}{cost}{blocks}", *plan.notes))


def memory_line(need: Footprint) -> str:
    """What a run takes, in a line: vectors, bases, graphs, and the sum of them; empty where it is little.

    >>> from spectra.operators import GraphMemory
    >>> graphs = GraphMemory(saved=10**8, vector=4 * 10**7, batches=3, repeatable=True)
    >>> memory_line(Footprint(4 * 10**7, 11, 0, graphs, kept=False, recorded=False))[:76]
    'memory: at most about 1.28 GB above the model: 11 vectors of 40 MB, no basis'
    """
    if need.total < WORTH_SAYING:
        return ""
    basis = f"bases of {in_bytes(need.basis)}" if need.basis else "no basis"
    batches = need.graphs.batches
    if batches == 1:
        graphs = f"a graph of {in_bytes(need.graph_bytes)} for the one batch"
    else:
        which = f"all {batches} batches, kept" if need.kept else f"one of {batches} batches at a time"
        graphs = f"graphs of {in_bytes(need.graph_bytes)} for {which}"
    parts = (f"{counted(need.vectors, 'vector')} of {in_bytes(need.vector)}", basis, graphs)
    working = f"{in_bytes(need.working_bytes)} to {'record a product' if need.recorded else 'work with'}"
    return f"memory: at most about {in_bytes(need.total)} above the model: {', '.join((*parts, working))}"


def announce(line: str) -> None:
    """Print a line on stderr, dim on a terminal, unbroken; above the progress bar, if there is one.

    Args:
        line: what to say.
    """
    if isinstance(sys.stderr, FileProxy):
        print(line, file=sys.stderr)
    else:
        say(line, "dim")
