"""What ``basinscope volume`` runs and prints: a study, its differences to others, or a trajectory of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group

from basinscope.cli.show import show_study
from basinscope.failures import sentence
from basinscope.outputs import TASK
from basinscope.ranks import writes_files
from basinscope.runs import Report, VolumeRequest, announce, progress_report, reserved_for, run_volume
from basinscope.tasks import task_files
from basinscope.terminal import written
from basinscope.trajectory import (
    TrajectoryPoint,
    run_trajectory,
    trajectory_figure,
    trajectory_files,
    trajectory_json,
    trajectory_outputs,
    trajectory_rows,
    trajectory_table,
)
from basinscope.views import print_result, volume_differences
from spectra.checkpoint import read_checkpoint
from spectra.errors import UserError
from spectra.timing import FIGURES, phase
from volume.store import is_volume_file, read_study
from volume.study import VolumeStudy

if TYPE_CHECKING:
    from basinscope.cli.show import Compared


def report_volume(request: VolumeRequest, form: str, against: Sequence[Path] = ()) -> None:
    """Run a study, and the same one of each checkpoint (or volume file) to compare with, and print them."""
    beside = {f"--output for {path}": _beside(request, path) for path in against}
    with reserved_for(request, results=beside, inputs=[*_read(request), *(("--against", path) for path in against)]):
        _report_volume(request, form, against)


def _report_volume(request: VolumeRequest, form: str, against: Sequence[Path]) -> None:
    for path in against:  # what cannot be read is refused before anything is computed
        _ = read_study(path) if is_volume_file(path) else read_checkpoint(path, request.reading)
    with progress_report() as report:
        study = run_volume(request, report, announce)
        others = [(path, _compared(study, request, path, report)) for path in against]
    files = {} if request.output is None else {"volume": str(request.output)}
    try:
        if request.plot is not None:
            with phase(FIGURES):
                from spectra.plots import save_figure
                from volume.figures import study_figure

                if writes_files():
                    save_figure(study_figure(study), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        show_study(study, form, files, others)


def _compared(study: VolumeStudy, request: VolumeRequest, path: Path, report: Report) -> Compared:
    """The differences to another study; what stands in their way costs the study itself nothing."""
    try:
        return volume_differences(study, _other(request, path, report))
    except (UserError, OSError, MemoryError) as error:
        return sentence(error)


def _other(request: VolumeRequest, path: Path, report: Report) -> VolumeStudy:
    """The study to compare with: from its file, or the same one of another checkpoint."""
    if is_volume_file(path):
        return read_study(path)
    return run_volume(replace(request, checkpoint=path, output=_beside(request, path), plot=None), report)


def _beside(request: VolumeRequest, path: Path) -> Path | None:
    """Where the study to compare with is kept, beside the first so that it too can be resumed; None if it is not."""
    if request.output is None or is_volume_file(path):
        return None
    return request.output.with_name(f"{request.output.stem}_against_{path.stem}{request.output.suffix}")


def _read(request: VolumeRequest) -> list[tuple[str, Path | None]]:
    """What is read beside the checkpoint and the task."""
    return [(TASK, path) for path in task_files(request.validation_task)]


def report_trajectory(request: VolumeRequest, place: Path, form: str) -> None:
    """Run the same study of each checkpoint of a folder, or of a pattern in one, and print them."""
    figure = replace(request, output=None, resume=False, overwrite=request.overwrite or request.resume)
    results = trajectory_outputs(request.output, trajectory_files(place)).values()
    with reserved_for(figure, inputs=[*_read(request), *(("--output", path) for path in results)]):
        _report_trajectory(request, place, form)


def _report_trajectory(request: VolumeRequest, place: Path, form: str) -> None:
    with progress_report() as report:
        points = run_trajectory(request, place, report)
    files = {} if request.output is None else {"volumes": str(request.output)}
    try:
        if request.plot is not None and any(point.study for point in points):
            with phase(FIGURES):
                from spectra.plots import save_figure

                if writes_files():
                    save_figure(trajectory_figure(points), request.plot)
            files["figure"] = str(request.plot)
    finally:  # a figure that fails does not cost the numbers
        _show_trajectory(points, files, form)


def _show_trajectory(points: Sequence[TrajectoryPoint], files: dict[str, str], form: str) -> None:
    print_result(
        form,
        table=lambda: Group(trajectory_table(points), *written(files)),
        rows=lambda: trajectory_rows(points),
        found=lambda: trajectory_json(points, files),
    )
    if not any(point.study for point in points):
        raise UserError(f"no checkpoint of the trajectory has a volume; the first: {points[0].failure}")
