"""Gauss-Newton and Fisher matrices: ``J^T B J`` with the Jacobian J of the outputs and B in output space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectra.costs import cost_name
from spectra.errors import UserError, UserTypeError
from spectra.landscape import Landscape
from spectra.model import Batch
from spectra.nested import mapped, tensors_in
from spectra.operators.curvature import DEFAULT_MEMORY, Curvature, Product, Strategy, linearize, row_by_row
from spectra.operators.registry import OperatorRow

OutputMap = Callable[[Tensor], Tensor]
Slopes = tuple[Tensor | None, ...]


class JacobianSandwich(Curvature):
    """``sum over batches of J^T B J``; a subclass says what B is.

    J is the Jacobian of the outputs as a matrix, (samples, K) where the cost is a likelihood or its gradient is asked
    for sample by sample, else all numbers in one row.

    Core: J by differentiating ``u -> J^T u`` in u (the double-vjp trick), J^T by a backward pass, graphs built once
    a batch. Fast paths: the same, recorded and replayed without what does not depend on the vector; and, if asked for,
    J by ``torch.func.linearize`` of the model, one vector at a time or vmapped.
    """

    @abstractmethod
    def output_map(self, outputs: Any, batch: Batch) -> OutputMap:
        """B as a map of tangents (k, samples, K) to (k, samples, K), the samples' weights included."""

    def output_rows(self, outputs: Any, batch: Batch) -> Tensor:
        """The outputs as a matrix, differentiable."""
        likelihood = self.landscape.likelihood
        if likelihood is not None:
            return likelihood.rows(outputs, batch.targets)
        return torch.cat([one.reshape(1, -1) for one in floats_in(outputs)], dim=1)

    def strategies(self) -> list[Strategy]:
        """Double vjp first, then the faster ways."""
        return [
            Strategy("double-vjp", self._double_vjp),
            Strategy("recorded", self.recorded, prepared=True),
            Strategy("recorded-batched", self.recorded_batched, prepared=True, batched=True),
            Strategy("linearize", self._linearize, linearised=True),
            Strategy("linearize-batched", self._linearize_batched, linearised=True, batched=True),
        ]

    def output_weights(self, outputs: Any, batch: Batch) -> Tensor:
        """(samples, 1) weight of each sample over the total weight."""
        costs, weights = self.landscape.sample_costs(outputs, batch)
        weights = torch.ones_like(costs) if weights is None else weights.to(costs)
        return (weights / self.landscape.total_weight).detach().unsqueeze(-1)

    def _dual(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, OutputMap]:
        """Leaves, the outputs' rows, a dual u in their shape, ``J^T u`` (n,) with its graph in u, and B."""
        evaluation, landscape = self.landscape.evaluation, self.landscape
        leaves = landscape.leaves(self.theta)
        parts = list(leaves.values())

        def prepare() -> tuple[Tensor, Tensor, Tensor, OutputMap]:
            outputs = evaluation.outputs(batch.inputs)
            self._refuse_other_ways(mapped(outputs, Tensor.detach), batch)
            rows = self.output_rows(outputs, batch)
            dual = torch.zeros_like(rows, requires_grad=True)
            slopes = torch.autograd.grad(rows, parts, dual, create_graph=True, allow_unused=True)
            return (
                rows,
                dual,
                landscape.parameters.concatenated(slopes, parts),
                self.output_map(mapped(outputs, Tensor.detach), batch),
            )

        with torch.enable_grad():
            return leaves, *evaluation.inside(leaves, prepare)

    def _refuse_other_ways(self, outputs: Any, batch: Batch) -> None:
        """A cost that depends on the parameters by other ways than the outputs cannot be split at them."""
        if self.landscape.likelihood is None and self.landscape.batch_cost(outputs, batch).requires_grad:
            raise UserError(
                f"the {self.name} splits the cost at the model's outputs, and cost "
                f"{cost_name(self.landscape.cost_function)} depends on the parameters by other ways too (a penalty on "
                "them, or what a layer has kept): use the Hessian, or l2= for the penalty"
            )

    def _double_vjp(self, batch: Batch) -> Product:
        evaluation, landscape = self.landscape.evaluation, self.landscape
        leaves, outputs, dual, transposed, curvature = self._dual(batch)
        parts = list(leaves.values())

        def product(vectors: Tensor) -> Tensor:
            def row(vector: Tensor, out: Tensor | None = None) -> Tensor:
                (tangent,) = torch.autograd.grad(transposed, dual, vector, retain_graph=True)
                curved = curvature(tangent.unsqueeze(0))[0]
                slopes = torch.autograd.grad(outputs, parts, curved, retain_graph=True, allow_unused=True)
                return landscape.parameters.concatenated(slopes, parts, out=out)

            return evaluation.inside(leaves, lambda: row_by_row(row, vectors))

        return product

    def differentiated(
        self, landscape: Landscape, theta: Tensor, direction: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``J d`` by the double-vjp trick, of the outputs."""
        inner = GaussNewton(landscape, theta=theta)
        found = []
        for batch in landscape.iterate():
            leaves, _, dual, transposed, _ = inner._dual(batch)

            def tangent(dual: Tensor = dual, transposed: Tensor = transposed) -> Tensor:
                return torch.autograd.grad(transposed, dual, direction)[0]

            found.append(landscape.evaluation.inside(leaves, tangent).reshape(-1))

        def outputs_at(theta: Tensor) -> Tensor:
            pairs = zip(landscape.outputs(theta), landscape.iterate(), strict=True)
            return torch.cat([inner.output_rows(outputs, batch).reshape(-1) for outputs, batch in pairs])

        return torch.cat(found), outputs_at

    def _model(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        landscape = self.landscape

        def rows(theta: Tensor) -> Tensor:
            return landscape.evaluation.inside(
                landscape.parameters.unflatten(theta),
                lambda: self.output_rows(landscape.evaluation.outputs(batch.inputs), batch),
            )

        return rows

    def _output_map_at_theta(self, batch: Batch) -> OutputMap:
        """B at theta."""
        landscape = self.landscape
        tensors = landscape.parameters.unflatten(self.theta)
        with torch.no_grad():
            return landscape.evaluation.inside(
                tensors, lambda: self.output_map(landscape.evaluation.outputs(batch.inputs), batch)
            )

    def _linearize(self, batch: Batch) -> Product:
        _, tangent = self.linearised(batch, lambda: linearize(self._model(batch), self.theta))
        curvature = self._output_map_at_theta(batch)
        leaf = self.theta.detach().requires_grad_()
        graph = self._model(batch)(leaf)

        def product(vectors: Tensor) -> Tensor:
            found = []
            for vector in vectors:
                curved = curvature(tangent(vector).unsqueeze(0))[0]
                found.append(torch.autograd.grad(graph, leaf, curved, retain_graph=True)[0])
            return torch.stack(found)

        return product

    def _linearize_batched(self, batch: Batch) -> Product:
        _, tangent = self.linearised(batch, lambda: linearize(self._model(batch), self.theta))
        curvature = self._output_map_at_theta(batch)
        pullback = torch.func.vjp(self._model(batch), self.theta)[1]
        push, pull = torch.func.vmap(tangent), torch.func.vmap(lambda one: pullback(one)[0])

        def product(vectors: Tensor) -> Tensor:
            found: Tensor = pull(curvature(push(vectors)))
            return found

        return product


class GaussNewton(JacobianSandwich):
    r"""Generalised Gauss-Newton matrix ``G = sum_i w_i J_i^T (d^2 c_i / d f^2) J_i / sum_i w_i``.

    Positive semidefinite where the cost is convex in the outputs, as the built-in costs are. Split at the model's
    outputs. Reference: Schraudolph, Fast curvature matrix-vector products, 2002.
    """

    name = "gauss-newton"

    def __init__(
        self,
        landscape: Landscape,
        *,
        theta: Tensor | None = None,
        strategy: str = "auto",
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        """See ``Curvature``; a plain callable as cost is differentiated twice in the outputs."""
        super().__init__(landscape, theta=theta, strategy=strategy, memory=memory)
        self.definite = landscape.likelihood is not None

    def again(self, landscape: Landscape) -> GaussNewton:
        """The Gauss-Newton matrix of another landscape."""
        return GaussNewton(landscape, strategy=self.asked, memory=self.memory)

    def output_map(self, outputs: Any, batch: Batch) -> OutputMap:
        """The cost's Hessian in the outputs: closed form, or by double backward for a plain callable."""
        likelihood = self.landscape.likelihood
        if likelihood is None:
            return _differentiated_twice(self.landscape, outputs, batch)
        weights, rows = self.output_weights(outputs, batch), likelihood.rows(outputs, batch.targets)
        return lambda tangents: likelihood.hessian_product(rows, tangents, batch.targets) * weights


def floats_in(outputs: Any) -> list[Tensor]:
    """The tensors of outputs that can be differentiated.

    Args:
        outputs: outputs of a model: a tensor, or a nest of them.

    Returns:
        Those of floating point.

    Raises:
        UserTypeError: if there is none.
    """
    found = [one for one in tensors_in(outputs) if one.is_floating_point()]
    if not found:
        raise UserTypeError(f"the model must return tensors of real numbers, got {type(outputs).__name__}")
    return found


def _differentiated_twice(landscape: Landscape, outputs: Any, batch: Batch) -> OutputMap:
    with torch.enable_grad():
        held = mapped(outputs, lambda one: one.detach().requires_grad_(one.is_floating_point()))
        leaves = floats_in(held)
        value = landscape.batch_cost(held, batch)
        slopes: Slopes = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
        kept = [(slope, leaf) for slope, leaf in zip(slopes, leaves, strict=True) if slope is not None]
        flat = torch.cat([slope.reshape(-1) for slope, _ in kept]) if kept else None
    sizes = [leaf.numel() for leaf in leaves]
    used = [slope is not None for slope in slopes]

    def row(tangent: Tensor) -> Tensor:
        if flat is None or not flat.requires_grad:
            return torch.zeros_like(tangent)
        chunks = torch.split(tangent.reshape(-1), sizes)
        along = torch.cat([chunk for chunk, kept in zip(chunks, used, strict=True) if kept])
        found: Slopes = torch.autograd.grad(flat, leaves, along, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts]).reshape(tangent.shape)

    return lambda tangents: torch.stack([row(one) for one in tangents])


ROWS = (OperatorRow("gauss-newton", GaussNewton, semidefinite=True, models_cost=True),)
