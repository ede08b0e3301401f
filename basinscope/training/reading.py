"""What one recorded step of a training run says: each number with its error, its meaning and its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

_CURVATURE, _SLOPE = "cost / parameter^2", "cost / parameter"


@dataclass(frozen=True)
class CurvatureReading:
    """The numbers of one step; nan stands for what was not asked for or is not defined there.

    Standard errors are over probes, or over rows of the data; half-widths are half of the 95 % interval, Student's t,
    widened by truncation.

    Attributes:
        step: number of optimizer steps that the model had taken.
        cost: average cost on the tracked data, unit of the cost.
        gradient_norm: norm of its gradient.
        eigenvalues: the largest eigenvalues of the Hessian, descending.
        residuals: norm of ``H q - l q`` of each.
        trace: trace of the Hessian.
        trace_standard_error: its standard error over probes.
        trace_half_width: half of its 95 % interval.
        gauss_newton_largest: largest eigenvalue of the Gauss-Newton matrix.
        gauss_newton_residual: norm of ``G q - l q`` of that pair.
        gauss_newton_trace: its trace.
        gauss_newton_trace_standard_error: standard error of that over probes.
        gauss_newton_trace_half_width: half of its 95 % interval.
        gradient_noise: trace of the covariance of the samples' gradients; over B, that of the gradient of B samples.
        gradient_noise_standard_error: its standard error over the rows looked at; 0 where those are all.
        gradient_noise_half_width: half of its 95 % interval.
        log_mass: log of the prior's mass of the quadratic basin, nats.
        log_mass_standard_error: its standard error over probes.
        log_mass_half_width: half of its 95 % interval.
        learning_rate: of the next step.
        stability_limit: eigenvalue of the Hessian above which a step of that size grows: 2 / learning rate for gradient
            descent, more with momentum.
        preconditioned_eigenvalue: largest eigenvalue of the Hessian in Adam's units.
        preconditioned_limit: what that is for the Hessian under Adam.
        seconds: what measuring took.
        notes: sentences on what is missing and why, and on what is not to be trusted.
    """

    step: int
    cost: float = math.nan
    gradient_norm: float = math.nan
    eigenvalues: tuple[float, ...] = ()
    residuals: tuple[float, ...] = ()
    trace: float = math.nan
    trace_standard_error: float = math.nan
    trace_half_width: float = math.nan
    gauss_newton_largest: float = math.nan
    gauss_newton_residual: float = math.nan
    gauss_newton_trace: float = math.nan
    gauss_newton_trace_standard_error: float = math.nan
    gauss_newton_trace_half_width: float = math.nan
    gradient_noise: float = math.nan
    gradient_noise_standard_error: float = math.nan
    gradient_noise_half_width: float = math.nan
    log_mass: float = math.nan
    log_mass_standard_error: float = math.nan
    log_mass_half_width: float = math.nan
    learning_rate: float = math.nan
    stability_limit: float = math.nan
    preconditioned_eigenvalue: float = math.nan
    preconditioned_limit: float = math.nan
    seconds: float = math.nan
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """The numbers that are known, by name, for a logger; eigenvalues are numbered from 1."""
        found = {name: getattr(self, name) for name in COLUMNS}
        found |= {f"eigenvalue_{number}": value for number, value in enumerate(self.eigenvalues, 1)}
        return {name: value for name, value in found.items() if math.isfinite(value)}


# Meaning and unit of each number that has one value a step, by field.
COLUMNS: dict[str, tuple[str, str]] = {
    "cost": ("average cost on the tracked data", "cost"),
    "gradient_norm": ("norm of its gradient", _SLOPE),
    "trace": ("trace of the Hessian", _CURVATURE),
    "trace_standard_error": ("standard error of the trace over probes", _CURVATURE),
    "trace_half_width": ("half of the 95 % interval of the trace", _CURVATURE),
    "gauss_newton_largest": ("largest eigenvalue of the Gauss-Newton matrix", _CURVATURE),
    "gauss_newton_residual": ("norm of G q - l q of that pair", _CURVATURE),
    "gauss_newton_trace": ("trace of the Gauss-Newton matrix", _CURVATURE),
    "gauss_newton_trace_standard_error": ("standard error of that trace over probes", _CURVATURE),
    "gauss_newton_trace_half_width": ("half of the 95 % interval of that trace", _CURVATURE),
    "gradient_noise": ("trace of the covariance of the samples' gradients", "cost^2 / parameter^2"),
    "gradient_noise_standard_error": ("standard error of that over rows of the data", "cost^2 / parameter^2"),
    "gradient_noise_half_width": ("half of the 95 % interval of that", "cost^2 / parameter^2"),
    "log_mass": ("log of the prior's mass of the quadratic basin", "nat"),
    "log_mass_standard_error": ("standard error of that over probes", "nat"),
    "log_mass_half_width": ("half of the 95 % interval of that", "nat"),
    "learning_rate": ("learning rate of the next step", "parameter^2 / cost"),
    "stability_limit": ("eigenvalue above which a step of that size grows", _CURVATURE),
    "preconditioned_eigenvalue": ("largest eigenvalue of the Hessian in Adam's units", "1"),
    "preconditioned_limit": ("eigenvalue in Adam's units above which a step grows", "1"),
    "seconds": ("time that measuring took", "s"),
}
assert {"step", "eigenvalues", "residuals", "notes", *COLUMNS} == {field.name for field in fields(CurvatureReading)}
