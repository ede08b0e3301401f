"""What a run is going to do and take, said before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.file_proxy import FileProxy

from basinscope.runs.progress import in_words
from basinscope.terminal import say
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.operators import Curvature
from spectra.plan import Footprint, Plan, footprint, in_bytes, make_operator, plan_route, with_stored_space
from spectra.spectrum import Spectrum, SpectrumSettings

# Less than this is nobody's worry, and not foretold.
WORTH_SAYING = 256e6
# Seconds from which one run times a step well enough.
_LONG = 0.05


def seconds_of(step: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds that a step takes here, after one that warms up; of a short step the shortest of three.

    The figure is for people: nothing that is computed may depend on it.

    Args:
        step: one product, gradient or evaluation of the cost, on the landscape that will be used.
        device: where it computes; what is queued there is waited for.

    Returns:
        The seconds of one step.
    """
    step()
    taken = _timed(step, torch.device(device))
    return taken if taken >= _LONG else min(taken, *(_timed(step, torch.device(device)) for _ in range(2)))


def _timed(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
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


def plan_of(landscape: Landscape, settings: SpectrumSettings, resume: Spectrum | None) -> tuple[Plan, Footprint | None]:
    """The plan, as the computation makes it again, and what its sampling holds in memory, before it is computed."""
    if settings.layers != "*":
        landscape = landscape.restricted(settings.layers)
    if resume is not None:
        settings = replace(settings, strategy=resume.strategy or settings.strategy)
    operator = make_operator(landscape, settings)
    plan = plan_route(operator, settings)
    if plan.route != "slq":
        return plan, None
    if resume is not None:
        plan = with_stored_space(plan, resume.density.deflation.captured)
    if not isinstance(operator, Curvature) or settings.per_layer:
        return plan, None
    return plan, footprint(operator.graph_memory, plan, settings, operator.size, operator.dtype)


def announcement(plan: Plan, settings: SpectrumSettings, resume: Spectrum | None) -> str:
    """A plan in a line: route, products and the plan's reasons.

    >>> plan = Plan("dense", 0, "full", 50, ("exact by the dense route, asked for",))
    >>> announcement(plan, SpectrumSettings(), None)
    'plan: dense route, 50 products; exact by the dense route, asked for'
    """
    blocks = " and those of each layer's block" if settings.per_layer else ""
    products = f"{plan.products:,} products{blocks}"
    if resume is not None:
        done = resume.density.runs.probes
        products = f"{done} of {settings.probes} probes are stored and kept; {products} from scratch"
    return "; ".join((f"plan: {plan.route} route, {products}", *plan.notes))


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
    parts = (f"{need.vectors} vectors of {in_bytes(need.vector)}", basis, graphs)
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
