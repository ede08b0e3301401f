"""What curvature needs of a cost in the space of outputs: the interface of likelihoods, and one on a part of them.

A cost is any callable ``(outputs, targets) -> (samples,)``. A likelihood knows more: its Hessian in the outputs (for
Gauss-Newton), a square root of it (for the Gram route), how to draw targets from the model's own likelihood (for the
Fisher), and which samples count (masked tokens do not).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError, UserTypeError

PerSampleCost = Callable[[Any, Any], Tensor]
# Numbers uniform in (0, 1) for each sample, as many as asked for: (draws, samples, asked), float64.
Uniforms = Callable[[int], Tensor]


class Likelihood(ABC):
    """A cost that is the negative log-likelihood of a model of the targets, up to a constant.

    The average cost is ``sum_i w_i c_i / sum_i w_i``. ``rows`` below are the outputs as a matrix (samples, K).

    Attributes:
        name: what messages and files call it.
        unit: unit of its values.
        notes: sentences on how it averages, where that is not plain.
    """

    name: str
    unit: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Cost c of each sample, (samples,)."""

    @abstractmethod
    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses, in a sentence, targets that are none for these outputs; asked once for each batch."""

    @property
    def inner(self) -> Likelihood:
        """The likelihood itself, or that of a part of the outputs."""
        return self

    def own_targets(self, targets: Any) -> Any:
        """The targets, or those of a part of the outputs."""
        return targets

    def settled(self, outputs: Any, targets: Any) -> Likelihood:  # noqa: ARG002  # others need them
        """The cost with what its first batch decides, the axis of the classes say."""
        return self

    def weights(self, targets: Any) -> Tensor | None:  # noqa: ARG002  # others need them
        """Weight w of each sample, (samples,) float64; None if each counts one."""
        return None

    def laid_out(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ARG002  # others need them
        """The outputs with the dimension that a softmax runs over last."""
        found: Tensor = outputs
        return found

    def rows(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ARG002  # others need them
        """The outputs as a matrix (samples, K), differentiable."""
        found: Tensor = outputs.reshape(len(outputs), -1)
        return found

    @abstractmethod
    def hessian_product(self, rows: Tensor, tangents: Tensor, targets: Any) -> Tensor:
        """Hessian of each sample's cost in its outputs, times tangents (..., samples, K) -> (..., samples, K)."""

    @abstractmethod
    def hessian_factor(self, rows: Tensor, targets: Any) -> Tensor:
        """(samples, K, K) with ``factor^T factor`` the Hessian of each sample's cost in its outputs."""

    @abstractmethod
    def hessian_diagonal(self, rows: Tensor, targets: Any) -> Tensor:
        """(samples, K) diagonal of the Hessian of each sample's cost in its outputs."""

    @abstractmethod
    def sample_scores(self, rows: Tensor, uniforms: Uniforms, targets: Any) -> Tensor:
        """(draws, samples, K) gradients of the cost in the outputs at targets drawn from the model.

        Their second moment is the Hessian; where weights depend on the targets, those of the data are kept.
        """


