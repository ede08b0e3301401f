"""The landscape of a model that stays sharded: what its spectrum needs, and a refusal of everything else."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from spectra.costs import PerSampleCost
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batches, ParameterLayout, Patterns
from spectra.ranks import Ranks
from spectra.sharded.curvature import DEFAULT_MEMORY, ShardedCurvature
from spectra.sharded.shard import Shard


class _RefusedError(UserError, AttributeError):
    """What a sharded landscape does not have, because it would need whole vectors."""


class ShardedLandscape:
    """The cost of a sharded model (FSDP2, DTensor) on data, of which no rank ever holds all parameters.

    Theta, gradients and the vectors of Lanczos live in pieces, one of each parameter on every rank; a parameter is
    joined while a module uses it. Memory of vectors falls as one over the number of ranks. ``compute_spectrum`` and
    ``basinscope.spectrum`` take it in place of a ``Landscape``; all ranks make and use it together, with the same model
    and all of the data, of which each evaluates whole batches of its own. Everything else refuses it.

    Attributes:
        parameters: layout of the whole parameters.
        batches: the data as read.
        ranks: the processes.
        size: number of parameters n.
        dtype: dtype of theta.
        device: where theta's pieces live.
        cost_function: the per-sample cost.
        samples: number of samples of a weight above zero.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: PerSampleCost,
        batches: Any,
        *,
        parameters: Patterns = "*",
        l2: float = 0.0,
        mode: str = "eval",
        notes: tuple[str, ...] = (),
        ranks: Ranks | None = None,
    ) -> None:
        """Cuts the model into pieces, reads the data, and refuses what cannot be trusted.

        Args:
            model: any module, sharded or whole; it is left as found.
            cost: as of ``Landscape``; ``kl_from_anchor`` is refused.
            batches: as of ``Landscape``, the same on all ranks; at least as many as ranks, or some have no work.
            parameters: patterns of the names to select.
            l2: coefficient of the penalty, non-negative.
            mode: ``eval`` or ``train``.
            notes: sentences for whoever reads the results.
            ranks: the processes; default those of torch's default group.

        Raises:
            UserError: as of ``Landscape``; for modules that cannot be taken in pieces (recurrent ones of torch, the
                first FullyShardedDataParallel), or if the pieces give other outputs than the model under its own hooks.

        >>> import torch
        >>> from spectra.costs import mean_squared_error
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> found = ShardedLandscape(nn.Linear(1, 1, bias=False), mean_squared_error, (x, torch.zeros(2, 1)))
        >>> found.size, found.ranks.count
        (1, 1)
        """
        self._made: dict[str, Any] = {"l2": l2, "mode": mode, "notes": notes}
        self._model, self._cost = model, cost
        self.ranks = Ranks.current() if ranks is None else ranks
        self._shard = Shard(model, cost, batches, parameters=parameters, ranks=self.ranks, **self._made)
        layout, pieces = self._shard.parameters, self._shard.pieces
        self.parameters = ParameterLayout(layout.names, pieces.shapes, layout.dtypes)
        self.batches: Batches = self._shard.batches
        self.size, self.dtype, self.device = pieces.size, self._shard.dtype, self._shard.device
        self.cost_function, self.samples = self._shard.cost_function, self._shard.samples

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the data and the model."""
        return self._shard.notes

    def cost(self) -> float:
        """The cost at the anchor, unit of the per-sample cost."""
        return self._shard.cost()

    def gradient_norm(self) -> float:
        """The norm of the gradient at the anchor."""
        return self._shard.norm(self._shard.gradient())

    def curvature(self, name: str, *, strategy: str = "auto", memory: int = DEFAULT_MEMORY) -> ShardedCurvature:
        """The Hessian or the Gauss-Newton matrix, by name; see ``ShardedCurvature``."""
        return ShardedCurvature(self._shard, name, strategy, memory)

    @property
    def sha256(self) -> str:
        """Digest of theta, its pieces in the order of ranks; another one for another number of ranks."""
        mine = self._shard.theta.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        return hashlib.sha256("".join(self.ranks.texts(hashlib.sha256(mine).hexdigest())).encode()).hexdigest()

    def over(self, _: Ranks) -> ShardedLandscape:
        """Itself: it is shared out already."""
        return self

    def restricted(self, patterns: Patterns) -> ShardedLandscape:
        """The same landscape with only the parameters that match as variables."""
        return ShardedLandscape(
            self._model, self._cost, self.batches, parameters=patterns, ranks=self.ranks, **self._made
        )

    def __getattr__(self, name: str) -> Any:
        """Refuses what only a whole landscape has."""
        if not name.startswith("_") and (hasattr(Landscape, name) or name in ("theta", "evaluation", "model")):
            raise _RefusedError(
                f"a sharded landscape has no {name}: only spectra are computed in pieces (compute_spectrum, of the "
                "hessian or gauss-newton); use Landscape(model, ...), which joins the model on every rank"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")
