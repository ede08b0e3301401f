"""Gauss-Newton and its kin: ``J^T B J`` with the Jacobian J of the outputs and B in output space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from spectra.batches import Batch
from spectra.costs import cost_name
from spectra.curvature import DEFAULT_MEMORY, Curvature, Product, Strategy, linearize
from spectra.errors import UserError, UserTypeError
from spectra.landscape import Landscape

OutputMap = Callable[[Tensor], Tensor]


class JacobianSandwich(Curvature):
    """``sum over batches of J^T B J``; a subclass says what B is.

    Core: J by differentiating ``u -> J^T u`` in u (the double-vjp trick), J^T by a backward pass, graphs built once
    a batch. Fast paths: the same, recorded and replayed without what does not depend on the vector; and, if asked for,
    J by ``torch.func.linearize`` of the model, one vector at a time or vmapped.
    """

    @abstractmethod
    def output_map(self, outputs: Tensor, batch: Batch) -> OutputMap:
        """B as a map of tangents (k, samples, K) to (k, samples, K), the samples' weights included."""

    def _shaped_map(self, outputs: Tensor, batch: Batch) -> OutputMap:
        """B as a map of tangents (k, ...) in the outputs' shape."""
        outputs = outputs.detach()
        samples = len(self.landscape.sample_costs(outputs, batch)[0])
        shape = as_rows(outputs, samples, self.landscape).shape
        curvature = self.output_map(outputs, batch)
        return lambda tangents: curvature(tangents.reshape(-1, *shape)).reshape(tangents.shape)

    def strategies(self) -> list[Strategy]:
        """Double vjp first, then the faster ways."""
        return [
            Strategy("double-vjp", self._double_vjp),
            Strategy("recorded", self.recorded, prepared=True),
            Strategy("recorded-batched", self.recorded_batched, prepared=True, batched=True),
            Strategy("linearize", self._linearize, linearised=True),
            Strategy("linearize-batched", self._linearize_batched, linearised=True, batched=True),
        ]

    def output_weights(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(samples, 1) weight of each sample over the total weight."""
        costs, weights = self.landscape.sample_costs(outputs, batch)
        weights = torch.ones_like(costs) if weights is None else weights.to(costs)
        return (weights / self.landscape.total_weight).detach().unsqueeze(-1)

    def _dual(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Leaves, outputs, a dual u in their shape, and ``J^T u`` (n,) with its graph in u."""
        evaluation, landscape = self.landscape.evaluation, self.landscape
        leaves = landscape.leaves(self.theta)
        parts = list(leaves.values())

        def prepare() -> tuple[Tensor, Tensor, Tensor]:
            outputs = _tensor(evaluation.outputs(batch.inputs))
            dual = torch.zeros_like(outputs, requires_grad=True)
            slopes = torch.autograd.grad(outputs, parts, dual, create_graph=True, allow_unused=True)
            return outputs, dual, landscape.flat(slopes, parts)

        return leaves, *evaluation.inside(leaves, prepare)

    def _double_vjp(self, batch: Batch) -> Product:
        evaluation, landscape = self.landscape.evaluation, self.landscape
        leaves, outputs, dual, transposed = self._dual(batch)
        parts = list(leaves.values())
        curvature = self._shaped_map(outputs, batch)

        def product(vectors: Tensor) -> Tensor:
            def row(vector: Tensor, out: Tensor | None = None) -> Tensor:
                (tangent,) = torch.autograd.grad(transposed, dual, vector, retain_graph=True)
                curved = curvature(tangent.unsqueeze(0))[0]
                slopes = torch.autograd.grad(outputs, parts, curved, retain_graph=True, allow_unused=True)
                return landscape.flat(slopes, parts, out=out)

            def rows() -> Tensor:
                # No copy of a row: of a large model each is worth sparing.
                if len(vectors) == 1:
                    return row(vectors[0]).unsqueeze(0)
                found = torch.empty_like(vectors)
                for place, vector in zip(found, vectors, strict=True):
                    row(vector, place)
                return found

            return evaluation.inside(leaves, rows)

        return product

    def differentiated(
        self, landscape: Landscape, theta: Tensor, direction: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``J d`` by the double-vjp trick, of the outputs."""
        inner = GaussNewton(landscape, theta=theta)
        found = []
        for batch in landscape.iterate():
            leaves, _, dual, transposed = inner._dual(batch)

            def tangent(dual: Tensor = dual, transposed: Tensor = transposed) -> Tensor:
                return torch.autograd.grad(transposed, dual, direction)[0]

            found.append(landscape.evaluation.inside(leaves, tangent).reshape(-1))
        return torch.cat(found), lambda theta: torch.cat([one.reshape(-1) for one in landscape.outputs(theta)])

    def _model(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        landscape = self.landscape
        return lambda theta: _tensor(landscape.evaluation(landscape.parameters.unflatten(theta), batch.inputs))

    def _linearize(self, batch: Batch) -> Product:
        outputs, tangent = self.linearised(batch, lambda: linearize(self._model(batch), self.theta))
        curvature = self._shaped_map(outputs, batch)
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
        outputs, tangent = self.linearised(batch, lambda: linearize(self._model(batch), self.theta))
        curvature = self._shaped_map(outputs, batch)
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

    def output_map(self, outputs: Tensor, batch: Batch) -> OutputMap:
        """The cost's Hessian in the outputs: closed form, or by double backward for a plain callable."""
        likelihood = self.landscape.likelihood
        if likelihood is None:
            return _differentiated_twice(self.landscape, outputs, batch)
        weights = self.output_weights(outputs, batch)
        rows = as_rows(outputs, len(weights), self.landscape)
        return lambda tangents: likelihood.hessian_product(rows, tangents) * weights


def as_rows(outputs: Tensor, samples: int, landscape: Landscape) -> Tensor:
    """Outputs as a matrix (samples, outputs per sample).

    Args:
        outputs: of any shape.
        samples: how many values the cost gives for them.
        landscape: for the message.

    Returns:
        A view of the outputs.

    Raises:
        UserError: if the number of outputs is not a multiple of the number of samples.
    """
    if samples == 0 or outputs.numel() % samples:
        raise UserError(
            f"cost {cost_name(landscape.cost_function)} gives {samples} values for outputs of shape "
            f"{tuple(outputs.shape)}: expected one value for each leading index of the outputs"
        )
    return outputs.reshape(samples, -1)


def _differentiated_twice(landscape: Landscape, outputs: Tensor, batch: Batch) -> OutputMap:
    leaf = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(landscape.batch_cost(leaf, batch), leaf, create_graph=True)

    def curvature(tangents: Tensor) -> Tensor:
        if not slope.requires_grad:
            return torch.zeros_like(tangents)
        rows = [torch.autograd.grad(slope, leaf, one.reshape(leaf.shape), retain_graph=True)[0] for one in tangents]
        return torch.stack(rows).reshape(tangents.shape)

    return curvature


def _tensor(outputs: object) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise UserTypeError(f"the model must return a tensor (or an object with logits), got {type(outputs).__name__}")
    return outputs
