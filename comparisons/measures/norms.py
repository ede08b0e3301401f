"""Baselines: norms of the parameters, margins, the Fisher-Rao norm, and the gradient with its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from comparisons.evidence import (
    GRADIENTS_PER_EVALUATION,
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    Tally,
    gauss_newton_operator,
    gradient,
    margins,
    sample_gradients,
)
from comparisons.flatness import Measure, Reading, Work
from comparisons.options import Option
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.operators import SymmetricOperator

MARGIN_PERCENTILE = 10.0


def parameter_norm(evidence: Evidence) -> Reading:
    """``|theta|``; each layer's norm in the details."""
    landscape = evidence.landscape
    layers = {
        layer: float(landscape.theta[landscape.parameters.positions(names).to(landscape.device)].double().norm())
        for layer, names in landscape.parameters.layers().items()
    }
    return Reading(float(landscape.theta.double().norm()), details=layers)


def distance_from_initialisation(evidence: Evidence) -> Reading:
    """``|theta - theta_0|``."""
    if evidence.initial is None:
        raise UserError(evidence.missing("initial"))
    return Reading(float((evidence.landscape.theta.double() - evidence.initial.double()).norm()))


def path_norm_of(evidence: Evidence) -> Reading:
    """The path norm of a feed-forward network."""
    from comparisons.searches import path_norm

    return Reading(path_norm(evidence.landscape))


def log_spectral_product(evidence: Evidence) -> Reading:
    """``sum_l log |W_l|_2``; a convolution's kernel is taken as a matrix with a row an output channel."""
    import torch

    return _log_product({name: float(torch.linalg.matrix_norm(w, 2)) for name, w in _matrices(evidence).items()})


def log_frobenius_product(evidence: Evidence) -> Reading:
    """``sum_l log |W_l|_F``."""
    return _log_product({name: float(w.norm()) for name, w in _matrices(evidence).items()})


def _log_product(norms: dict[str, float]) -> Reading:
    zero = [name for name, norm in norms.items() if norm == 0.0]
    if zero:
        raise UserError(f"{zero[0]} is zero, so the product of norms is zero")
    return Reading(sum(math.log(norm) for norm in norms.values()), details=norms)


def _matrices(evidence: Evidence) -> dict[str, Tensor]:
    landscape = evidence.landscape
    tensors = landscape.parameters.unflatten(landscape.theta)
    found = {name: tensor.double().flatten(1) for name, tensor in tensors.items() if tensor.dim() >= 2}
    if not found:
        raise UserError("no parameter is a matrix, so there are no norms of layers")
    return found


def margin(evidence: Evidence) -> Reading:
    """The 10th percentile of the margins over the training data; the median and the share below 0 beside it."""
    found = margins(evidence)
    details = {"median": float(np.median(found)), "wrong": float((found <= 0.0).mean())}
    return Reading(float(np.percentile(found, MARGIN_PERCENTILE)), details=details)


def normalised_margin(evidence: Evidence) -> Reading:
    """The 10th percentile of the margins over the product of spectral norms."""
    return Reading(margin(evidence).value * math.exp(-log_spectral_product(evidence).value))


def fisher_rao_norm(evidence: Evidence) -> Reading:
    """``theta^T F theta`` with the model's own Fisher: the mean squared change of the log-likelihood along theta."""
    return Reading(_form(evidence, "fisher-rao", lambda: gauss_newton_operator(evidence)), lowest=0.0)


def empirical_fisher_rao_norm(evidence: Evidence) -> Reading:
    """``mean_i (theta . grad l_i)^2`` at the given targets."""
    from spectra.operators import Fisher

    # One product: by the core, as timing others would cost more.
    landscape = evidence.landscape
    core = lambda: Fisher(landscape, kind="empirical", strategy="double-vjp")  # noqa: E731
    return Reading(_form(evidence, "empirical-fisher-rao", core), lowest=0.0)


def _form(evidence: Evidence, name: str, operator: Callable[[], SymmetricOperator]) -> float:

    def build(tally: Tally) -> float:
        matrix = operator()
        theta = evidence.landscape.theta.to(matrix.dtype)
        tally.products += 1
        found = float(theta.double() @ matrix.matvec(theta).double())
        if name == "fisher-rao":
            evidence.keep_strategy("gauss-newton", matrix)
        return found

    return evidence.item(name, build)


def gradient_norm(evidence: Evidence) -> Reading:
    """``|grad C|``: how stationary the checkpoint is."""
    return Reading(float(gradient(evidence).double().norm()))


def gradient_variance(evidence: Evidence, *, samples: int | None = None) -> Reading:
    """``tr S = mean_i |g_i - g|^2`` over the samples' gradients."""
    found = sample_gradients(evidence, samples)
    return Reading(found.trace, found.standard_error, samples=found.count, lowest=0.0)