@dataclass(frozen=True, eq=False)
class Part(Likelihood):
    """A likelihood on a named part of the outputs, of a model that gives a tuple, a named tuple or a mapping.

    Attributes:
        part: key, position or attribute of the part.
        likelihood: the cost on it.
        of_targets: key, position or attribute of its targets; None takes the targets as they are.

    >>> from spectra.costs.builtin import mean_squared_error
    >>> one = Part("main", mean_squared_error)
    >>> one({"main": torch.ones(2, 1), "other": torch.zeros(2, 1)}, torch.zeros(2, 1)).tolist()
    [1.0, 1.0]
    """

    part: str | int
    likelihood: Likelihood
    of_targets: str | int | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The likelihood's, and of which part."""
        return f"{self.likelihood.name} of {self.part}"

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The likelihood's."""
        return self.likelihood.unit

    @property
    def inner(self) -> Likelihood:
        """The likelihood of the part."""
        return self.likelihood.inner

    def own_targets(self, targets: Any) -> Any:
        """The targets of the part."""
        # The divergence from the anchor has targets of its own, a tensor.
        if self.of_targets is None or isinstance(targets, Tensor):
            return targets
        return part_of(targets, self.of_targets, "targets")

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Cost of each sample, (samples,)."""
        return self.likelihood(part_of(outputs, self.part, "outputs"), self.own_targets(targets))

    def check(self, outputs: Any, targets: Any) -> None:
        """As the likelihood does."""
        self.likelihood.check(part_of(outputs, self.part, "outputs"), self.own_targets(targets))

    def settled(self, outputs: Any, targets: Any) -> Part:
        """The same on the settled likelihood."""
        inner = self.likelihood.settled(part_of(outputs, self.part, "outputs"), self.own_targets(targets))
        return replace(self, likelihood=inner)

    def weights(self, targets: Any) -> Tensor | None:
        """As the likelihood has them."""
        return self.likelihood.weights(self.own_targets(targets))

    def laid_out(self, outputs: Any, targets: Any) -> Tensor:
        """The part as the likelihood lays it out."""
        return self.likelihood.laid_out(part_of(outputs, self.part, "outputs"), self.own_targets(targets))

    def rows(self, outputs: Any, targets: Any) -> Tensor:
        """Those of the part."""
        return self.likelihood.rows(part_of(outputs, self.part, "outputs"), self.own_targets(targets))

    def hessian_product(self, rows: Tensor, tangents: Tensor, targets: Any) -> Tensor:
        """As the likelihood has it."""
        return self.likelihood.hessian_product(rows, tangents, self.own_targets(targets))

    def hessian_factor(self, rows: Tensor, targets: Any) -> Tensor:
        """As the likelihood has it."""
        return self.likelihood.hessian_factor(rows, self.own_targets(targets))

    def hessian_diagonal(self, rows: Tensor, targets: Any) -> Tensor:
        """As the likelihood has it."""
        return self.likelihood.hessian_diagonal(rows, self.own_targets(targets))

    def sample_scores(self, rows: Tensor, uniforms: Uniforms, targets: Any) -> Tensor:
        """As the likelihood has them."""
        return self.likelihood.sample_scores(rows, uniforms, self.own_targets(targets))


def cost_name(cost: PerSampleCost) -> str:
    """Name of a cost for messages and files."""
    return str(getattr(cost, "name", getattr(cost, "__name__", type(cost).__name__)))


def part_of(whole: Any, part: str | int, what: str) -> Any:
    """A part of outputs or targets (``what``) by key, position or attribute."""
    names = list(whole) if isinstance(whole, Mapping) else getattr(whole, "_fields", None)
    if isinstance(whole, Mapping) and part in whole:
        return whole[part]
    if isinstance(whole, tuple | list) and isinstance(part, int) and -len(whole) <= part < len(whole):
        return whole[part]
    if isinstance(part, str) and isinstance(getattr(whole, part, None), Tensor):
        return getattr(whole, part)
    there = ", ".join(map(str, names)) if names else f"{type(whole).__name__}"
    length = f" of {len(whole)}" if isinstance(whole, tuple | list) and not names else ""
    raise UserError(f"the {what} have no part {part!r}: there is {there}{length}")


def precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least: a softmax over a vocabulary has no right digit in half precision.

    >>> precise(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def check_tensor(name: str, what: str, given: Any) -> None:
    """Refuses outputs or targets that are no tensor."""
    if not isinstance(given, Tensor):
        advice = "; for one of several outputs use Part(name, cost)" if what == "outputs" else ""
        raise UserTypeError(
            f"cost {name} needs {what} that are a tensor{' (or an object with logits)' if what == 'outputs' else ''}, "
            f"got {type(given).__name__}{advice}"
        )


def check_tensors(name: str, outputs: Any, targets: Any) -> None:
    """Refuses outputs and targets that are no tensors, or missing."""
    check_tensor(name, "outputs", outputs)
    if targets is None:
        raise UserError(f"cost {name} needs targets, the data has none")
    check_tensor(name, "targets", targets)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape as a message shows it."""
    return tuple(tensor.shape)
