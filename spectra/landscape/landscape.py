"""The landscape: model, data and cost as a function of the flat parameter vector theta."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spectra.costs import (
    KLFromAnchor,
    PerSampleCost,
    divergence_like,
    recognised,
    refuse_ignored,
    shifted,
    with_decoder_inputs,
)
from spectra.errors import UserError
from spectra.landscape.average_cost import AverageCost, weighted_sums
from spectra.landscape.finite_differences import check_gradient
from spectra.landscape.first_batch import (
    hold_padding,
    label_shift,
    refuse_batch,
    refuse_options,
    refuse_parameters,
    writes_into_targets,
)
from spectra.landscape.joining import joined_where_shown, rows_apart
from spectra.landscape.shares import fingerprint, share_of
from spectra.model import (
    Batch,
    Batches,
    Evaluation,
    Patterns,
    chosen,
    kept_tensors,
    preserved_random_state,
    select_parameters,
)
from spectra.nested import cast, tensors_in
from spectra.ranks import ALONE, Ranks, whole_model
from spectra.timing import CHECKS, phase

_NAMED = 4
PADDINGS = ("refuse", "constant", "variable")


class Landscape(AverageCost):
    r"""The cost of a model on data as a function of its parameters.

    ``C(theta) = sum_i w_i c_i / sum_i w_i + l2/2 |theta|^2``.

    Costs are summed in float64 and averaged over samples, so that batches of unequal size count as they should. Batches
    are evaluated as they came, or joined where that was shown to change nothing. The user's model is left as found. It
    is evaluated in eval mode (batch norm with its running statistics, no dropout) unless ``mode`` says ``train``.

    On several ranks each has the whole model and evaluates its share of the samples: consecutive rows, or whole batches
    where the data is streamed, cannot be cut by rows, or is evaluated in train mode. ``costs`` and ``gradient``, and
    products with curvatures, must then be asked for by all ranks together: they are those of one process to rounding,
    and the same to the bit on each rank. ``iterate`` and ``outputs`` read all of the data on each rank.

    Attributes:
        model: the user's model; a twin with whole parameters of one that is sharded (FSDP2, DTensor).
        batches: the data as read.
        coarseness: relative error of the gradient where it is coarser than the dtype says (half precision), else 0.
    """

    coarseness = 0.0

    def __init__(
        self,
        model: nn.Module,
        cost: PerSampleCost,
        batches: Any,
        *,
        theta: Tensor | None = None,
        parameters: Patterns = "*",
        l2: float = 0.0,
        mode: str = "eval",
        background: Mapping[str, Tensor] | None = None,
        anchor_bytes: int = 2**30,
        anchor_storage: str = "auto",
        padding: str = "refuse",
        joinable: bool | None = None,
        notes: tuple[str, ...] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        """Reads the data, and refuses what cannot be trusted.

        Args:
            model: any module; its trainable parameters that match ``parameters`` are the variables.
            cost: ``(outputs, targets) -> (samples,)``, see ``spectra.costs``; or a loss of ``torch.nn``, which is
                averaged as its ``reduction="mean"`` does.
            batches: tensors (inputs, targets[, weights]), or a re-iterable of such batches. Samples of class -100 (the
                cost's ``ignore_index``) count nothing, under cross-entropy and ``kl_from_anchor`` alike.
            theta: (n,) the anchor; default the model's present parameters.
            parameters: patterns of the names to select.
            l2: coefficient of the penalty, non-negative.
            mode: ``eval`` or ``train``.
            background: values of parameters that are not variables, by name; default the model's own.
            anchor_bytes: anchor log-probabilities of ``kl_from_anchor`` are kept in memory up to this size.
            anchor_storage: ``memory``, ``disk`` or ``recompute``; ``auto`` takes the first that has room.
            padding: what is done with the padding row of an embedding where the cost depends on it: ``refuse`` it, hold
                it ``constant`` as training does, or differentiate it as a ``variable``.
            joinable: whether batches may be joined for speed; default finds out whether that changes anything.
            notes: sentences on the data and the model, for whoever reads the results.
            ranks: the processes that share the data out, all of which make this landscape at the same time, with the
                same model and all of the data; default this one alone.

        Raises:
            UserError: for an empty selection, data or model that are not deterministic, a cost that is not finite
                at the anchor (naming the batch and the value), a cost of the wrong shape, or targets that are none
                for the cost (missing, of the wrong shape, soft ones that do not sum to 1); if the data or the anchor is
                not the same on all ranks, or there are fewer rows, or batches where those cannot be cut, than ranks.
        """
        refuse_options(mode, l2)
        if padding not in PADDINGS:
            raise UserError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}")
        # The caller may have switched gradients off, or be in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            model = whole_model(model)
            self.evaluation = Evaluation(model, mode, background or {})
            self.parameters = select_parameters(self.evaluation.model, parameters)
            self.model, self.l2, self.mode, self.ranks, self._padding = model, l2, mode, ranks, padding
            self._given_cost, self.cost_function = cost, recognised(cost)
            self._anchor_bytes, self._anchor_storage, self._notes = anchor_bytes, anchor_storage, notes
            found = self.parameters.flatten(dict(self.evaluation.model.named_parameters()))
            self.theta = found if theta is None else theta.detach().to(found).clone()
            refuse_parameters(self.parameters.unflatten(self.theta))
            self.batches = batches if isinstance(batches, Batches) else Batches(batches)
            self._shifts = False
            self._rows_apart: str | None = None
            self._joinable = joinable
            self._found: tuple[str, ...] = ()
            self._whole: Landscape | None = None
            self._begin()
            with preserved_random_state(self.device):
                self._prepare()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the data and the cost, what was given up, and where the anchor is kept."""
        cost = getattr(self.cost_function, "notes", ())
        anchors = self._anchors.notes if self._anchors is not None else ()
        return (*self._notes, *cost, *self.evaluation.notes, *self._found, *anchors)

    def _note(self, *sentences: str) -> None:
        self._found = tuple(dict.fromkeys((*self._found, *sentences)))

    @phase(CHECKS)
    def _prepare(self) -> None:
        if not self.ranks.alone:
            self.ranks.require_same("data", self.batches.sha256)
            self.ranks.require_same("anchor", f"{self.size} parameters in {self.dtype}")
            self.ranks.require_close("anchor", fingerprint(self.theta))
        tensors = self.parameters.unflatten(self.theta)
        first = self._placed(with_decoder_inputs(self.evaluation.model, next(iter(self.batches))))
        witness = self.evaluation.examine(tensors, first.inputs)
        with torch.no_grad():
            self._read_first_batch(tensors, first)
        if self.batches.kept:
            joined, self._joinable, notes = joined_where_shown(self, list(self._own()), self._joinable)
            self._note(*notes)
            self._merged = [self._placed(batch) for batch in joined]
        self._keep_anchors(tensors, self._anchor_storage)
        self._sum_at_anchor(tensors)
        self._note(*hold_padding(self, witness, tensors, self._padding))
        self._shown = self._found

    def _read_first_batch(self, tensors: dict[str, Tensor], first: Batch) -> None:
        """What the first batch decides of the cost: the axis of classes, whether labels are shifted."""
        torchs = self._given_cost if self.cost_function is not self._given_cost else None
        outputs = self.evaluation(tensors, first.inputs)
        if self.likelihood is not None:
            self.cost_function = self.likelihood.settled(outputs, first.targets)
        self._shifts, self._found = label_shift(self, tensors, outputs, first, torchs)
        self._cost_writes = writes_into_targets(self, tensors, first)

    def _sum_at_anchor(self, tensors: dict[str, Tensor]) -> None:
        """The cost at the anchor, the samples' weights and places, and what is to be checked on each batch."""
        sums, places, count = [0.0, 0.0, 0.0], [], 0
        with torch.no_grad():
            for number, batch in enumerate(self.share()):
                places.append(count)
                costs, weights = self._checked_at(tensors, batch)
                refuse_ignored(self.cost_function, costs, weights, batch.targets)
                value, weight, used = weighted_sums(costs, weights)
                count += len(costs)
                if not torch.isfinite(value):
                    before = 0 if self.batches.kept else self.ranks.part(self.batches.count).start
                    refuse_batch(self, tensors, before + number, float(value))
                sums = [sums[0] + float(value), sums[1] + weight, sums[2] + used]
        total, self.total_weight, self.samples = self.ranks.total(torch.tensor(sums, dtype=torch.float64)).tolist()
        before = int(self.ranks.gathered(torch.tensor([count])).flatten()[: self.ranks.rank].sum())
        self._firsts = [before + place for place in places]
        if self.total_weight <= 0.0:
            raise UserError("the samples' weights sum to zero")
        self.anchor_cost = total / self.total_weight + self._penalty(self.theta)

    def _checked_at(self, tensors: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor | None]:
        """``samples_at`` once the likelihood has looked at outputs and targets."""

        def checked() -> tuple[Tensor, Tensor | None]:
            outputs = self.evaluation.outputs(batch.inputs)
            if self.likelihood is not None:
                self.likelihood.check(outputs, batch.targets)
            return self.sample_costs(outputs, batch)

        return self.evaluation.inside(tensors, checked)

    def _taken(self, batch: Batch) -> Batch:
        """A batch as the model takes it: labels shifted, inputs of a decoder made, as in the model's own loss."""
        if batch.labelled:
            batch = with_decoder_inputs(self.evaluation.model, batch)
        return shifted(batch) if self._shifts and batch.labelled else batch

    def unjoined(self) -> Iterator[Batch]:
        """All of the data in the batches that it came in, as the model takes it; not yet on the device."""
        return (self._taken(batch) for batch in self.batches)

    def taken(self) -> Iterator[Batch]:
        """The batches as the model takes them: on the device, joined, with the data's own targets."""
        return iter(self._merged) if self._merged is not None else map(self._placed, self._own())

    def _own(self) -> Iterator[Batch]:
        """This process's batches as the model takes them; not yet on the device."""
        return map(self._taken, share_of(self.batches, self.ranks, self.rows_apart))

    def count(self) -> int:
        """How many batches ``share`` gives."""
        return len(self._merged if self._merged is not None else self.ranks.part(self.batches.count))

    @property
    def whole(self) -> Landscape:
        """The landscape in one process, with all data; made when first needed."""
        if self.ranks.alone:
            return self
        if self._whole is None:
            self._whole = Landscape(**self._options())
        return self._whole

    def iterate(self) -> Iterator[Batch]:
        """All batches as the cost sees them, on each rank."""
        return self.whole.share()

    def rows_apart(self) -> str:
        """Why rows of the data are no samples of their own, in a few words; empty if they are.

        Any selection of rows has to cost what these rows cost in their batch: shown on the first batch and the last.
        """
        if self._rows_apart is None:
            every = list(self.batches) if self.batches.kept else [next(iter(self.batches))]
            ends = every[:1] + every[1:][-1:]
            self._rows_apart = next(filter(None, (rows_apart(self, self._taken(batch)) for batch in ends)), "")
        return self._rows_apart

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient at theta (n,), default the anchor.

        The first is compared with finite differences of the cost, and refused where autograd gives something else.
        """
        theta = self.theta if theta is None else theta.to(self.theta)
        self.check_gradient()
        total, unused = self.own_l2 * theta, set(self.parameters.names)
        for batch in self.share():
            total = total + self.batch_gradient(theta, batch, unused)
        total = self.ranks.total(total)
        if unused and not self.l2:
            self._note_unused(total, unused)
        return total

    def gradient_norm(self) -> float:
        """The norm of the gradient at the anchor."""
        return float(self.gradient().double().norm())

    def _note_unused(self, slope: Tensor, unused: set[str]) -> None:
        """Says which parameters no path leads from to the cost, on this rank or another."""
        parts = zip(self.parameters.names, torch.split(slope, self.parameters.sizes), strict=True)
        names = [name for name, part in parts if name in unused and not bool(part.any())]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            self._note(f"the cost does not depend on {', '.join(names[:_NAMED])}{more}")

    @phase(CHECKS)
    def check_gradient(self) -> None:
        """Holds the gradient against finite differences of the cost, the first time that it is asked to.

        Raises:
            DerivativeError: if autograd gives something else.
        """
        if not self._checked:
            coarseness, notes = check_gradient(self)
            self._note(*notes)
            self.coarseness, self._checked = coarseness or self.coarseness, True

    def gradients(self, thetas: Tensor) -> Tensor:
        """Gradients at rows of thetas (k, n), as (k, n)."""
        return torch.stack([self.gradient(theta) for theta in thetas])

    def outputs(self, theta: Tensor | None = None) -> list[Any]:
        """The model's outputs at theta (n,), one nest of tensors a batch, without graph."""
        tensors = self.parameters.unflatten(self.theta if theta is None else theta.to(self.theta))
        whole = self.whole
        with torch.no_grad():
            return [whole.evaluation(tensors, batch.inputs) for batch in whole.taken()]

    def restricted(self, patterns: Patterns) -> Landscape:
        """The same landscape with only those of its parameters that match as variables.

        Data, model and cost at the anchor are the same, so nothing is evaluated: they are not examined again. A model
        of several dtypes is, for its data follows the variables' dtype; so is one with padding that is held constant.

        Args:
            patterns: see ``select_parameters``.

        Returns:
            A landscape around the same anchor.

        Raises:
            UserError: if none of the landscape's parameters matches, naming some of them.
        """
        names = tuple(chosen(self.parameters.names, patterns))
        if not names:
            offer = ", ".join(self.parameters.names[:6])
            raise UserError(f"no parameter of the landscape matches {patterns!r}; it has {offer}")
        tensors = self.parameters.unflatten(self.theta)
        theta = torch.cat([tensors[name].reshape(-1).to(self.dtype) for name in names])
        if self.evaluation.mixed or self.evaluation.holds_rows:
            return self._again(parameters=names, theta=theta, background=self.evaluation.background | tensors)
        found = copy.copy(self)
        found.evaluation, found.parameters = self.evaluation.beside(tensors), self.parameters.only(names)
        found.theta, found._whole, found._found = theta, None, self._shown
        found.anchor_cost += found._penalty(theta) - self._penalty(self.theta)
        found._begin()
        return found

    def at(self, theta: Tensor | None = None) -> Landscape:
        """The same cost around another anchor; the data and the model, examined once, are not examined again.

        Args:
            theta: (n,) the anchor; None for the model's present parameters, which may have been trained since.

        Returns:
            A landscape on the same model; a divergence from the anchor is one from the new anchor.

        Raises:
            UserError: if a parameter or the cost is not finite there.
        """
        found = copy.copy(self)
        with torch.inference_mode(False), torch.enable_grad():
            present = self.parameters.flatten(dict(self.evaluation.model.named_parameters()))
            found.theta = (present if theta is None else theta.detach()).to(self.theta).clone()
            tensors = found.parameters.unflatten(found.theta)
            refuse_parameters(tensors)
            found._whole = found._anchors = None
            found._begin()
            with preserved_random_state(self.device):
                found._keep_anchors(tensors, self._anchor_storage)
                found._sum_at_anchor(tensors)
        return found

    def with_cost(self, cost: PerSampleCost) -> Landscape:
        """The same model, data and anchor under another cost; the divergence is of the softmax of this one's."""
        if isinstance(cost, KLFromAnchor) and self.softmax is not None and self.likelihood is not None:
            cost = divergence_like(self.likelihood, cost)
        return self._again(cost=cost, joinable=None)

    def with_penalty(self, l2: float) -> Landscape:
        """The same model, data, anchor and cost with the penalty ``l2 / 2 |theta|^2`` in place of its own."""
        return self._again(l2=l2)

    def with_targets(self, targets: Sequence[Any], theta: Tensor) -> Landscape:
        """The same model, inputs and cost with other targets, one for each batch of ``taken``, around theta (n,)."""
        pairs = zip(self.taken(), targets, strict=True)
        batches = [replace(batch, targets=one) for batch, one in pairs]
        return self._again(batches=batches, theta=theta, joinable=None)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Landscape:
        """A copy in another dtype or on another device; the model is copied."""
        # What hooks have made of parameters cannot be copied as it is, and is made anew at the next call.
        made = {id(one): one.detach().clone() for kept in kept_tensors(self.model).values() for one in tensors_in(kept)}
        return self._again(
            model=copy.deepcopy(self.model, made).to(device=device, dtype=dtype),
            theta=self.theta.to(device=device, dtype=dtype),
            background={k: cast(v, dtype, device) for k, v in self.evaluation.background.items()},
        )

    def over(self, ranks: Ranks) -> Landscape:
        """The same landscape with its data shared out over ranks; itself in one process.

        Args:
            ranks: the processes, each of which has the same model and all of the data; all of them must call this.

        Returns:
            The landscape.

        Raises:
            UserError: if data or anchor are not the same on all ranks, or the data cannot be shared out.
        """
        return self if ranks.alone else Landscape(**self._options(), ranks=ranks)

    def _again(self, **changes: Any) -> Landscape:
        """A landscape made from this one: what was shown of it need not be shown again."""
        found = Landscape(**(self._options() | {"ranks": self.ranks} | changes))
        fewer = set(changes) == {"parameters", "theta", "background"}
        if fewer or not changes.keys() & {"model", "cost", "batches", "theta"}:
            found._checked, found._rows_apart = self._checked, self._rows_apart
            found.coarseness = self.coarseness
        return found

    def _options(self) -> dict[str, Any]:
        """What it was made from, its ranks left out."""
        return {
            "model": self.model,
            "cost": self._given_cost,
            "batches": self.batches,
            "theta": self.theta,
            "parameters": self.parameters.names,
            "background": self.evaluation.background,
            "l2": self.l2,
            "mode": self.mode,
            "anchor_bytes": self._anchor_bytes,
            "anchor_storage": self._anchor_storage,
            "padding": self._padding,
            "joinable": self._joinable,
            "notes": self._notes,
        }
