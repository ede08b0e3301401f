"""Callbacks for the trainers of Lightning and Transformers, each a tracker that is told of every optimizer step."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from basinscope.training.tracker import Tracker
from spectra.costs import PerSampleCost, cross_entropy
from spectra.errors import UserError

_LIGHTNINGS = ("lightning.pytorch", "pytorch_lightning")


def lightning_callback(cost: PerSampleCost, batches: Any, **options: Any) -> Any:
    """A callback for ``lightning.pytorch.Trainer``, or that of ``pytorch_lightning``.

    The module is called as ``module(inputs)``, on the device that it is trained on. Numbers go to the trainer's loggers
    where ``log`` does not say otherwise.

    Args:
        cost: per-sample cost, or a loss of ``torch.nn``.
        batches: the tracked data, as ``Landscape`` takes it.
        **options: those of ``Tracker``.

    Returns:
        A ``Callback`` with the tracker as its attribute ``tracker`` once training has begun.

    Raises:
        UserError: if neither package is installed.
    """
    library = _imported(_LIGHTNINGS, "lightning")

    class CurvatureCallback(library.Callback):  # type: ignore[name-defined, misc]
        """Measures the curvature of the module while it trains."""

        tracker: Tracker | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            chosen = {"log": list(trainer.loggers), **options}
            self.tracker = Tracker(pl_module, cost, batches, **chosen)
            self._tell(trainer)

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            self._tell(trainer)

        def on_train_end(self, *_: Any) -> None:
            if self.tracker is not None:
                self.tracker.close()

        def _tell(self, trainer: Any) -> None:
            if self.tracker is not None:
                self.tracker.step(trainer.global_step, optimizer=next(iter(trainer.optimizers), None))

    return CurvatureCallback()


def transformers_callback(batches: Any, cost: PerSampleCost = cross_entropy, **options: Any) -> Any:
    """A callback for ``transformers.Trainer``.

    Args:
        batches: the tracked data: a list of dictionaries as the model takes them, with ``labels``.
        cost: per-sample cost; by default the cross-entropy, whose labels are shifted where the model's own loss does.
        **options: those of ``Tracker``.

    Returns:
        A ``TrainerCallback`` with the tracker as its attribute ``tracker`` once training has begun.

    Raises:
        UserError: if transformers is not installed.
    """
    library = _imported(("transformers",), "transformers")

    class CurvatureCallback(library.TrainerCallback):  # type: ignore[name-defined, misc]
        """Measures the curvature of the model while it trains."""

        tracker: Tracker | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.tracker = Tracker(kwargs["model"], cost, batches, **options)
            self._tell(state, kwargs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self._tell(state, kwargs)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            if self.tracker is not None:
                self.tracker.close()

        def _tell(self, state: Any, kwargs: dict[str, Any]) -> None:
            if self.tracker is not None:
                self.tracker.step(state.global_step, optimizer=kwargs.get("optimizer"))

    return CurvatureCallback()


def _imported(names: tuple[str, ...], package: str) -> ModuleType:
    """The first of these libraries that the program has imported, else the first that is installed."""
    for name in sorted(names, key=lambda one: one not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError(f"this needs {package}, which is not installed: pip install {package}")