def gradient_noise_scale(evidence: Evidence, *, samples: int | None = None) -> Reading:
    """``tr S / |g|^2``: the batch size at which noise and gradient are alike."""
    import torch

    found = sample_gradients(evidence, samples)
    # The mean of many terms of size sqrt(tr S), each rounded.
    rounding = float(torch.finfo(evidence.landscape.dtype).eps) ** 2 * found.trace
    if found.square_norm <= rounding:
        raise UserError("the gradient is zero to rounding, so the noise has no scale beside it")
    error = found.standard_error / found.square_norm
    return Reading(found.trace / found.square_norm, error, samples=found.count, lowest=0.0)


def _one(item: str, gradients: float) -> Work:
    return lambda _, __: {item: gradients}


def _scatter(extent: Extent, values: Mapping[str, Any]) -> dict[str, float]:
    looked = min(1.0, (values["samples"] or extent.settings.samples) / extent.rows)
    return {"gradient": 1.0, f"sample-gradients {values['samples']}": looked}


_SAMPLES = Option("samples", None, "most rows that are differentiated one by one", int, usual="2048", least=2)
_PERMUTATION = frozenset({"permutation"})
_LAYERS = frozenset({"permutation", "layer-rescaling"})
_NODES = frozenset({"permutation", "layer-rescaling", "node-rescaling"})
_EVERY = frozenset({"permutation", "layer-rescaling", "node-rescaling", "parameter-scale"})
_SCALE = frozenset({"permutation", "parameter-scale"})
_SQUARE = "cost² / parameter²"

MEASURES = (
    Measure(
        "parameter-norm",
        "norm of the parameters",
        "norms",
        "parameter",
        "Hinton and van Camp 1993",
        "smaller",
        _PERMUTATION,
        (),
        parameter_norm,
    ),
    Measure(
        "distance-from-initialisation",
        "distance from initialisation",
        "norms",
        "parameter",
        "Nagarajan and Kolter 2019",
        "smaller",
        frozenset(),
        ("initial",),
        distance_from_initialisation,
    ),
    Measure("path-norm", "path norm", "norms", "1", "Neyshabur et al. 2015", "smaller", _NODES, (), path_norm_of),
    Measure(
        "spectral-product",
        "log product of spectral norms",
        "norms",
        "nat",
        "Bartlett et al. 2017",
        "smaller",
        _LAYERS,
        ("matrix",),
        log_spectral_product,
    ),
    Measure(
        "frobenius-product",
        "log product of Frobenius norms",
        "norms",
        "nat",
        "Neyshabur et al. 2015",
        "smaller",
        _LAYERS,
        ("matrix",),
        log_frobenius_product,
    ),
    Measure(
        "margin",
        "margin, 10th percentile",
        "norms",
        "output",
        "Jiang et al. 2020",
        "larger",
        _EVERY,
        ("classes",),
        margin,
        work=_one("margins", GRADIENTS_PER_EVALUATION),
    ),
    Measure(
        "normalised-margin",
        "margin / spectral norms",
        "norms",
        "output",
        "Bartlett et al. 2017",
        "larger",
        _LAYERS,
        ("classes", "matrix"),
        normalised_margin,
        work=_one("margins", GRADIENTS_PER_EVALUATION),
    ),
    Measure(
        "fisher-rao",
        "Fisher-Rao norm",
        "norms",
        "cost",
        "Liang et al. 2019",
        "smaller",
        _EVERY,
        ("likelihood", "gauss-newton"),
        fisher_rao_norm,
        work=_one("fisher-rao", GRADIENTS_PER_PRODUCT),
    ),
    Measure(
        "fisher-rao-empirical",
        "Fisher-Rao norm, empirical",
        "norms",
        "cost²",
        "Liang et al. 2019",
        "smaller",
        _EVERY,
        (),
        empirical_fisher_rao_norm,
        work=_one("empirical-fisher-rao", GRADIENTS_PER_PRODUCT),
    ),
    Measure(
        "gradient-norm",
        "norm of the gradient",
        "norms",
        "cost / parameter",
        "Jiang et al. 2020",
        "smaller",
        _PERMUTATION,
        ("gradient",),
        gradient_norm,
        work=_one("gradient", 1.0),
    ),
    Measure(
        "gradient-variance",
        "variance of gradients, tr S",
        "norms",
        _SQUARE,
        "Jiang et al. 2020",
        "smaller",
        _PERMUTATION,
        ("gradient", "rows"),
        gradient_variance,
        options=(_SAMPLES,),
        work=_scatter,
    ),
    Measure(
        "gradient-noise-scale",
        "gradient noise scale",
        "norms",
        "1",
        "McCandlish et al. 2018",
        "smaller",
        _SCALE,
        ("gradient", "rows"),
        gradient_noise_scale,
        options=(_SAMPLES,),
        work=_scatter,
    ),
)
