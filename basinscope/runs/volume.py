"""One run of ``basinscope volume``: read, check, estimate, and keep what is done as it grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basinscope.outputs import to_continue
from basinscope.ranks import common, writes_files
from basinscope.runs.progress import Report
from basinscope.runs.resumption import check_source
from basinscope.runs.session import CheckpointRequest, Session, basin_cost, continued, ends_early
from basinscope.runs.volume_announcement import volume_lines, work_lines
from basinscope.runs.volume_resumption import check_landscape, check_settings
from spectra.checkpoint import AdamMoments, Checkpoint, adam_moments
from spectra.costs import CrossEntropy
from spectra.errors import UserError, out_of_memory
from spectra.files import Provenance, counted
from spectra.landscape import Landscape
from spectra.ranks import Ranks
from spectra.timing import Paced
from volume.curvature_density import curvature_name
from volume.descent import Descent, descent
from volume.estimator import VolumeEstimator, refuse_without_volume
from volume.method_result import MethodResult, stating_methods
from volume.noise import above_noise, cost_noise, noise_caution
from volume.preconditioners import adam_curvature
from volume.priors import parse_prior
from volume.store import read_study, write_study
from volume.study import VolumeSettings, VolumeStudy
from volume.sweep import CutoffSweep, parse_sweep


@dataclass(frozen=True, kw_only=True)
class VolumeRequest(CheckpointRequest):
    """What the user asked for; the cost is ``kl``, ``task``, or chosen by the task's cost.

    Attributes:
        settings: settings of the study.
        preconditioner: its name as typed; None takes that of the output if it is continued, else the settings'.
        validation_task: name of the task to measure basins on, or None for a built-in task's held-out rows.
    """

    settings: VolumeSettings
    preconditioner: str | None = None
    validation_task: str | None = None


def run_volume(request: VolumeRequest, progress: Report, announce: Callable[[str], None] | None = None) -> VolumeStudy:
    """Run a study, or continue a stored one, keeping finished blocks in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with each line of the plan of a large model's study, before its first result.

    Returns:
        The study.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    output = to_continue(request.output, resume=request.resume)
    earlier = None if output is None else read_study(output)
    session = Session(request.checkpoint, request.task, request.machine, request.reading)
    checkpoint, name = session.checkpoint, request.validation_task or session.held_out or session.task
    own = session.own(name)
    landscape = session.shared(basin_cost(own, request.cost, name))
    chosen, moments = _preconditioner(request, checkpoint, landscape, earlier)
    below, noise = _surroundings(landscape, earlier, progress)
    asked = replace(request.settings, preconditioner=chosen)
    provenance = common(session.provenance(landscape, request.command, name), _described(earlier))
    study = _study(provenance, landscape, asked, below, noise)
    prior = parse_prior(
        study.settings.prior, landscape.theta, layout=landscape.parameters, metadata=checkpoint.metadata
    )
    if earlier is not None and request.output is not None:
        study = _continued(request.output, request.command, earlier, study)
    estimator = VolumeEstimator(
        landscape,
        study.settings,
        prior,
        moments=moments,
        fall=below.fall,
        noise=noise,
        data=own if isinstance(own.softmax, CrossEntropy) and own.softmax.plain else None,
        training=_training(request, session, name),
        strategy=study.strategy,
        memory=request.machine.memory,
        progress=progress,
    )
    if announce is not None:
        for line in (*work_lines(estimator, study.results), *volume_lines(estimator)):
            announce(line)
    return _Work(request, study, estimator).run()


