"""Fisher matrices: exact, with sampled targets, and the empirical one, which is a different matrix."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spectra.costs import cost_name
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch, generator
from spectra.nested import mapped
from spectra.operators.curvature import DEFAULT_MEMORY
from spectra.operators.gauss_newton import JacobianSandwich, OutputMap, floats_in
from spectra.operators.registry import OperatorRow

Slopes = tuple[Tensor | None, ...]
KINDS = ("exact", "sampled", "empirical")
# Numbers are drawn for this many samples at once, for fewer where one takes many: half a megabyte.
BLOCK_SAMPLES, BLOCK_NUMBERS = 256, 2**16


class Fisher(JacobianSandwich):
    r"""``F = sum_i w_i J_i^T E[s s^T] J_i / sum_i w_i`` with the score s, the cost's gradient in the outputs.

    ``exact``: the expectation over the model's own targets in closed form; equal to the Gauss-Newton matrix for
    cross-entropy, KL and the squared error as a Gaussian. ``sampled``: the mean over targets drawn from the model,
    fixed by the seed. ``empirical``: the given targets; not an estimate of the Fisher (Kunstner et al. 2019).
    All are positive semidefinite. A token of a language model is a sample.
    """

    definite = True

    def __init__(
        self,
        landscape: Landscape,
        *,
        kind: str = "exact",
        draws: int = 1,
        seed: int = 0,
        theta: Tensor | None = None,
        strategy: str = "auto",
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        """Chooses the kind; see ``Curvature`` for the rest.

        Args:
            landscape: its cost must be a likelihood, except for the empirical Fisher.
            kind: ``exact``, ``sampled`` or ``empirical``.
            draws: targets drawn for each sample, for ``sampled``.
            seed: seed of those draws; a sample's depend on its place in the data, not on the split into batches.
            theta: (n,) the point; default the landscape's anchor.
            strategy: see ``Curvature``.
            memory: see ``Curvature``.

        Raises:
            UserError: for an unknown kind, fewer than one draw, or a cost that is no likelihood.
        """
        if kind not in KINDS:
            raise UserError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if draws < 1:
            raise UserError(f"draws must be at least 1, got {draws}")
        if kind != "empirical" and landscape.likelihood is None:
            raise UserError(
                f"the {kind} Fisher needs a cost that is a likelihood (cross_entropy, binary_cross_entropy, "
                "mean_squared_error, kl_from_anchor, a loss of torch that is one of them, or Part(name, cost) for one "
                f"of several outputs), got {cost_name(landscape.cost_function)}; the empirical Fisher and Gauss-Newton "
                "do not"
            )
        super().__init__(landscape, theta=theta, strategy=strategy, memory=memory)
        self.kind, self.draws, self.seed = kind, draws, seed
        self.name = "fisher" if kind == "exact" else f"{kind}-fisher"

    def again(self, landscape: Landscape) -> Fisher:
        """The same kind of Fisher of another landscape, with the same draws."""
        return Fisher(
            landscape,
            kind=self.kind,
            draws=self.draws,
            seed=self.seed,
            strategy=self.asked,
            memory=self.memory,
        )

    def output_rows(self, outputs: Any, batch: Batch) -> Tensor:
        """The outputs as a matrix (samples, K), differentiable."""
        if self.landscape.likelihood is not None:
            return super().output_rows(outputs, batch)
        samples = len(self.landscape.sample_costs(mapped(outputs, Tensor.detach), batch)[0])
        return self._by_sample(floats_in(outputs), samples)

    def _by_sample(self, tensors: list[Tensor], samples: int) -> Tensor:
        """Tensors that lead with the samples, as one matrix."""
        if samples == 0 or any(one.numel() % samples for one in tensors):
            shapes = ", ".join(str(tuple(one.shape)) for one in tensors)
            raise UserError(
                f"cost {cost_name(self.landscape.cost_function)} gives {samples} values for outputs of shape {shapes}: "
                f"the {self.name} needs one value for each leading index of the outputs"
            )
        return torch.cat([one.reshape(samples, -1) for one in tensors], dim=1)

    def output_map(self, outputs: Any, batch: Batch) -> OutputMap:
        """``t -> w E[s (s . t)]`` for each sample."""
        weights = self.output_weights(outputs, batch)
        if self.kind == "exact":
            likelihood = self.landscape.likelihood
            assert likelihood is not None
            rows = likelihood.rows(outputs, batch.targets)
            return lambda tangents: likelihood.hessian_product(rows, tangents, batch.targets) * weights
        scores = self.scores(outputs, batch)

        def curvature(tangents: Tensor) -> Tensor:
            along = (scores * tangents.unsqueeze(1)).sum(-1, keepdim=True)
            return (scores * along).mean(1) * weights

        return curvature

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """(draws, samples, K) gradients of the samples' costs in the outputs, at sampled or given targets."""
        if self.kind == "sampled":
            likelihood = self.landscape.likelihood
            assert likelihood is not None
            rows = likelihood.rows(outputs, batch.targets)
            places = range(batch.first, batch.first + len(rows))
            return likelihood.sample_scores(
                rows, lambda count: uniforms(self.seed, places, (self.draws, count), self.device), batch.targets
            )
        with torch.enable_grad():
            held = mapped(outputs, lambda one: one.detach().requires_grad_(one.is_floating_point()))
            leaves = floats_in(held)
            costs, _ = self.landscape.sample_costs(held, batch)
            # Each sample's gradient is in its own row, if no sample's cost depends on another's outputs.
            plain = self._slopes(costs.sum(), leaves)
            if self.landscape.likelihood is not None:
                return self.landscape.likelihood.rows(self._filled(held, plain), batch.targets).unsqueeze(0)
            source = generator(0, "signs", device=costs.device)
            signs = torch.randn(len(costs), generator=source, device=costs.device).sign().to(costs)
            signed = self._slopes(costs @ signs, leaves)
        rows = self._by_sample(plain, len(costs))
        apart = (self._by_sample(signed, len(costs)) - signs.unsqueeze(1) * rows).norm()
        if not bool(apart.double() <= 1e3 * torch.finfo(rows.dtype).eps * rows.norm().double()):
            raise UserError(
                f"the {self.name} needs the gradient of each sample, and under cost "
                f"{cost_name(self.landscape.cost_function)} a sample's cost depends on other rows of the outputs than "
                "its own: use the Hessian or Gauss-Newton"
            )
        return rows.unsqueeze(0)

    def gradient_draws(self) -> Tensor:
        """(draws, n) independent vectors whose second moment is the matrix: gradients at targets drawn from the model.

        The landscape's L2 is left out.

        Raises:
            UserError: if the kind is not ``sampled``.
        """
        if self.kind != "sampled":
            raise UserError(f"only the sampled Fisher draws targets, this is the {self.name}")
        landscape, total = self.landscape, self.landscape.theta.new_zeros(self.draws, self.size)
        for batch in landscape.iterate():
            leaves = landscape.leaves(self.theta)
            with torch.enable_grad():
                total += landscape.evaluation.inside(leaves, partial(self._batch_draws, batch, list(leaves.values())))
        return self.ranks.total(total)

    def _batch_draws(self, batch: Batch, parts: list[Tensor]) -> Tensor:
        outputs = self.landscape.evaluation.outputs(batch.inputs)
        rows, held = self.output_rows(outputs, batch), mapped(outputs, Tensor.detach)
        slopes = self.scores(held, batch) * self.output_weights(held, batch).sqrt()
        drawn = (torch.autograd.grad(rows, parts, slope, retain_graph=True, allow_unused=True) for slope in slopes)
        return torch.stack([self.landscape.parameters.concatenated(one, parts) for one in drawn])

    @staticmethod
    def _filled(outputs: Any, tensors: list[Tensor]) -> Any:
        """The nest of outputs with these tensors in the place of those of floating point."""
        others = iter(tensors)
        return mapped(outputs, lambda one: next(others) if one.is_floating_point() else one)

    def _slopes(self, value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        found: Slopes = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


def uniforms(seed: int, places: range, each: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Numbers uniform in (0, 1) that depend on a sample's place in the data, however it is split into batches.

    They are drawn for aligned blocks of samples, and cut.

    Args:
        seed: the user's seed.
        places: places of the samples within the data.
        each: (draws, count) numbers for each sample.
        device: where they are drawn; the numbers of another kind of device are others.

    Returns:
        (draws, samples, count), float64.

    >>> parts = [uniforms(0, range(0, 8), (1, 2)), uniforms(0, range(8, 10), (1, 2))]
    >>> bool(torch.equal(torch.cat(parts, dim=1), uniforms(0, range(10), (1, 2))))
    True
    """
    block = max(1, min(BLOCK_SAMPLES, BLOCK_NUMBERS // max(math.prod(each), 1)))
    found = [torch.empty(0, *each, dtype=torch.float64, device=device)]
    for index in range(places.start // block, -(-places.stop // block)):
        stream = generator(seed, f"sampled-fisher/{block}", index, device=device)
        # Centres of 2^52 equal intervals: never 0 or 1, where a distribution's inverse is infinite.
        drawn = (torch.randint(2**52, (block, *each), generator=stream, device=device).double() + 0.5) * 2.0**-52
        start = index * block
        found.append(drawn[max(places.start - start, 0) : places.stop - start])
    return torch.cat(found).transpose(0, 1)


ROWS = (
    OperatorRow("fisher", partial(Fisher, kind="exact"), semidefinite=True, models_cost=True),
    OperatorRow("sampled-fisher", partial(Fisher, kind="sampled"), semidefinite=True, drawn=True),
    OperatorRow(
        "empirical-fisher", partial(Fisher, kind="empirical"), semidefinite=True, models_cost=True, squared=True
    ),
)
