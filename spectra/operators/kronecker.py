"""The Gauss-Newton matrix by layers as Kronecker products (KFAC), with its own diagonal in their eigenbasis (EKFAC)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch, generator
from spectra.nested import mapped
from spectra.operators.fisher import uniforms
from spectra.operators.gauss_newton import GaussNewton
from spectra.operators.linear import SymmetricOperator

# A pass for each output of the model is exact; where there are more, targets are drawn so often from the model.
MOST_OUTPUTS, DRAWS = 32, 8
# A layer with more inputs or outputs is left out: its factors would not be decomposed in reasonable time and memory.
MOST_SIDE = 8192
# Numbers that the rotated gradients of a chunk of rows may take.
_CHUNK = 2**24
TensorFunction = Callable[[Tensor], Tensor]
Slopes = tuple[Tensor | None, ...]
# By layer: its inputs with its outputs, or the gradients of these, for each of its calls.
Calls = dict[str, list[tuple[Tensor, Tensor]]]
# What is done with the calls of a batch, the gradients, squares of those of other parameters, and the weight of a pass.
_Add = Callable[[Calls, dict[str, list[Tensor]], float], None]


@dataclass(eq=False)
class _Block:
    """The parameters of a layer as a matrix (outputs, inputs, and one for the bias), with its two factors.

    Attributes:
        module: the layer.
        biased: whether it has a bias.
        places: (outputs, inputs) positions in theta.
        left: (outputs, outputs) second moment of the gradients of the outputs, then its eigenvectors as columns.
        right: (inputs, inputs) second moment of the inputs, then its eigenvectors as columns.
        values: (outputs, inputs) eigenvalues.
    """

    module: nn.Module
    biased: bool
    places: Tensor
    left: Tensor
    right: Tensor
    values: Tensor

    def inputs(self, given: Tensor) -> Tensor:
        """(rows, positions, inputs) what the matrix is multiplied with."""
        if isinstance(self.module, nn.Conv2d):
            options = {name: getattr(self.module, name) for name in ("kernel_size", "dilation", "padding", "stride")}
            found = nn.functional.unfold(given, **options).transpose(1, 2)
        else:
            found = given.reshape(len(given), -1, given.shape[-1])
        return nn.functional.pad(found, (0, 1), value=1.0) if self.biased else found

    def outputs(self, slopes: Tensor) -> Tensor:
        """(rows, positions, outputs) gradients of what comes out."""
        if isinstance(self.module, nn.Conv2d):
            return slopes.flatten(2).transpose(1, 2)
        return slopes.reshape(len(slopes), -1, slopes.shape[-1])


def _plain(module: nn.Module) -> bool:
    """Whether a layer is a matrix times its inputs, or times patches of them."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


