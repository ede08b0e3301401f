"""The Hessian of the cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.landscape import Landscape
from spectra.model import Batch
from spectra.operators.curvature import Curvature, Product, Strategy, flat_cost, linearize, row_by_row
from spectra.operators.registry import OperatorRow


class Hessian(Curvature):
    r"""``H = d^2 C / d theta^2``: symmetric, in general indefinite.

    Core: the gradient's graph is built once a batch (``autograd.grad`` with ``create_graph``) and differentiated
    again for each vector (Pearlmutter 1994). Fast paths: the same, recorded and replayed without what does not depend
    on the vector; the same, all vectors in one vmapped backward pass; and, if asked for, ``torch.func.linearize`` of
    the gradient, one vector at a time or vmapped.
    """

    name = "hessian"

    def strategies(self) -> list[Strategy]:
        """Double backward first, then the faster ways."""
        return [
            Strategy("double-backward", self._double_backward),
            Strategy("recorded", self.recorded, prepared=True),
            Strategy("recorded-batched", self.recorded_batched, prepared=True, batched=True),
            Strategy("batched-backward", self._batched_backward, batched=True, instead_of="recorded-batched"),
            Strategy("linearize", self._linearize, linearised=True),
            Strategy("linearize-batched", self._linearize_batched, linearised=True, batched=True),
        ]

    def differentiated(
        self, landscape: Landscape, theta: Tensor, direction: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``H d`` by double backward, of the gradient."""
        inner = Hessian(landscape, theta=theta)
        products = (inner._double_backward(batch)(direction.unsqueeze(0))[0] for batch in landscape.iterate())
        found = sum(products, landscape.l2 * direction)
        return found, landscape.gradient

    def again(self, landscape: Landscape) -> Hessian:
        """The Hessian of another landscape."""
        return Hessian(landscape, strategy=self.asked, memory=self.memory)

    def _graph(self, batch: Batch) -> tuple[list[Tensor], Tensor | None, dict[str, Tensor]]:
        """Leaves, the gradient as one vector with its graph (None if it is constant), leaves by name."""
        landscape = self.landscape
        leaves = landscape.leaves(self.theta)
        parts = list(leaves.values())

        def gradient() -> Tensor:
            cost = landscape.batch_cost(landscape.evaluation.outputs(batch.inputs), batch)
            slopes = torch.autograd.grad(cost, parts, create_graph=True, allow_unused=True)
            return landscape.parameters.concatenated(slopes, parts)

        with torch.enable_grad():
            flat = landscape.evaluation.inside(leaves, gradient)
        return parts, flat if flat.requires_grad else None, leaves

    def _double_backward(self, batch: Batch) -> Product:
        parts, gradient, leaves = self._graph(batch)

        def product(vectors: Tensor) -> Tensor:
            if gradient is None:
                return torch.zeros_like(vectors)
            flat = gradient

            def row(vector: Tensor, out: Tensor | None = None) -> Tensor:
                slopes = torch.autograd.grad(flat, parts, vector, retain_graph=True, allow_unused=True)
                return self.landscape.parameters.concatenated(slopes, parts, out=out)

            return self.landscape.evaluation.inside(leaves, lambda: row_by_row(row, vectors))

        return product

    def _batched_backward(self, batch: Batch) -> Product:
        parts, gradient, leaves = self._graph(batch)

        def product(vectors: Tensor) -> Tensor:
            if gradient is None:
                return torch.zeros_like(vectors)
            flat = gradient

            def block() -> tuple[Tensor | None, ...]:
                return torch.autograd.grad(
                    flat, parts, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
                )

            slopes = self.landscape.evaluation.inside(leaves, block)
            count = len(vectors)
            rows = (
                vectors.new_zeros(count, part.numel()) if slope is None else slope.reshape(count, -1).to(self.dtype)
                for slope, part in zip(slopes, parts, strict=True)
            )
            return torch.cat(list(rows), dim=1)

        return product

    def _linearize(self, batch: Batch) -> Product:
        tangent = self._tangent(batch)
        return lambda vectors: torch.stack([tangent(vector) for vector in vectors])

    def _linearize_batched(self, batch: Batch) -> Product:
        mapped = torch.func.vmap(self._tangent(batch))
        return lambda vectors: mapped(vectors)

    def _tangent(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        cost = flat_cost(self.landscape, batch)
        return self.linearised(batch, lambda: linearize(torch.func.grad(cost), self.theta))[1]


ROWS = (OperatorRow("hessian", Hessian, models_cost=True),)
