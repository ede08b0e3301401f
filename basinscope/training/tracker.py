"""The tracker: two lines in any training loop, and the curvature of the model is in a file."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import warnings
import weakref
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.choices import nearest
from basinscope.outputs import reserved, to_continue
from basinscope.training.budget import Budget
from basinscope.training.curves import TrainingCurves
from basinscope.training.loggers import logger
from basinscope.training.measuring import measured
from basinscope.training.reading import CurvatureReading
from basinscope.training.settings import TrackerSettings
from basinscope.training.store import read_curves, write_curves
from spectra.costs import KLFromAnchor, PerSampleCost, cost_name
from spectra.errors import UserError, UserTypeError
from spectra.files import Provenance, writing_rights
from spectra.landscape import Landscape
from spectra.model import preserved_random_state
from spectra.ranks import Ranks
from spectra.timing import synchronise
from spectra.words import dtype_title

_OTHERS_ARE_TRAINED = (
    "other parameters are trained (requires_grad) than at the first step: those that were then are measured, so start "
    "another tracker, with another file"
)


class Tracker:
    """Measures a model's curvature every few steps of its training, and keeps each recorded step in one file.

    The model is left as found: its mode, buffers and gradients, and the random states of Python, NumPy and torch, so
    that training goes on as it would have without. It is measured as a landscape evaluates it: in eval mode, in the
    dtype of its parameters, on the data given here. Of several processes of torch.distributed the first measures.

    The first call to ``step`` examines the model, the cost and the data, and raises what is wrong with them. What goes
    wrong later (a cost that is no longer finite, a full disk) is recorded or warned of, and training goes on.

    >>> model, x = nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> tracker = Tracker(model, nn.MSELoss(), (x, torch.zeros(2, 1)), every=2, share=None, eigenvalues=1)
    >>> for step in range(3):
    ...     found = tracker.step(step, optimizer=0.5)
    >>> [(one.step, round(one.eigenvalues[0], 4), one.stability_limit) for one in tracker.curves.readings]
    [(0, 1.0, 4.0), (2, 1.0, 4.0)]
    """

    def __init__(
        self,
        source: nn.Module | Landscape,
        cost: PerSampleCost | None = None,
        batches: Any = None,
        *,
        output: str | Path | None = None,
        every: int = 50,
        share: float | None = 0.05,
        standard_deviation: float | None = None,
        settings: TrackerSettings | None = None,
        log: Any = None,
        overwrite: bool = False,
        resume: bool = False,
        **changes: Any,
    ) -> None:
        """Checks what was asked for; computes nothing yet.

        Args:
            source: the model that is trained, or a landscape of it.
            cost: per-sample cost, or a loss of ``torch.nn``; None where the source is a landscape.
            batches: the tracked data, as ``Landscape`` takes it; a few hundred samples that stay the same are usual.
            output: HDF5 file of the recorded steps; None keeps them in memory alone.
            every: number of optimizer steps from one turn to the next: steps that it divides are measured.
            share: share of the time that measuring may take; a turn that would exceed it is passed over, and that is
                recorded. None measures at every turn.
            standard_deviation: of the prior of the quadratic mass; None takes the root mean square of the parameters
                at the first step.
            settings: what decides the numbers of a recorded step.
            log: a logger that gets the numbers too, as ``basinscope.training.loggers.logger`` takes it: TensorBoard's
                writer, a run of wandb, a function of a dictionary.
            overwrite: whether an existing output may be replaced.
            resume: whether to go on with the output if it exists.
            **changes: fields of the settings by name, such as ``eigenvalues=1``.

        Raises:
            UserError: if a number is out of its range, or the output is of another run.
            UserTypeError: if a name is no field of the settings, or the source and the cost do not go together.
            FileExistsError: if the output exists, and is neither to be replaced nor gone on with.
        """
        if isinstance(source, Landscape) != (cost is None and batches is None):
            raise UserTypeError("a tracker needs a model with a cost and batches, or a landscape alone")
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        if standard_deviation is not None and not (math.isfinite(standard_deviation) and standard_deviation > 0.0):
            raise UserError(f"standard_deviation must be positive and finite, got {standard_deviation:g}")
        self._source, self._cost, self._batches, self._log = source, cost, batches, logger(log)
        self._every, self._width = every, standard_deviation
        self._share = math.inf if share is None else share
        self._settings = _changed(settings or TrackerSettings(), changes)
        self._output = None if output is None else Path(output)
        Budget(self._share)  # refuses a share out of its range
        self._first = Ranks.current().first
        if self._first:
            if resume and self._output is None:
                raise UserError("resume needs an output, the file to go on with")
            with reserved(results={"output": self._output}, overwrite=overwrite, resume=resume):
                stored = to_continue(self._output, resume=resume)
                self._stored = None if stored is None else read_curves(stored)
        self._held = ExitStack()
        weakref.finalize(self, self._held.close)
        self._landscape: Landscape | None = None
        self._curves: TrainingCurves | None = None
        self._seen: int | None = None
        self._trained: frozenset[str] = frozenset()
        self._skipped: list[int] = []

    @property
    def curves(self) -> TrainingCurves:
        """What is recorded so far.

        Raises:
            UserError: before the first step.
        """
        if self._curves is None:
            raise UserError("nothing is recorded before the first step, and in processes but the first")
        return replace(self._curves, skipped=(*self._curves.skipped, *self._skipped))

    def step(self, step: int, *, optimizer: Any = None) -> CurvatureReading | None:
        """Say where training stands; measures, if it is a turn and the share allows it.

        Args:
            step: number of optimizer steps that the model has taken; it counts on over epochs.
            optimizer: the optimizer, or a learning rate: for the stability limit.

        Returns:
            What was recorded; None if nothing was.

        Raises:
            UserError: if the model, the cost or the data cannot be measured at all, or the step goes back.
        """
        if step == self._seen or not self._first:
            return None
        if self._seen is not None and step < self._seen:
            raise UserError(
                f"step {step:,} comes after step {self._seen:,}: give the number of optimizer steps, which counts on "
                "over epochs"
            )
        self._seen = step
        # Most calls end here, so what they take counts in a run of short steps.
        if self._landscape is not None and not self._due(step):
            return None
        device = _device(self._source)
        with preserved_random_state(device), torch.autocast(device.type, enabled=False):
            if self._landscape is None:
                self._begin(step)
                if step % self._every:
                    return None
            reading = self._turn(step, optimizer)
        # Outside of what preserves random states: a logger that draws a name would else draw it again and again.
        with self._budget.spending(known=False):
            self._keep()
            self._log(reading.values(), step)
        return reading

    def close(self) -> None:
        """Write what is not written yet, and let other runs write the file; the end of the program does the latter."""
        if self._curves is not None and self._output is not None:
            write_curves(self._output, self.curves)
        self._held.close()

    def __enter__(self) -> Tracker:
        """The tracker itself, which is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, step: int) -> None:
        """Examines what is tracked, and takes up what the output holds of steps before this one."""
        if self._output is not None:
            self._held.enter_context(writing_rights(self._output))
        self._budget = Budget(self._share)
        with self._budget.spending(known=False):
            landscape = self._source if isinstance(self._source, Landscape) else self._made()
            if isinstance(landscape.softmax, KLFromAnchor):
                raise UserError("the divergence from the anchor is zero at every step: track the cost of training")
            landscape.gradient()  # held against finite differences, once
            if "gradient-noise" in self._settings.quantities:
                landscape.rows_apart()
            curves = self._new(landscape)
            if self._stored is not None:
                curves = _continued(self._stored, curves, self._width is None, step, self._output)
            self._landscape, self._curves, self._trained = landscape, curves, _trained(self._source)

    def _made(self) -> Landscape:
        assert isinstance(self._source, nn.Module)
        assert self._cost is not None
        landscape = Landscape(self._source, self._cost, self._batches)
        if landscape.model is not self._source:
            raise UserError("the model's parameters are sharded, which a tracker cannot follow: save checkpoints")
        return landscape

    def _new(self, landscape: Landscape) -> TrainingCurves:
        theta = landscape.at().theta.double()
        return TrainingCurves(
            settings=self._settings,
            provenance=Provenance(
                checkpoint=type(landscape.evaluation.model).__name__,
                checkpoint_sha256=_structure(landscape),
                cost=cost_name(landscape.cost_function),
                cost_unit=str(getattr(landscape.cost_function, "unit", "cost")),
                dtype=dtype_title(landscape.dtype),
                device=str(landscape.device),
                command=f"{Path(sys.argv[0]).name or 'Python'}: basinscope.training.Tracker",
            ),
            size=landscape.size,
            samples=landscape.samples,
            data_sha256=landscape.batches.sha256,
            standard_deviation=float(theta.square().mean().sqrt()) if self._width is None else self._width,
            every=self._every,
            share=self._share,
            notes=(*landscape.notes, *_other_in_training(landscape)),
        )

    def _due(self, step: int) -> bool:
        """Whether it is a turn that the share allows; one that it does not is kept as passed over."""
        if step % self._every:
            return False
        if not self._budget.affords():
            self._skipped.append(step)
            return False
        return True

    def _turn(self, step: int, optimizer: Any) -> CurvatureReading:
        assert self._landscape is not None
        curves, device = self.curves, self._landscape.device
        synchronise(device)  # what training has queued is not measuring's
        with self._budget.spending():
            found = measured(self._landscape, step, self._settings, optimizer, curves.standard_deviation)
        changed = () if _trained(self._source) == self._trained else (_OTHERS_ARE_TRAINED,)
        reading = replace(found, seconds=self._budget.last, notes=(*found.notes, *changed))
        self._curves, self._skipped = replace(curves, readings=(*curves.readings, reading)), []
        return reading

    def _keep(self) -> None:
        """A file that cannot be written now may be at the next turn; what is recorded is not lost meanwhile."""
        if self._output is None:
            return
        try:
            write_curves(self._output, self.curves)
        except OSError as error:
            warnings.warn(f"{error}; training goes on, and the next turn tries again", RuntimeWarning, stacklevel=3)


