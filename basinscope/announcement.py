"""What a run is going to do and take, said before it starts."""

from __future__ import annotations

import sys
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from spectra.landscape import Landscape
from spectra.routes import Plan, make_operator, plan_route, with_stored_space
from spectra.spectrum import Spectrum, SpectrumSettings


def plan_of(landscape: Landscape, settings: SpectrumSettings, resume: Spectrum | None) -> Plan:
    """The route, its products and what it holds in memory, before anything is computed.

    Args:
        landscape: what is differentiated.
        settings: what was asked for.
        resume: the stored spectrum that is continued, or None.

    Returns:
        The plan, as the computation makes it again.

    Raises:
        ValueError: if what was asked for does not fit the landscape or the memory.
    """
    if settings.layers != "*":
        landscape = landscape.restricted(settings.layers)
    if resume is not None:
        settings = replace(settings, strategy=resume.strategy or settings.strategy)
    plan = plan_route(make_operator(landscape, settings), settings)
    if resume is None or plan.route != "slq":
        return plan
    return with_stored_space(plan, resume.density.deflation.captured)


def announcement(plan: Plan, settings: SpectrumSettings, resume: Spectrum | None) -> str:
    """A plan in a line.

    Args:
        plan: how the spectrum will be computed.
        settings: what was asked for.
        resume: the stored spectrum that is continued, or None.

    Returns:
        Route, products and the plan's reasons.

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


def announce(line: str) -> None:
    """Print a line on stderr, dim on a terminal, unbroken."""
    Console(file=sys.stderr).print(Text(line, style="dim"), soft_wrap=True)
