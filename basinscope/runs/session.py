"""What every command stands on: a machine, a checkpoint opened on it, and what is said where a run ends early."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from basinscope.choices import one_of
from basinscope.failures import Interrupted
from basinscope.outputs import TASK, Named, reserved
from basinscope.runs.placement import guarded, placed
from basinscope.tasks import held_out_name, make_landscape, task_files, task_name
from spectra.checkpoint import Checkpoint, ReadingOptions, read_checkpoint
from spectra.costs import KLFromAnchor, cost_name, kl_from_anchor
from spectra.errors import UserError, UserTypeError
from spectra.files import Provenance
from spectra.landscape import Landscape
from spectra.ranks import LostRankError, Ranks
from spectra.sharded import ShardedLandscape
from spectra.spectrum import SpectrumSettings
from spectra.timing import READING, phase
from spectra.words import BASIN_COSTS, DTYPES, dtype_title

# Below this many parameters a product is too short to share between threads: 614 products of a network of
# 4,810 parameters took 3.1 s on one thread and 208 s on two threads of a busy machine.
SMALL = 200_000
# More than any machine has use for; OpenMP ends the process where it cannot start as many as it is asked for.
MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run computes and what it may take: the options of these names.

    Attributes:
        dtype: name of a dtype, or None for the model's own.
        device: name of a device, or None for where the task put the model.
        memory: bytes that graphs and bases may take.
        threads: number of torch's threads; None takes one for a small model, else torch's choice.

    Raises:
        UserError: if the dtype is not one of ``DTYPES``, or the number of threads out of range.
    """

    dtype: str | None = None
    device: str | None = None
    memory: int = SpectrumSettings.memory
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            one_of("--dtype", self.dtype, DTYPES)
        if self.threads is None:
            return
        if self.threads < 1:
            raise UserError(f"--threads must be at least 1, got {self.threads}")
        if self.threads > MOST_THREADS:
            raise UserError(f"--threads must be at most {MOST_THREADS}, got {self.threads}")

    def set_threads(self, size: int | None = None) -> None:
        """Set torch's threads: those asked for, else one for a model that is too small to share between threads.

        Args:
            size: number of parameters; None where it is not known yet.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        elif size is not None and size < SMALL and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the user asks of any run.

    Attributes:
        machine: machine on which it computes.
        reading: which weights of a checkpoint are read, under which names, and whether its code may run.
        task: name of the task, or None for the checkpoint's own.
        output: file of the store, or None.
        plot: file of the figure, or None.
        overwrite: whether existing files may be replaced.
        resume: whether to go on with the output if it exists.
        command: the command line, for the record.
    """

    machine: Machine = Machine()
    reading: ReadingOptions = ReadingOptions()
    task: str | None = None
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False
    resume: bool = False
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckpointRequest(RunRequest):
    """What the user asks of a run on one checkpoint.

    Attributes:
        checkpoint: path of the checkpoint, or a landscape of the user's own.
        cost: name of a cost, or None to choose by the task's cost.
    """

    checkpoint: Path | Landscape
    cost: str | None = None


@contextmanager
def reserved_for(
    request: CheckpointRequest, *, results: Mapping[str, Path | None] | None = None, inputs: Named = ()
) -> Iterator[None]:
    """Check and hold the files of a request while it is worked on.

    Args:
        request: names the checkpoint, the task, the output and the figure.
        results: further files that are written, by the option that names them.
        inputs: further files that are read, each with the option that names it.

    Yields:
        Nothing.
    """
    source = None if isinstance(request.checkpoint, Landscape | ShardedLandscape) else request.checkpoint
    with reserved(
        results={"--output": request.output, **(results or {})},
        figures={"--plot": request.plot},
        inputs=[("CHECKPOINT", source), *((TASK, path) for path in task_files(request.task)), *inputs],
        overwrite=request.overwrite,
        resume=request.resume,
    ):
        yield


