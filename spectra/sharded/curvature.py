"""Products of curvatures with vectors in pieces: by double backward through the twin, or differences of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import FAST_PATH_FAILURES, UserError, out_of_memory
from spectra.model import generator
from spectra.operators import GaussNewton, Hessian, SymmetricOperator
from spectra.ranks import LostRankError
from spectra.sharded.differences import Step, central, chosen_step
from spectra.sharded.shard import Shard
from spectra.timing import TRIALS, phase

DEFAULT_MEMORY = 4 * 2**30

DOUBLE_BACKWARD, DOUBLE_VJP, DIFFERENCES = "double-backward", "double-vjp", "finite-differences"
# The ways to compute products of each curvature that is computed in pieces, the one that ``auto`` tries first before.
STRATEGIES = {"hessian": (DOUBLE_BACKWARD, DIFFERENCES), "gauss-newton": (DOUBLE_VJP,)}
# Derivatives that agree with central differences to this, and to some of the differences' own error, are right.
_AGREES, _ERRORS = 1e-3, 10.0
# Of products by differences one in so many is made twice, by steps of h and 2 h, which tells its error.
_LOOK_AT = 16
_WHOLE = (
    "they live in pieces on the ranks, and this needs whole ones; of a sharded landscape compute_spectrum "
    "computes the spectrum; else use Landscape(model, ...), which joins the model on every rank"
)


class ShardedCurvature(SymmetricOperator):
    """The Hessian or the Gauss-Newton matrix of a sharded landscape at its anchor; products through ``of_pieces``.

    Graphs are rebuilt for each block of vectors. Derivatives are held against central differences first: the gradient
    against those of the cost, the product against those of the gradient (Hessian) or of the outputs (Gauss-Newton).
    """

    def __init__(self, shard: Shard, name: str, strategy: str = "auto", memory: int = DEFAULT_MEMORY) -> None:
        """Prepares nothing yet; the first product does.

        Args:
            shard: the landscape in pieces.
            name: ``hessian`` or ``gauss-newton``.
            strategy: one of ``STRATEGIES``, or ``auto``.
            memory: bytes that double backward may hold where the strategy is ``auto``: slopes of all joined parameters
                wait, whole, for their second part.

        Raises:
            UserError: for another curvature or strategy.
        """
        if name not in STRATEGIES:
            raise UserError(
                f"the {name} is not computed on a sharded model, {' and '.join(STRATEGIES)} are: use Landscape(model, "
                "...), which joins the model on every rank, where it has room"
            )
        if strategy not in ("auto", *STRATEGIES[name]):
            raise UserError(
                f"strategy of the {name} of a sharded model must be auto or {' or '.join(STRATEGIES[name])}, "
                f"got {strategy!r}"
            )
        self.shard, self.name, self.strategy, self._memory = shard, name, strategy, memory
        self.pieces, self.ranks = shard.pieces, shard.ranks
        self.size, self.dtype, self.device = shard.pieces.size, shard.dtype, shard.device
        self._core = Hessian(shard) if name == "hessian" else GaussNewton(shard)
        self.definite = self._core.definite
        self._ready, self._step, self._made = False, Step(0.0, 0.0, 0.0, 0.0), 0
        self._worst, self._said = 0.0, ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the landscape, and on how products are computed and how far they are off."""
        words = f"the model stays in pieces on {self.ranks.count} ranks, products by {self.strategy}"
        if self.strategy == DIFFERENCES:
            words += (
                f" of the gradient, step {self._step.length:.2g}: off by at most {self._worst:.1g} of their norm where "
                f"that was measured (one product in {_LOOK_AT})"
            )
        return tuple(filter(None, (*self.shard.notes, words, self._said)))

    @property
    def coarseness(self) -> float:
        """The relative error of products by differences; 0 for others."""
        return self._worst

    def matmat(self, vectors: Tensor) -> Tensor:
        """Refused: whole vectors have no room."""
        raise UserError(
            f"the {self.name} of a sharded model takes no vectors of shape {tuple(vectors.shape)}: {_WHOLE}"
        )

    def of_pieces(self, parts: Tensor) -> Tensor:
        """Products with rows of which each rank has its pieces (k, width), as pieces (k, width).

        Raises:
            UserError: if a derivative is wrong or there is none.
        """
        parts = parts.to(self.device, self.dtype)
        if not self._ready:
            self._prepare()
        if self.strategy == DIFFERENCES:
            return torch.stack([self._difference(part) for part in parts])
        total = self.shard.l2 * parts
        for batch in self.shard.share():
            total += self._product(batch)(parts)
        return total

    def _product(self, batch: object) -> Callable[[Tensor], Tensor]:
        return self._core.strategies()[0].build(batch)  # type: ignore[arg-type]

    def _difference(self, part: Tensor) -> Tensor:
        length, step = self.shard.norm(part), self._step.length
        if length == 0.0:
            return torch.zeros_like(part)
        if not math.isfinite(length):
            return torch.full_like(part, math.nan)

        def line(at: float) -> Tensor:
            return self.shard.gradient(self.shard.theta + (at / length) * part)

        found = central(line, step)
        if self._made % _LOOK_AT == 0:
            apart = self.shard.norm(central(line, 2.0 * step) - found) / 3.0
            noise = self._step.noise / (math.sqrt(2.0) * step)
            self._worst = max(self._worst, math.hypot(apart, noise) / (self.shard.norm(found) or 1.0))
        self._made += 1
        return length * found

    @phase(TRIALS)
    def _prepare(self) -> None:
        shard, direction = self.shard, self._direction()
        shard.check_gradient_along(direction, self._first_step())
        if self.name == "gauss-newton":
            self._check_tangent(direction)
            self.strategy = DOUBLE_VJP
        elif self.strategy != DIFFERENCES:
            reason = self._wrong(direction)
            if reason and self.strategy == DOUBLE_BACKWARD:
                raise UserError(f"{reason}: leave the strategy to auto, or use {DIFFERENCES}")
            self.strategy, self._said = DIFFERENCES if reason else DOUBLE_BACKWARD, reason
        if self.strategy == DIFFERENCES:
            if shard.parameters.computed.itemsize < torch.float32.itemsize:
                raise UserError(
                    f"finite differences of the gradient need parameters in float32 or float64, got "
                    f"{shard.parameters.computed}: convert the model before it is sharded"
                )
            self._step = chosen_step(
                lambda at: shard.gradient(shard.theta + at * direction), shard.norm, self._first_step()
            )
            self._worst = self._step.error
        self._ready = True

    def _direction(self) -> Tensor:
        """This rank's part of a random unit vector."""
        drawn = self.shard.pieces.drawn(
            lambda number, count: torch.randn(
                count, generator=generator(0, "confirm", number, device=self.device), device=self.device
            ),
            self.shard.theta,
        )
        return drawn / self.shard.norm(drawn)

    def _first_step(self) -> float:
        epsilon = torch.finfo(self.shard.parameters.computed).eps
        return float(epsilon ** (1.0 / 3.0)) * (self.shard.norm(self.shard.theta) or 1.0)

    def _wrong(self, direction: Tensor) -> str:
        """Why double backward is not to be used; empty if it gives the gradient's derivative on the first batches."""
        shard, first, step = self.shard, next(self.shard.share()), self._first_step()
        if self.strategy == "auto" and self.size * self.dtype.itemsize > self._memory:
            return f"double backward would hold slopes of all parameters, {self.size * self.dtype.itemsize:.2g} bytes"
        try:
            found = self._product(first)(direction.unsqueeze(0))[0]
        except LostRankError:
            raise
        except FAST_PATH_FAILURES as problem:
            if out_of_memory(problem):
                raise
            return (
                f"the model has no second derivative ({type(problem).__name__}: {' '.join(str(problem).split())[:90]})"
            )

        def line(at: float) -> Tensor:
            return shard.batch_gradient(shard.theta + at * direction, first)

        return _disagreement("double backward", found, line, step, shard.norm)

    def _check_tangent(self, direction: Tensor) -> None:
        shard, first, core = self.shard, next(self.shard.share()), self._core
        assert isinstance(core, GaussNewton)
        leaves, _, dual, transposed, _ = core._dual(first)
        found = shard.evaluation.inside(leaves, lambda: torch.autograd.grad(transposed, dual, direction)[0])

        def line(at: float) -> Tensor:
            tensors = shard.parameters.unflatten(shard.theta + at * direction)
            with torch.no_grad():
                rows = lambda: core.output_rows(shard.evaluation.outputs(first.inputs), first)  # noqa: E731
                return shard.evaluation.inside(tensors, rows)

        reason = _disagreement("the double-vjp trick", found, line, self._first_step(), shard.norm)
        if reason:
            raise UserError(f"{reason}: the gauss-newton matrix of this model cannot be computed in pieces")


def _disagreement(
    what: str, found: Tensor, line: Callable[[float], Tensor], step: float, norm: Callable[[Tensor], float]
) -> str:
    """How far a derivative is from central differences; empty if no further than these may be off."""
    near, far = central(line, step), central(line, 2.0 * step)
    size = max(norm(near), norm(found))
    epsilon = torch.finfo(found.dtype).eps
    allowed = _AGREES * size + _ERRORS * norm(far - near) / 3.0 + _ERRORS * epsilon * norm(line(0.0)) / step
    difference = norm(found - near)
    if difference <= allowed:
        return ""
    return f"{what} differs from finite differences by {difference / (size or 1.0):.2g} of their norm"
