"""Volumes along a training run: the same study of each checkpoint of a folder, with common seeds, and its figure."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType

from basinscope.failures import sentence
from basinscope.runs import Report, VolumeRequest, reserved_for, run_volume
from basinscope.terminal import Text
from basinscope.views import finite, log_volume_cell, study_rows, table
from spectra.checkpoint import is_model_folder
from spectra.errors import UserError, out_of_memory
from spectra.files import counted
from spectra.interval import RULE, bars, interval_label
from volume.study import VolumeStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".pt", ".pth", ".ckpt", ".safetensors")
# What names put before the number of a step.
STEP_WORD = re.compile(r"(^|[_.-]+)(step|checkpoint|epoch|iter)$")
LEVEL_WORDS = interval_label("probes or directions")
_MARKERS = ("o", "s", "D", "^", "v")


@dataclass(frozen=True)
class TrajectoryPoint:
    """One checkpoint of a trajectory.

    Attributes:
        checkpoint: its file.
        run: the name without its last number, and a ``step`` before that: checkpoints of one training run share it.
        step: the last number of the name; None if it has none.
        study: its volumes; None if it failed.
        failure: why, in a sentence; empty if it did not.
    """

    checkpoint: Path
    run: str
    step: int | None
    study: VolumeStudy | None = None
    failure: str = ""


def trajectory_files(place: Path) -> list[TrajectoryPoint]:
    """The checkpoints (files, or folders of transformers) of a folder or of a pattern in one, by run, then by step."""
    folder, pattern = (place, "*") if place.is_dir() else (place.parent, place.name)
    if "**" in pattern:
        raise UserError(f"--trajectory takes the checkpoints of one folder, not of all beneath it (**); got {place}")
    found = [path for path in folder.glob(pattern) if _is_checkpoint(path)]
    if not found:
        raise FileNotFoundError(
            f"--trajectory found no checkpoint ({', '.join(ENDINGS)}, or a folder with a config.json) at {place}"
        )
    return [_point(path) for path in sorted(found, key=lambda path: _natural(path.name))]


def trajectory_outputs(folder: Path | None, points: Sequence[TrajectoryPoint]) -> dict[Path, Path]:
    """The file in a folder where the volumes of each checkpoint of a trajectory are kept; none without a folder.

    >>> points = [TrajectoryPoint(Path(name), "", None) for name in ("a.pt", "b.pt", "b.pth")]
    >>> [path.name for path in trajectory_outputs(Path("out"), points).values()]
    ['a.h5', 'b.pt.h5', 'b.pth.h5']
    """
    if folder is None:
        return {}
    counts = Counter(_title(point.checkpoint) for point in points)
    names = {point.checkpoint: _title(point.checkpoint) for point in points}
    return {path: folder / f"{name if counts[name] == 1 else path.name}.h5" for path, name in names.items()}


def _is_checkpoint(path: Path) -> bool:
    return is_model_folder(path) or (path.suffix in ENDINGS and path.is_file())


def _title(path: Path) -> str:
    """A file's name without its ending, a folder's whole name."""
    return path.name if path.is_dir() else path.stem


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _point(path: Path) -> TrajectoryPoint:
    title = _title(path)
    numbers = list(re.finditer(r"\d+", title))
    if not numbers:
        return TrajectoryPoint(path, title, None)
    last = numbers[-1]
    before = title[: last.start()].rstrip("_-.")
    return TrajectoryPoint(path, STEP_WORD.sub("", before) or before, int(last[0]))


def run_trajectory(request: VolumeRequest, place: Path, progress: Report) -> list[TrajectoryPoint]:
    """The same study of each checkpoint, in the output's folder; one that fails leaves its reason, the rest go on."""
    points = trajectory_files(place)
    files = trajectory_outputs(request.output, points)
    if request.output is not None:
        request.output.mkdir(parents=True, exist_ok=True)
    done = []
    for number, point in enumerate(points):

        def tell(at: int, total: int, what: str, number: int = number) -> None:
            progress(at, total, f"{number + 1} of {len(points)}, {what}")

        one = replace(request, checkpoint=point.checkpoint, output=files.get(point.checkpoint), plot=None)
        try:
            with reserved_for(one):
                done.append(replace(point, study=run_volume(one, tell)))
        except (UserError, OSError, MemoryError) as error:
            done.append(replace(point, failure=sentence(error)))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            done.append(replace(point, failure=sentence(error)))
    return done


def methods_of(points: Sequence[TrajectoryPoint]) -> list[str]:
    """Methods with a value at some checkpoint, in the order of the first studies."""
    studies = [point.study for point in points if point.study is not None]
    return list(dict.fromkeys(name for one in studies for name, result in one.results.items() if not result.failure))


def trajectory_table(points: Sequence[TrajectoryPoint]) -> Group:
    """A trajectory laid out for a terminal."""
    methods = methods_of(points)
    titles = ("checkpoint", "step", *(f"{method} (nat)" for method in methods))
    rows = table(titles, of="log-volumes along the trajectory", justify="right")
    for point in points:
        cells = []
        for method in methods:
            result = None if point.study is None else point.study.results.get(method)
            cells.append("–" if result is None or result.failure else log_volume_cell(result))
        rows.add_row(point.checkpoint.name, "–" if point.step is None else f"{point.step:,}", *cells)
    parts: list[RenderableType] = [Text("log-volumes along the trajectory", style="bold"), rows]
    words = "! marks a number that is a bound or carries a caution"
    parts.append(Text(f"{RULE}; {words}; probes and directions have the same seeds at all checkpoints", style="dim"))
    results = [r for p in points if p.study for r in p.study.results.values() if not r.failure]
    measures = {r.measure for r in results if r.kind == "mass"}
    if len(measures) > 1:
        words = "the prior's width is each checkpoint's own, so masses are of different priors: use --prior init"
        parts.append(Text(f"! {words} or gaussian:S for one prior", style="yellow"))
    failed = [f"! {point.checkpoint.name} failed: {point.failure}" for point in points if point.failure]
    return Group(*parts, *(Text(words, style="yellow") for words in (*failed, *_without(points))))


