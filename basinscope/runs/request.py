"""What the commands that examine one checkpoint are asked for alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from basinscope.outputs import TASK, Named, reserved
from basinscope.tasks import task_files


@dataclass(frozen=True, kw_only=True)
class CheckpointRequest:
    """What the user asked for, apart from what each command settles by itself.

    Attributes:
        checkpoint: path of the checkpoint.
        task: name of the task, or None for the checkpoint's own.
        cost: name of a cost, or None to choose by the task's cost.
        dtype: name of a dtype, or None for the model's own.
        device: where to compute, or None for where the task put the model.
        output: file of the store, or None.
        plot: file of the figure, or None.
        overwrite: whether existing files may be replaced.
        resume: whether to go on with the output if it exists.
        command: the command line, for the record.
    """

    checkpoint: Path
    task: str | None = None
    cost: str | None = None
    dtype: str | None = None
    device: str | None = None
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False
    resume: bool = False
    command: str = ""


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
    with reserved(
        results={"--output": request.output, **(results or {})},
        figures={"--plot": request.plot},
        inputs=[("CHECKPOINT", request.checkpoint), *((TASK, path) for path in task_files(request.task)), *inputs],
        overwrite=request.overwrite,
        resume=request.resume,
    ):
        yield
