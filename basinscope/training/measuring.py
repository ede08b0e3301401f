"""One step measured: the landscape at the model's present parameters, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from basinscope.training.optimizer import StepRule, step_rule
from basinscope.training.reading import CurvatureReading
from basinscope.training.settings import TrackerSettings
from comparisons.evidence import Evidence, EvidenceSettings, sample_gradients
from spectra.errors import UserError, out_of_memory
from spectra.estimate import Estimate
from spectra.lanczos import Eigenpairs, deflated_trace, top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian, SymmetricOperator
from spectra.spectrum import SpectrumSettings
from volume.curvature_density import curvature_density, fitting_block
from volume.prior_units import ScaledOperator
from volume.quadratic import anchor_measure, quadratic_mass

# The cores, right on nearly every model: which way is the fastest would be found out by a stopwatch.
HESSIAN, GAUSS_NEWTON = "double-backward", "double-vjp"
_BLOCK = 2
Found = dict[str, Any]


def measured(
    landscape: Landscape, step: int, settings: TrackerSettings, optimizer: Any, standard_deviation: float
) -> CurvatureReading:
    """What is asked of a step, on the landscape's model as it is now.

    A quantity that is not defined there is nan, with a note that says why.

    Args:
        landscape: model, cost and data, examined before.
        step: number of optimizer steps that the model has taken.
        settings: what to compute.
        optimizer: as ``step_rule`` takes it.
        standard_deviation: of the prior of the quadratic mass, unit of the parameters.

    Returns:
        The reading; its seconds are not known here.
    """
    rule = step_rule(optimizer, landscape)
    found: Found = {
        "learning_rate": rule.learning_rate,
        "stability_limit": rule.stability_limit,
        "preconditioned_limit": rule.preconditioned_limit,
    }
    try:
        there = landscape.at()
    except UserError as error:  # training has diverged, which is worth a record
        return CurvatureReading(step, **found, notes=(*rule.notes, f"nothing is measured: {error}"))
    found["cost"] = there.cost()
    notes = list(rule.notes)
    evidence = Evidence(there, settings=EvidenceSettings(samples=settings.samples))
    parts: dict[str, Callable[[], Found]] = {
        "gradient": lambda: {"gradient_norm": float(there.gradient().double().norm())},
        "eigenvalues": lambda: _hessian(there, settings, rule, notes),
        "gauss-newton": lambda: _gauss_newton(there, settings, notes),
        "quadratic-mass": lambda: _mass(there, settings, standard_deviation, notes),
        "gradient-noise": lambda: _noise(evidence),
    }
    for name, compute in parts.items():
        if name == "gradient" or name in settings.quantities:
            found |= _tried(name, compute, notes)
    return CurvatureReading(step, **found, notes=tuple(dict.fromkeys(notes)))


def _tried(name: str, compute: Callable[[], Found], notes: list[str]) -> Found:
    """What is computed; nothing, and a note, where that is not defined or finds no memory."""
    try:
        return compute()
    except UserError as error:
        notes.append(f"no {name}: {error}")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        notes.append(f"no {name}: memory ran out: track fewer samples, or give a smaller memory")
    return {}


def _largest(
    operator: SymmetricOperator, count: int, settings: TrackerSettings, what: str, notes: list[str]
) -> Eigenpairs:
    pairs = top_eigenpairs(
        operator,
        min(count, operator.size),
        which="largest",
        tolerance=settings.tolerance,
        max_products=settings.products,
        block=_BLOCK,
        seed=settings.seed,
    )
    if not pairs.converged:
        notes.append(f"{what} has not converged to a residual of {settings.tolerance:g} of the largest")
    return pairs


def _hessian(landscape: Landscape, settings: TrackerSettings, rule: StepRule, notes: list[str]) -> Found:
    """The largest eigenvalues, the trace beside them, and the largest eigenvalue in Adam's units."""
    hessian = Hessian(landscape, strategy=HESSIAN, memory=settings.memory)
    pairs = _largest(hessian, settings.eigenvalues, settings, "an eigenvalue of the Hessian", notes)
    none = [math.nan] * (settings.eigenvalues - len(pairs.values))
    found: Found = {
        "eigenvalues": (*map(float, pairs.values), *none),
        "residuals": (*map(float, pairs.residuals), *none),
    }
    if "trace" in settings.quantities:
        trace = deflated_trace(hessian, pairs.vectors, settings.probes, seed=settings.seed)
        found |= _of_estimate("trace", trace)
    if rule.scales is not None:
        scaled = ScaledOperator(hessian, rule.scales)
        first = _largest(scaled, 1, settings, "the eigenvalue in Adam's units", notes)
        found["preconditioned_eigenvalue"] = float(first.values[0])
    return found


def _gauss_newton(landscape: Landscape, settings: TrackerSettings, notes: list[str]) -> Found:
    """The largest eigenvalue of the Gauss-Newton matrix, and the trace beside it."""
    operator = GaussNewton(landscape, strategy=GAUSS_NEWTON, memory=settings.memory)
    pairs = _largest(operator, 1, settings, "the eigenvalue of the Gauss-Newton matrix", notes)
    trace = deflated_trace(operator, pairs.vectors, settings.probes, seed=settings.seed)
    found: Found = {"gauss_newton_largest": float(pairs.values[0]), "gauss_newton_residual": float(pairs.residuals[0])}
    return found | _of_estimate("gauss_newton_trace", trace)


def _mass(landscape: Landscape, settings: TrackerSettings, width: float, notes: list[str]) -> Found:
    """The mass of the quadratic basin of the Gauss-Newton matrix, as ``basinscope volume`` has it."""
    operator = GaussNewton(landscape, strategy=GAUSS_NEWTON, memory=settings.memory)
    asked = SpectrumSettings(
        operator="gauss-newton",
        probes=settings.mass_probes,
        steps=settings.mass_steps,
        seed=settings.seed,
        strategy=GAUSS_NEWTON,
        block=fitting_block(landscape.size, landscape.dtype, settings.memory),
        memory=settings.memory,
    )
    density = curvature_density(operator, asked)
    anchor = anchor_measure(operator, landscape.theta, 2 * settings.mass_steps, memory=settings.memory)
    mass = quadratic_mass(density, anchor, settings.cutoff, standard_deviation=width)[0].log_mass
    notes += [f"quadratic mass: {caution}" for caution in mass.cautions]
    return _of_estimate("log_mass", mass)


def _noise(evidence: Evidence) -> Found:
    gradients = sample_gradients(evidence)
    samples = np.empty(gradients.count)
    return _of_estimate("gradient_noise", Estimate(gradients.trace, gradients.standard_error, samples=samples))


def _of_estimate(name: str, estimate: Estimate) -> Found:
    return {
        name: estimate.value,
        f"{name}_standard_error": estimate.standard_error,
        f"{name}_half_width": estimate.half_width(),
    }
