"""Relative flatness of one layer: its Hessian's trace, weighted by the inner products of its neurons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from comparisons.sharpness_result import Sharpness, counted
from spectra.errors import UserError
from spectra.estimate import from_samples
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.operators import Hessian

# Probes of a layer are as long as its weight: no more of them are held at a time.
BLOCK = 16


def relative_flatness(
    landscape: Landscape,
    layer: str,
    *,
    normalised: bool = True,
    probes: int | None = 100,
    seed: int = 0,
) -> Sharpness:
    r"""``sum_{s,s'} <w_s, w_s'> tr H_{s,s'}`` over the neurons (rows) of one layer's weight W.

    ``H_{s,s'} = d^2 f / dw_s dw_s'``. It is the trace of ``H (W W^T kron I)``: probes ``(W r) z^T`` with random signs r
    and z have it as the mean of their quadratic forms. Normalised: the layer's inputs are divided by their standard
    deviations s_j over the data first, which multiplies column j of W by s_j and divides H by ``s_j s_j'``; without
    it a rescaling of the neurons before the layer moves the measure.

    Args:
        landscape: the cost; on a batch-normalised or plain network in eval mode.
        layer: name of the module, or of its weight, with a weight of two dimensions (outputs, inputs).
        normalised: whether the inputs are divided by their standard deviations.
        probes: random ones; None computes the trace exactly, by rank(W) times inputs products.
        seed: seed of the probes.

    Returns:
        The measure, unit of the cost; larger is sharper, whatever its name says.

    Raises:
        UserError: if there is no such layer, or its weight has not two dimensions.

    Reference:
        Petzka et al., Relative flatness and generalization, 2021.
    """
    if probes is not None:
        counted(probes=probes)
    name = _weight(landscape, layer)
    weight = landscape.parameters.unflatten(landscape.theta)[name].to(landscape.dtype)
    deviations, constant = _input_deviations(landscape, name) if normalised else (torch.ones_like(weight[0]), 0)
    # The core: no number may depend on what a stopwatch would choose.
    operator = Hessian(landscape.restricted((name,)), strategy="double-backward")
    scaled = weight * deviations
    rows = _exact(scaled) if probes is None else _random(scaled, probes, seed)
    forms = []
    while block := list(itertools.islice(rows, BLOCK)):
        flat = (torch.stack(block) / deviations).reshape(len(block), -1)
        forms.append((operator.matmat(flat).double() * flat.double()).sum(-1))
    samples = torch.cat(forms).cpu().numpy()
    estimate = None if probes is None else from_samples(samples)
    return Sharpness(
        value=float(samples.sum()) if estimate is None else estimate.value,
        standard_error=0.0 if estimate is None else estimate.standard_error,
        samples=np.empty(0) if estimate is None else samples,
        products=len(samples),
        cautions=_constant(constant),
    )


def _weight(landscape: Landscape, layer: str) -> str:
    shapes = dict(zip(landscape.parameters.names, landscape.parameters.shapes, strict=True))
    name = layer if layer in shapes else f"{layer}.weight"
    if name not in shapes or len(shapes[name]) != 2:
        offer = ", ".join(one.removesuffix(".weight") for one, shape in shapes.items() if len(shape) == 2)
        raise UserError(
            f"layer must be one with a weight of two dimensions ({offer or 'there is none'}), got {layer!r}"
        )
    return name


def _input_deviations(landscape: Landscape, name: str) -> tuple[Tensor, int]:
    """Standard deviation of each input of the layer, (inputs,), 1 for those constant but not zero, and their number."""
    # A parametrised weight lies in a module of its own within the layer, which no input passes.
    owner = f".{name.rpartition('.')[0]}".partition(".parametrizations.")[0].removeprefix(".")
    module = landscape.evaluation.model.get_submodule(owner)
    count = 0
    total = square = torch.zeros(())

    def watch(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal count, total, square
        rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
        count += len(rows)
        total, square = total + rows.sum(0), square + rows.square().sum(0)

    handle = module.register_forward_pre_hook(watch)
    try:
        landscape.outputs()
    finally:
        handle.remove()
    if count == 0:
        raise UserError(f"the layer of {name} is not called by the model, so its inputs have no standard deviations")
    mean = total / count
    variance = (square / count - mean.square()).clamp_min(0.0)
    # Of a constant input the difference of squares leaves rounding.
    still = variance <= 1e3 * torch.finfo(torch.float64).eps * (square / count)
    deviations = torch.where(still, torch.ones_like(variance), variance.sqrt())
    return deviations.to(landscape.theta), int((still & (square > 0.0)).sum())


def _exact(weight: Tensor) -> Iterator[Tensor]:
    """Matrices (outputs, inputs) whose quadratic forms add up to the trace: left singular vectors by unit vectors."""
    left, values, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    units = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    for column in (left * values).T.to(weight):
        yield from (torch.outer(column, unit) for unit in units)


def _random(weight: Tensor, probes: int, seed: int) -> Iterator[Tensor]:
    for probe in range(probes):
        random = generator(seed, "relative-flatness", probe, device=weight.device)
        signs = 2.0 * torch.randint(2, (2, weight.shape[1]), generator=random, device=weight.device).to(weight) - 1.0
        yield torch.outer(weight @ signs[0], signs[1])


def _constant(count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    return (f"{count} inputs of the layer are constant over the data and were left as they are, not divided by zero",)