def _structure(landscape: Landscape) -> str:
    """A digest of what the model consists of, so that a run is not gone on with by another model."""
    words = re.sub(r"0x[0-9a-f]+", "", repr(landscape.evaluation.model))
    return hashlib.sha256(f"{words} {landscape.parameters.names} {landscape.mode}".encode()).hexdigest()


def _trained(source: nn.Module | Landscape) -> frozenset[str]:
    """The parameters that training changes; of a landscape those are its user's choice."""
    if isinstance(source, Landscape):
        return frozenset()
    return frozenset(name for name, one in source.named_parameters() if one.requires_grad)


def _device(source: nn.Module | Landscape) -> torch.device:
    if isinstance(source, Landscape):
        return source.device
    return next((one.device for one in source.parameters()), torch.device("cpu"))


def _other_in_training(landscape: Landscape) -> tuple[str, ...]:
    """What a training step sees otherwise than the landscape does."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    found = {type(one).__name__ for one in landscape.evaluation.model.modules() if isinstance(one, kinds)}
    if landscape.mode == "train" or not found:
        return ()
    return (
        f"the model is measured in eval mode, and training uses another mode of {' and '.join(sorted(found))}: the "
        "curvature is not quite that of a training step (a Landscape with mode='train' has that of batch norm)",
    )


def _changed(settings: TrackerSettings, changes: dict[str, Any]) -> TrackerSettings:
    """The settings with some fields changed; lists are taken as tuples."""
    names = [field.name for field in fields(TrackerSettings)]
    for name in changes:
        if name not in names:
            raise UserTypeError(f"{name} is no field of TrackerSettings: {', '.join(names)}{nearest(name, names)}")
    asked: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in changes.items()}
    return replace(settings, **asked)


def _continued(
    stored: TrainingCurves, new: TrainingCurves, any_width: bool, step: int, output: Path | None
) -> TrainingCurves:
    """The stored curves up to a step, to be gone on with; what they hold beyond it is run again."""
    for what, one, two in (
        ("settings", stored.settings, new.settings),
        ("parameters", stored.size, new.size),
        ("model", stored.provenance.checkpoint, new.provenance.checkpoint),
        ("model", stored.provenance.checkpoint_sha256, new.provenance.checkpoint_sha256),
        ("dtype", stored.provenance.dtype, new.provenance.dtype),
        ("data", stored.data_sha256, new.data_sha256),
        ("cost", stored.provenance.cost, new.provenance.cost),
        ("standard deviation of the prior", stored.standard_deviation, new.standard_deviation),
    ):
        if one != two and not (any_width and what.startswith("standard deviation")):
            raise UserError(f"{output} holds a run of other {what}: go on with the same, or write to another file")
    return replace(
        stored,
        notes=tuple(dict.fromkeys((*stored.notes, *new.notes))),
        every=new.every,
        share=new.share,
        readings=tuple(one for one in stored.readings if one.step < step),
        skipped=tuple(one for one in stored.skipped if one < step),
    )
