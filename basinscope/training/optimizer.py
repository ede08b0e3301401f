"""What an optimizer says of the curvature that it can bear: learning rate, stability limit, Adam's units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError, UserTypeError
from spectra.landscape import Landscape


@dataclass(frozen=True)
class StepRule:
    """The next step of an optimizer, as far as it is a linear one of the gradient.

    Attributes:
        learning_rate: its length; nan where it is not known, or groups of parameters differ.
        stability_limit: largest eigenvalue of the Hessian that gradient descent bears; nan for other optimizers.
        scales: (n,) with P the matrix that Adam divides by, ``P^(-1/2)``; None for other optimizers.
        preconditioned_limit: largest eigenvalue of ``P^(-1/2) H P^(-1/2)`` that it bears.
        notes: sentences on what is missing.
    """

    learning_rate: float = math.nan
    stability_limit: float = math.nan
    scales: Tensor | None = None
    preconditioned_limit: float = math.nan
    notes: tuple[str, ...] = ()


def step_rule(optimizer: Any, landscape: Landscape) -> StepRule:
    """Read a step off an optimizer, which stays as it is.

    Gradient descent with momentum b grows where the Hessian has an eigenvalue above ``(2 + 2 b) / lr``, with Nesterov's
    ``(2 + 2 b) / (lr (1 + 2 b))``. Adam divides by ``P = (1 - b1^t) (sqrt(v / (1 - b2^t)) + eps)`` and grows where
    ``P^(-1) H`` has one above ``(2 + 2 b1) / ((1 - b1) lr)``. Weight decay is left out.

    Args:
        optimizer: of torch, or wrapped by Lightning or Accelerate; a number is a learning rate of gradient descent;
            None says nothing.
        landscape: whose parameters it steps.

    Returns:
        What is known of it.

    Raises:
        UserTypeError: if it is no optimizer and no number.

    Reference:
        Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, 2021; Adaptive
        gradient methods at the edge of stability, 2022.
    """
    if optimizer is None:
        return StepRule()
    if isinstance(optimizer, int | float):
        return StepRule(float(optimizer), _over(2.0, float(optimizer)))
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise UserTypeError(f"optimizer must be an optimizer of torch or a number, got {type(optimizer).__name__}")
    own = dict(landscape.evaluation.model.named_parameters())
    tracked = {id(own[name]) for name in landscape.parameters.names}
    groups = [group for group in optimizer.param_groups if any(id(one) in tracked for one in group["params"])]
    try:
        rate = float(_alike(groups, "lr"))
        if isinstance(optimizer, torch.optim.SGD):
            return _descent(groups, rate)
        if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            return _adam(optimizer, groups, rate, [own[name] for name in landscape.parameters.names])
    except UserError as error:
        return StepRule(notes=(f"no stability limit: {error}",))
    return StepRule(rate, notes=(f"no stability limit is known of {type(optimizer).__name__}",))


def _over(number: float, rate: float) -> float:
    return number / rate if rate > 0.0 else math.nan


def _alike(groups: list[dict[str, Any]], name: str) -> Any:
    """A setting that all groups of tracked parameters have alike."""
    found = {float(group[name]) if isinstance(group[name], Tensor) else group[name] for group in groups}
    if len(found) != 1:
        words = f"has {len(found)} values of {name} for them" if found else "steps none of them"
        raise UserError(f"the optimizer {words} (the tracked parameters)")
    return found.pop()


def _check_direction(groups: list[dict[str, Any]]) -> None:
    if any(group.get("maximize") for group in groups):
        raise UserError("the optimizer climbs (maximize=True)")


def _descent(groups: list[dict[str, Any]], rate: float) -> StepRule:
    _check_direction(groups)
    momentum, nesterov = float(_alike(groups, "momentum")), _alike(groups, "nesterov")
    if momentum and _alike(groups, "dampening"):
        raise UserError("the momentum is dampened")
    return StepRule(rate, _over((2.0 + 2.0 * momentum) / (1.0 + 2.0 * momentum * nesterov), rate))


def _adam(optimizer: Any, groups: list[dict[str, Any]], rate: float, parameters: list[Tensor]) -> StepRule:
    _check_direction(groups)
    (first, second), eps = (tuple(map(float, _alike(groups, "betas"))), float(_alike(groups, "eps")))
    kind = "max_exp_avg_sq" if _alike(groups, "amsgrad") else "exp_avg_sq"
    parts = []
    for parameter in parameters:
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        if kind not in state:
            return StepRule(rate, notes=("Adam has no second moment of every tracked parameter yet",))
        taken = float(state["step"])
        root = (state[kind].detach().double() / (1.0 - second**taken)).sqrt()
        parts.append(((1.0 - first**taken) * (root + eps)).reshape(-1))
    limit = _over((2.0 + 2.0 * first) / (1.0 - first), rate)
    return StepRule(rate, scales=torch.cat(parts).rsqrt(), preconditioned_limit=limit)