def _without(points: Sequence[TrajectoryPoint]) -> list[str]:
    """A line for each method that has no value at some checkpoints, with the first one's reason."""
    found: dict[str, list[tuple[str, str]]] = {}
    for point in points:
        for method, why in ({} if point.study is None else point.study.failures).items():
            found.setdefault(method, []).append((point.checkpoint.name, why))
    return [
        f"! {method} has no value at {', '.join(name for name, _ in where)}: {where[0][1]}"
        for method, where in found.items()
    ]


def trajectory_rows(points: Sequence[TrajectoryPoint]) -> list[dict[str, Any]]:
    """A row for each checkpoint and method, at full precision; a checkpoint that failed has its reason."""
    rows: list[dict[str, Any]] = []
    for point in points:
        where = {"checkpoint": str(point.checkpoint), "run": point.run, "step": point.step}
        found = [] if point.study is None else study_rows(point.study)
        rows += [{**where, **row} for row in found if not row["swept"]] or [{**where, "failure": point.failure}]
    return rows


def trajectory_json(points: Sequence[TrajectoryPoint], files: dict[str, str]) -> dict[str, Any]:
    """A trajectory in plain values that ``json.dumps(..., allow_nan=False)`` takes."""
    rows = []
    for point in points:
        results = {} if point.study is None else point.study.results
        volumes = {
            method: {
                "log_volume": finite(result.log_volume),
                "half_width95": finite(result.half_width),
                "interval95": [finite(end) for end in result.known.interval()],
                "trusted": result.trusted,
                "measure": result.measure,
                "failure": result.failure or None,
            }
            for method, result in results.items()
        }
        row = {"checkpoint": str(point.checkpoint), "run": point.run, "step": point.step}
        rows.append({**row, "methods": volumes, "failure": point.failure or None})
    return {"trajectory": rows, "files": files}


def trajectory_figure(points: Sequence[TrajectoryPoint]) -> Figure:
    """The figure of a trajectory."""
    # Where nothing is drawn, nobody waits for these.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = [point for point in points if point.study is not None]
    methods = methods_of(points)
    if not methods:
        raise UserError("no checkpoint of the trajectory has a volume: nothing to draw")
    figure = Figure(figsize=(8.0, 1.2 + 2.6 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    study = done[0].study
    assert study is not None
    unit = study.provenance.cost_unit
    figure.suptitle(
        f"Basin volume along training, prior {study.settings.prior}\nn = {counted(study.size, 'parameter')}, "
        f"{study.provenance.cost} below {study.settings.cutoff:g} {unit} on {counted(round(study.samples), 'sample')}",
        fontsize=11,
    )
    grid = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    for axes, method in zip(grid, methods, strict=True):
        _panel(axes, points, method)
    grid[-1].set_xlabel("training step (linear up to 1, logarithmic beyond)")
    return figure


def _panel(axes: Axes, points: Sequence[TrajectoryPoint], method: str) -> None:
    from spectra.plots import BLUE, GREEN, ORANGE, SKY, VERMILLION

    colours = (BLUE, VERMILLION, GREEN, ORANGE, SKY)
    runs = list(dict.fromkeys(point.run for point in points))
    bound, hollow, missing = False, False, []
    for number, run in enumerate(runs):
        rows = []
        for place, point in enumerate(one for one in points if one.run == run):
            result = None if point.study is None else point.study.results.get(method)
            if result is None or not np.isfinite(result.log_volume):
                missing.append(point.checkpoint.name)
                continue
            bound |= result.sampled is not None and not result.trusted
            # A bound has no error: the bootstrap's means nothing where few directions carry the sum.
            sure = result.sampled is None or result.trusted
            low, high = result.known.interval() if sure else (result.log_volume, result.log_volume)
            rows.append((place if point.step is None else point.step, result.log_volume, low, high, result.trusted))
        if rows:
            steps, values, low, high, trusted = np.array(sorted(rows)).T
            reach, known = bars(values, zip(low, high, strict=True))
            colour, marker = colours[number % 5], _MARKERS[number // 5 % 5]
            axes.errorbar(steps, values, reach, color=colour, marker=marker, ms=4, capsize=2, label=run)
            open_ones = (trusted == 0.0) | ~known
            hollow |= bool(open_ones.any())
            axes.plot(steps[open_ones], values[open_ones], marker, color=colour, mfc="white", ms=4, zorder=3)
    axes.set_xscale("symlog", linthresh=1.0)
    words = [LEVEL_WORDS] + ["lower bounds"] * bound + ["hollow: a caution, or an unknown error"] * hollow
    words += [f"without a value: {', '.join(missing)}"] if missing else []
    axes.set_title("\n".join(textwrap.wrap(f"{method}; {'; '.join(words)}", 100)), fontsize=9)
    axes.set_ylabel("log V (nat)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2 if len(runs) > 4 else 1)
