"""The optimizer of a checkpoint as evidence: how large a curvature it is stable at, and Adam's preconditioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comparisons.evidence.compute_cost import Tally
from comparisons.evidence.evidence import Evidence
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_SGD = {"momentum", "dampening", "nesterov"}


@dataclass(frozen=True)
class StoredOptimizer:
    """What a checkpoint says of the optimizer that made it.

    Attributes:
        learning_rate: eta, of the step that came last or comes next.
        weight_decay: of all parameters, the largest of the groups'.
        momentum: beta of SGD, beta_1 of Adam.
        nesterov: whether SGD's momentum is Nesterov's.
        dampening: of SGD's momentum.
        second: beta_2 of Adam; None of SGD.
        epsilon: that of Adam.
    """

    learning_rate: float
    weight_decay: float
    momentum: float
    nesterov: bool = False
    dampening: float = 0.0
    second: float | None = None
    epsilon: float = 0.0

    @property
    def adam(self) -> bool:
        """Whether it is Adam, whose limit holds for the preconditioned Hessian."""
        return self.second is not None

    @property
    def limit(self) -> float:
        """The curvature from which on its steps on a quadratic diverge.

        ``2 / eta`` of gradient descent, ``2 (1 + beta) / eta`` with momentum, over ``1 + 2 beta`` with Nesterov's, and
        ``2 (1 + beta_1) / ((1 - beta_1) eta)`` of Adam, whose momentum is an average.

        Reference:
            Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, 2021; Cohen et
            al., Adaptive gradient methods at the edge of stability, 2022.

        >>> round(StoredOptimizer(1.0, 0.0, 0.9, second=0.999).limit, 9)
        38.0
        """
        share = 1.0 - (self.momentum if self.adam else self.dampening)
        plain = 2.0 * (1.0 + self.momentum) / (share * self.learning_rate)
        return plain / (1.0 + 2.0 * self.momentum) if self.nesterov else plain

    @property
    def cautions(self) -> tuple[str, ...]:
        """A sentence where what is compared with the limit leaves something out."""
        if self.weight_decay == 0.0:
            return ()
        return (f"the optimizer's weight decay of {self.weight_decay:g} is not part of the curvature that is measured",)


def stored_optimizer(evidence: Evidence) -> StoredOptimizer:
    """The optimizer of the checkpoint, SGD or Adam as torch saves them.

    Args:
        evidence: evidence of a checkpoint.

    Returns:
        Its learning rate and constants.

    Raises:
        UserError: if there is none, it is another one, or its groups have different learning rates or constants.
    """
    reason = evidence.missing("optimizer")
    checkpoint = evidence.checkpoint
    if reason or checkpoint is None or checkpoint.optimizer is None:
        raise UserError(reason)
    groups = checkpoint.optimizer.get("param_groups")
    if not isinstance(groups, list | tuple) or not groups or not all(isinstance(one, Mapping) for one in groups):
        raise UserError("the checkpoint's optimizer state has no groups of parameters, so no learning rate is known")
    found = [_of_group(group) for group in groups]
    decay = max(one.weight_decay for one in found)
    first, *others = (StoredOptimizer(**{**vars(one), "weight_decay": decay}) for one in found)
    if any(one != first for one in others):
        raise UserError(
            "the groups of the checkpoint's optimizer have different learning rates or constants: no one limit holds"
        )
    return first


def _of_group(group: Mapping[str, Any]) -> StoredOptimizer:
    rate, decay = _number(group, "lr"), _number(group, "weight_decay", 0.0)
    if rate <= 0.0:
        raise UserError(
            f"the optimizer's learning rate at the checkpoint is {rate:g}: no curvature is too large for it"
        )
    if "betas" in group:
        if group.get("amsgrad"):
            raise UserError("the checkpoint's Adam is AMSGrad, whose preconditioner is another: it is not measured")
        betas = group["betas"]
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise UserError("the checkpoint's optimizer state has no two numbers for its betas")
        first, second = (_value("betas", beta) for beta in betas)
        if max(first, second) >= 1.0:
            raise UserError(f"the betas of the checkpoint's Adam must be below 1, got {first:g} and {second:g}")
        return StoredOptimizer(rate, decay, first, second=second, epsilon=_number(group, "eps"))
    if group.keys() >= _SGD:
        momentum = _number(group, "momentum")
        dampening = _number(group, "dampening") if momentum else 0.0
        return StoredOptimizer(rate, decay, momentum, bool(group["nesterov"]), dampening)
    raise UserError("the checkpoint's optimizer is neither SGD nor Adam as torch saves them: its limit is not known")


def _number(group: Mapping[str, Any], name: str, default: float | None = None) -> float:
    if name not in group and default is None:
        raise UserError(f"the checkpoint's optimizer state does not say its {name}")
    return _value(name, group.get(name, default))


def _value(name: str, given: Any) -> float:
    # A learning rate that lives on the device is a tensor of one number.
    number = given.item() if hasattr(given, "item") else given
    if not isinstance(number, int | float) or not 0.0 <= number < float("inf"):
        raise UserError(f"the checkpoint's optimizer state has no number for its {name}, got {str(number)[:40]}")
    return float(number)


def adam_preconditioner(evidence: Evidence) -> Tensor:
    r"""Adam's diagonal P at the checkpoint: its step is ``eta P^-1 m``, m the average of gradients as it is kept.

    ``P = (1 - beta_1^t) (sqrt(v / (1 - beta_2^t)) + eps)`` after t steps.

    Args:
        evidence: evidence of a checkpoint.

    Returns:
        (n,) float64 on the landscape's device, unit of the cost over that of the parameters.

    Raises:
        UserError: if there is no state of Adam, it does not fit the landscape's parameters, or no step was taken.

    Reference:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022.
    """

    def build(_: Tally) -> Tensor:
        from spectra.checkpoint import adam_moments
        from volume.preconditioners import adam_curvature

        optimizer, checkpoint, landscape = stored_optimizer(evidence), evidence.checkpoint, evidence.landscape
        assert checkpoint is not None
        if optimizer.second is None:
            raise UserError("the checkpoint's optimizer is SGD, which has no preconditioner")
        moments = adam_moments(checkpoint, landscape.model)
        if moments.step == 0:
            raise UserError("the checkpoint's Adam has taken no step: it has no preconditioner yet")
        second = adam_curvature(moments, landscape.parameters, "second").to(landscape.device)
        corrected = (second / (1.0 - optimizer.second**moments.step)).sqrt() + optimizer.epsilon
        if not bool((corrected > 0.0).all()):
            raise UserError("Adam's average of squared gradients is zero somewhere, and its eps too: it has no inverse")
        return corrected * (1.0 - optimizer.momentum**moments.step)

    return evidence.item("adam-preconditioner", build)