class Session:
    """A checkpoint opened on a machine: its landscapes, and where a result of it comes from.

    Attributes:
        checkpoint: what was read; of a landscape of the user's own its parameters alone.
        task: name of the task; empty for a landscape.
        machine: machine on which it computes.
    """

    def __init__(
        self,
        source: Path | Landscape | ShardedLandscape,
        task: str | None,
        machine: Machine,
        reading: ReadingOptions = ReadingOptions(),  # noqa: B008  # frozen
        *,
        title: str = "landscape",
    ) -> None:
        """Read the checkpoint, or take a landscape (it needs no task) under a title, and set the threads asked for."""
        self.machine, self._landscape = machine, None
        if isinstance(source, Landscape | ShardedLandscape):
            if task is not None:
                raise UserTypeError(f"a landscape needs no task, got {task!r}: leave it out, or give a checkpoint")
            if reading != ReadingOptions():
                raise UserTypeError("a landscape is read from no file: leave the reading out, or give a checkpoint")
            # A run that takes no sharded landscape is given none; one that needs more of it than it has is refused.
            self._landscape, self.checkpoint, self.task = cast(Landscape, source), _checkpoint_of(source, title), ""
        else:
            with phase(READING):
                self.checkpoint = read_checkpoint(source, reading)
            self.task = task_name(task, self.checkpoint)
        machine.set_threads()

    @property
    def held_out(self) -> str | None:
        """The built-in task on rows that the network was not trained on, if there is one."""
        return held_out_name(self.task)

    def own(self, task: str | None = None, checkpoint: Checkpoint | None = None) -> Landscape:
        """The landscape, not yet shared among ranks, that a task (None: the session's) makes of a checkpoint."""
        name = self.task if task is None else task
        if name and self._landscape is not None:
            raise UserTypeError(f"a landscape needs no task, got {name!r}: leave it out, or give a checkpoint")
        if checkpoint is not None and self._landscape is not None:
            raise UserTypeError(
                f"a landscape has no task to make another of {checkpoint.path.name}: give a checkpoint and its task"
            )
        with phase(READING):
            made = self._landscape or make_landscape(name, checkpoint or self.checkpoint)
        return placed(made, self.machine.dtype, self.machine.device, name or "your landscape")

    def shared(self, landscape: Landscape) -> Landscape:
        """The landscape shared out among the ranks, if there are several; threads are set as its size wants them."""
        self.machine.set_threads(landscape.size)
        return landscape.over(Ranks.current())

    def provenance(self, landscape: Landscape, command: str, task: str | None = None) -> Provenance:
        """Where a result on a landscape that a task (None: the session's) made of this checkpoint comes from."""
        cost, read = landscape.cost_function, self.checkpoint
        return Provenance(
            checkpoint=str(read.path),
            checkpoint_sha256=read.sha256,
            checkpoint_integrity=read.integrity,
            checkpoint_weights=read.weights if self._landscape is None else "",
            # A task that is given as objects is more than a text, which is all that a file holds.
            task=str(self.task if task is None else task),
            cost=cost_name(cost),
            cost_unit=str(getattr(cost, "unit", "cost")),
            dtype=dtype_title(landscape.dtype),
            device=str(landscape.device),
            command=command,
        )


def _checkpoint_of(landscape: Landscape | ShardedLandscape, title: str) -> Checkpoint:
    """A landscape's parameters in place of a checkpoint; their digest stands for the file's."""
    if isinstance(landscape, ShardedLandscape):
        return Checkpoint(Path(title), landscape.sha256, {}, None, {})
    theta = landscape.theta.detach().cpu().contiguous()
    digest = hashlib.sha256(theta.view(torch.uint8).numpy().tobytes()).hexdigest()
    return Checkpoint(Path(title), digest, {}, None, {})


def basin_cost(landscape: Landscape, cost: str | None, task: str) -> Landscape:
    """The landscape under the divergence from the anchor (``kl``), or its own (``task``, or None without a softmax)."""
    if cost is not None:
        one_of("--cost", cost, BASIN_COSTS)
    if cost == "task" or (cost is None and landscape.softmax is None):
        return landscape
    if isinstance(landscape.softmax, KLFromAnchor):
        return landscape
    with guarded("--cost kl", task):
        return landscape.with_cost(kl_from_anchor)


@contextmanager
def ends_early(state: Callable[[], str]) -> Iterator[None]:
    """Say what is kept and how to go on where the user, or the loss of a rank, ends the computing."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(state()) from None
    except LostRankError as error:
        raise LostRankError(f"{error}; {state()}") from error


def continued(before: Provenance, command: str) -> Provenance:
    """Where a result that a run goes on with comes from: the stored record, and this run's command line."""
    return replace(before, command="\n".join(dict.fromkeys([*before.command.splitlines(), command])))