class _Work:
    """Runs the methods in turn, and writes the store as blocks of directions are done."""

    def __init__(self, request: VolumeRequest, study: VolumeStudy, estimator: VolumeEstimator) -> None:
        self.request, self.study, self.estimator = request, study, estimator
        self.kept = Paced(self._put)

    def run(self) -> VolumeStudy:
        with ends_early(self.state), self.kept:
            for method in self.study.settings.methods:
                self.method(method)
            refuse_without_volume(self.study.results)
            if self.study.settings.sweep_cutoff:
                self.sweep(parse_sweep(self.study.settings.sweep_cutoff))
            self.write()
        return self.study

    def method(self, method: str) -> None:
        """One method's result, or why it has none: the others go on."""
        try:
            self.keep(self.estimator.run(method, self.study.results.get(method), self.keep))
        except (UserError, MemoryError, RuntimeError) as error:
            failed = self.estimator.failed(method, self.expected(method, error))
            begun = self.study.results.get(method)
            if begun is not None and begun.sampled is not None:
                # The directions that are done stay.
                many = counted(len(begun.sampled.log_terms), "direction")
                told = f"{method} ended after {many}: {failed.failure}"
                self.study = replace(self.study, cautions=tuple(dict.fromkeys((*self.study.cautions, told))))
            else:
                self.study = replace(self.study, results={**self.study.results, method: failed})

    def expected(self, method: str, error: Exception) -> Exception:
        """The error, if it is one that costs no more than the method; on several ranks it may be one rank's alone."""
        shared = Ranks.current().alone or method not in stating_methods("sampled")
        if shared and (isinstance(error, UserError | MemoryError) or out_of_memory(error)):
            return error
        raise error

    def keep(self, result: MethodResult) -> None:
        found = {**self.study.results, result.method: result}
        order = dict.fromkeys([*(name for name in self.study.settings.methods if name in found), *found])
        self.write(results={name: found[name] for name in order})

    def sweep(self, cutoffs: NDArray[np.float64]) -> None:
        """Each method that has a volume at each cutoff, kept after each block too."""
        kept = self.study.sweep or CutoffSweep(cutoffs)
        # What failed before is tried again.
        self.study = replace(self.study, sweep=replace(kept, failures={}))
        for method in self.study.settings.methods:
            like = self.study.results[method]
            if like.failure:
                continue

            def keep(results: tuple[MethodResult, ...], method: str = method) -> None:
                self.write(sweep=replace(self.swept, results={**self.swept.results, method: results}))

            try:
                known = self.swept.results.get(method, ())
                keep(self.estimator.sweep(method, cutoffs, earlier=known, like=like, on_block=keep))
            except (UserError, MemoryError, RuntimeError) as error:
                why = self.estimator.failed(method, self.expected(method, error)).failure
                swept = replace(self.swept, failures={**self.swept.failures, method: why})
                self.study = replace(self.study, sweep=swept)

    @property
    def swept(self) -> CutoffSweep:
        """What is done of the sweep."""
        assert self.study.sweep is not None
        return self.study.sweep

    def write(self, **changed: Any) -> None:
        """Change the study, and its file when it is time."""
        self.study = replace(self.study, strategy=self.estimator.strategy, **changed)
        self.kept.keep(self.study)

    def _put(self, study: VolumeStudy) -> None:
        if self.request.output is not None and writes_files():
            write_study(self.request.output, study)

    def state(self) -> str:
        output = self.request.output
        if output is None:
            return "interrupted; nothing is saved: with --output a run can be continued"
        if self.kept.written is None:
            return f"interrupted before the first block of directions was done; nothing new is saved in {output}"
        return f"interrupted: what was done is saved in {output}; go on with the same command and --resume"


def _described(earlier: VolumeStudy | None) -> str:
    if earlier is None:
        return "nothing"
    counts = {name: 0 if one.sampled is None else len(one.sampled.log_terms) for name, one in earlier.results.items()}
    return (
        f"{', '.join(f'{count} directions of {name}' for name, count in counts.items())}, {earlier.provenance.created}"
    )


def _continued(output: Path, typed: str, earlier: VolumeStudy, study: VolumeStudy) -> VolumeStudy:
    """The study with what is stored of it, if that is the same study."""
    check_source(output, earlier.provenance, study.provenance)
    check_settings(output, earlier, study.settings)
    check_landscape(output, earlier, study)
    kept = _kept_settings(earlier, study.settings)
    # What failed is tried again.
    results = {name: one for name, one in earlier.results.items() if not (one.failure and name in kept.methods)}
    return replace(
        study,
        settings=kept,
        results=results,
        sweep=earlier.sweep,
        strategy=earlier.strategy if earlier.operator == study.operator else "",
        provenance=continued(earlier.provenance, typed),
    )