class KroneckerFactored(SymmetricOperator):
    r"""K, block diagonal: for each linear or convolutional layer ``sum_pq l_pq (u_p u_p^T) x (v_q v_q^T)``.

    u are the eigenvectors of ``B = E d d^T``, d the gradient of the layer's outputs, and v those of ``A = E a a^T``, a
    its inputs with a one for the bias. KFAC has ``l_pq = beta_p alpha_q``, the product of their eigenvalues. EKFAC has
    the diagonal of the Gauss-Newton matrix in that basis, ``l_pq = E (u_p^T D v_q)^2``, D the gradient of a sample.
    Other parameters, and those of layers with more than 8,192 inputs or outputs, have the mean of the diagonal over
    each tensor. Gradients are those of the outputs' Hessian's square root, so that up to 32 outputs everything is exact
    but the factorisation itself; of more outputs eight targets are drawn for each sample.

    Attributes:
        landscape: the cost; a likelihood.
        corrected: whether the eigenvalues are those of EKFAC.
        gradients: backward passes over all data that it took.
        same_trace: whether its trace is that of the Gauss-Newton matrix to rounding, and not on average: where EKFAC
            covers all parameters, each row of the data is one sample, and there are at most 32 outputs.

    Reference:
        Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, 2015; Grosse and
        Martens, A Kronecker-factored approximate Fisher matrix for convolution layers, 2016; George et al., Fast
        approximate natural gradient descent in a Kronecker factored eigenbasis, 2018.
    """

    definite, name = True, "kronecker-factored"

    def __init__(self, landscape: Landscape, *, corrected: bool = True, seed: int = 0) -> None:
        """Takes two sweeps over the data, or one without the correction, each with a backward pass an output.

        Args:
            landscape: the cost.
            corrected: EKFAC, and not KFAC.
            seed: seed of the random signs.

        Raises:
            UserError: if the cost is no likelihood, or no parameter is that of a linear or convolutional layer.
        """
        if landscape.likelihood is None:
            raise UserError("Kronecker factors need a cost that is a likelihood")
        self.landscape, self.corrected, self.seed = landscape, corrected, seed
        self.size, self.dtype, self.device = landscape.size, landscape.dtype, landscape.device
        self.gradients, self.same_trace = 0.0, corrected
        self._gauss_newton = GaussNewton(landscape)
        self._blocks = dict(self._layers())
        if not self._blocks:
            raise UserError("no parameter is that of a linear or convolutional layer: there are no Kronecker factors")
        self._fit()

    def _layers(self) -> Iterator[tuple[str, _Block]]:
        layout = self.landscape.parameters
        starts = dict(zip(layout.names, torch.tensor([0, *layout.sizes]).cumsum(0)[:-1].tolist(), strict=True))
        shapes = dict(zip(layout.names, layout.shapes, strict=True))
        for path, module in self.landscape.evaluation.model.named_modules():
            weight = f"{path}.weight" if path else "weight"
            bias, biased = weight.removesuffix("weight") + "bias", getattr(module, "bias", None) is not None
            if not _plain(module) or weight not in starts or (biased and bias not in starts):
                continue
            rows = shapes[weight][0]
            if max(rows, shapes[weight].numel() // rows + biased) > MOST_SIDE:
                continue
            places = torch.arange(starts[weight], starts[weight] + shapes[weight].numel()).reshape(rows, -1)
            if biased:
                places = torch.cat([places, torch.arange(starts[bias], starts[bias] + rows)[:, None]], 1)
            left, right = (torch.zeros(side, side, dtype=torch.float64, device=self.device) for side in places.shape)
            yield path, _Block(module, biased, places.to(self.device), left, right, torch.zeros_like(left))

    def _fit(self) -> None:
        held = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        for block in self._blocks.values():
            held[block.places] = True
        layout = self.landscape.parameters
        starts = torch.tensor([0, *layout.sizes[:-1]]).cumsum(0).tolist()
        self._free = ~held
        self._others = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        self._free_names = [name for name, start in zip(layout.names, starts, strict=True) if not bool(held[start])]
        counts = dict.fromkeys(self._blocks, 0.0)
        means = dict.fromkeys(self._free_names, 0.0)

        def factors(calls: Calls, slopes: dict[str, list[Tensor]], share: float) -> None:
            for name, block in self._blocks.items():
                for (given, _), slope in zip(calls[name], slopes[name], strict=True):
                    a, d = block.inputs(given).flatten(0, 1), block.outputs(slope).flatten(0, 1)
                    block.right += (a.T @ a).double() * share
                    block.left += (d.T @ d).double() * share
                    counts[name] += len(a) * share
            for name in self._free_names:
                means[name] += share * float(slopes[name][0].double().square().mean())

        self._sweep(factors)
        for name, block in self._blocks.items():
            left, block.left = torch.linalg.eigh(block.left)
            right, block.right = torch.linalg.eigh(block.right / max(counts[name], 1.0))
            products = torch.outer(left.clamp_min(0.0), right.clamp_min(0.0))
            block.values = torch.zeros_like(products) if self.corrected else products
        if self.corrected:
            self._sweep(self._add_squares)
        for name, start, size in zip(layout.names, starts, layout.sizes, strict=True):
            self._others[start : start + size] = means.get(name, 0.0)

    def _add_squares(self, calls: Calls, slopes: dict[str, list[Tensor]], share: float) -> None:
        for name, block in self._blocks.items():
            if not calls[name]:
                continue
            # A layer that is called several times adds to the gradient of one matrix.
            inputs = torch.cat([block.inputs(given) for given, _ in calls[name]], 1)
            a = inputs @ block.right.to(inputs)
            d = torch.cat([block.outputs(slope) for slope in slopes[name]], 1) @ block.left.to(inputs)
            if a.shape[1] == 1:
                block.values += (d[:, 0].square().T @ a[:, 0].square()).double() * share
                continue
            chunk = max(1, _CHUNK // block.values.numel())
            for first in range(0, len(a), chunk):
                rows = slice(first, first + chunk)
                block.values += torch.bmm(d[rows].transpose(1, 2), a[rows]).square().sum(0).double() * share

    def _sweep(self, add: _Add) -> None:
        """Hands on inputs of all layers and the gradients of their outputs and of other parameters, pass by pass."""
        calls: Calls = {name: [] for name in self._blocks}

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def add_call(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
                if made.requires_grad:
                    calls[name].append((given[0].detach(), made))

            return add_call

        handles = [block.module.register_forward_hook(keep(name)) for name, block in self._blocks.items()]
        try:
            for batch in self.landscape.iterate():
                leaves = self.landscape.leaves(self.landscape.theta)
                with torch.enable_grad():
                    self.landscape.evaluation.inside(leaves, partial(self._batch, batch, leaves, calls, add))
                for found in calls.values():
                    found.clear()
        finally:
            for handle in handles:
                handle.remove()

    def _batch(self, batch: Batch, leaves: dict[str, Tensor], calls: Calls, add: _Add) -> None:
        outputs = self.landscape.evaluation.outputs(batch.inputs)
        rows = self._gauss_newton.output_rows(outputs, batch)
        cotangents = self._cotangents(mapped(outputs, Tensor.detach), batch)
        self.same_trace &= len(rows) == batch.rows and rows.shape[1] <= MOST_OUTPUTS and not self._free_names
        share = 1.0 if rows.shape[1] <= MOST_OUTPUTS else 1.0 / DRAWS
        self.gradients += len(cotangents) * len(rows) / self.landscape.samples
        at = {name: [made for _, made in kept] for name, kept in calls.items()}
        at |= {name: [leaves[name]] for name in self._free_names}
        points = [one for made in at.values() for one in made]
        for cotangent in cotangents:
            found: Slopes = torch.autograd.grad(rows, points, cotangent, retain_graph=True, allow_unused=True)
            slopes = iter(found)
            filled = {
                name: [torch.zeros_like(one) if (slope := next(slopes)) is None else slope for one in made]
                for name, made in at.items()
            }
            add(calls, filled, share)

    def _cotangents(self, outputs: Any, batch: Batch) -> list[Tensor]:
        """Gradients in the outputs (samples, K) whose squares add up to the Hessian in the outputs, or do on average.

        Signs keep samples of one row apart on average, of which the model makes one gradient.
        """
        likelihood = self.landscape.likelihood
        assert likelihood is not None
        rows = likelihood.rows(outputs, batch.targets)
        roots = self._gauss_newton.output_weights(outputs, batch).sqrt()
        source = generator(self.seed, "kronecker", batch.number, device=rows.device)

        def signed(slopes: Tensor) -> Tensor:
            signs = 2.0 * torch.randint(0, 2, (len(slopes), 1), generator=source, device=rows.device) - 1.0
            return slopes * roots * signs.to(slopes)

        if rows.shape[1] <= MOST_OUTPUTS:
            factor = likelihood.hessian_factor(rows, batch.targets)
            return [signed(factor[:, rank]) for rank in range(factor.shape[1])]
        places = range(batch.first, batch.first + len(rows))
        drawn = lambda count: uniforms(self.seed, places, (DRAWS, count), rows.device)  # noqa: E731
        return [signed(scores) for scores in likelihood.sample_scores(rows, drawn, batch.targets)]

    def values(self) -> Tensor:
        """(n,) eigenvalues, the penalty's part among them, in no order."""
        found = [block.values.flatten() for block in self._blocks.values()]
        return torch.cat([*found, self._others[self._free]]) + self.landscape.l2

    def integrate(self, function: TensorFunction) -> float:
        """``tr f(K)``."""
        return float(function(self.values()).sum())

    def apply(self, rows: Tensor, function: TensorFunction) -> Tensor:
        """``V f(K)`` for rows V (k, n)."""
        rows, l2 = self._checked(rows), self.landscape.l2
        found = rows * function(self._others + l2).to(rows)
        for block in self._blocks.values():
            left, right = block.left.to(rows), block.right.to(rows)
            turned = left.T @ rows[:, block.places] @ right
            found[:, block.places] = left @ (turned * function(block.values + l2).to(rows)) @ right.T
        return found

    def forms(self, rows: Tensor, function: TensorFunction) -> Tensor:
        """``v^T f(K) v`` of each row of V (k, n), float64 (k,)."""
        return (self.apply(rows, function).double() * rows.double()).sum(1)

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V K`` for rows V (k, n)."""
        return self.apply(vectors, lambda x: x)