def _kept_settings(earlier: VolumeStudy, asked: VolumeSettings) -> VolumeSettings:
    """What was asked for now, with the sweep and the preconditioner of stored results not continued this time."""
    if earlier.sweep is not None and not asked.sweep_cutoff:
        asked = replace(asked, sweep_cutoff=earlier.settings.sweep_cutoff)
    if "star-domain" not in earlier.results or "star-domain" in asked.methods:
        return asked
    before = earlier.settings
    return replace(asked, preconditioner=before.preconditioner, eps=before.eps, exponent=before.exponent)


def _training(request: VolumeRequest, session: Session, name: str) -> Landscape | None:
    """The landscape of the training data, for the segment; None if that is not asked for."""
    needing = stating_methods("two_sets", request.settings.methods)
    if not needing:
        return None
    if session.task == name:
        raise UserError(
            f"{needing[0]} needs two sets of data, and there is only that of the task {name!r}: give --task, the data "
            "that the checkpoint was trained on, and --validation-task, other data (of --data, --validation-data)"
        )
    return basin_cost(session.own(), request.cost, session.task)


def _preconditioner(
    request: VolumeRequest, checkpoint: Checkpoint, landscape: Landscape, earlier: VolumeStudy | None
) -> tuple[str, AdamMoments | None]:
    """The preconditioner's name, that of stored directions unless another is typed; Adam's moments if it wants them."""
    if "star-domain" not in request.settings.methods:
        # Nothing is preconditioned: what was typed is kept for the record.
        return request.preconditioner or "identity", None
    begun = earlier is not None and "star-domain" in earlier.results
    asked = request.preconditioner or (earlier if begun and earlier is not None else request).settings.preconditioner
    if not asked.startswith("adam"):
        return asked, None
    try:
        moments = adam_moments(checkpoint, landscape.model)
        if not bool((adam_curvature(moments, landscape.parameters, asked.removeprefix("adam-")) > 0.0).any()):
            raise UserError(f"Adam's moments in {checkpoint.path} are all zero: no step was taken")
    except UserError as error:
        raise UserError(f"--preconditioner {asked}: {error}; use low-rank") from None
    return asked, moments


def _surroundings(landscape: Landscape, earlier: VolumeStudy | None, progress: Report) -> tuple[Descent, float]:
    """The descent from the anchor and the cost's noise there: as the study to go on with has them, else measured."""
    # Another number of ranks or threads has another noise, and crossings depend on it.
    if earlier is not None and not math.isnan(earlier.cost_noise + earlier.fall):
        return Descent(earlier.gradient_norm, earlier.fall, earlier.fall_distance), earlier.cost_noise
    progress(0, 1, "the cost's noise and descent")
    noise = cost_noise(landscape)
    return above_noise(descent(landscape), noise), noise


def _study(
    provenance: Provenance, landscape: Landscape, settings: VolumeSettings, below: Descent, noise: float
) -> VolumeStudy:
    """The study before its first result."""
    lowest = float(parse_sweep(settings.sweep_cutoff)[0]) if settings.sweep_cutoff else settings.cutoff
    cautions = [below.caution(min(settings.cutoff, lowest), provenance.cost_unit)]
    if stating_methods("sampled", settings.methods):
        cautions.append(noise_caution(noise, min(settings.cutoff, lowest), landscape.size, provenance.dtype))
    return VolumeStudy(
        settings=settings,
        provenance=provenance,
        size=landscape.size,
        samples=landscape.samples,
        data_sha256=landscape.batches.sha256,
        cost=landscape.anchor_cost,
        gradient_norm=below.gradient_norm,
        operator=settings.operator or curvature_name(landscape),
        notes=landscape.notes,
        cost_noise=noise,
        fall=below.fall,
        fall_distance=below.distance,
        cautions=tuple(filter(None, cautions)),
    )
