"""One call a command: what ``basinscope spectrum`` and the others do, from Python, with the result returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from basinscope.given import Source, listed, path_of, shown, source_of, threads_kept, with_changes
from basinscope.outputs import TASK, reserved
from basinscope.runs import (
    AuditRequest,
    BridgeRequest,
    CompareRequest,
    Machine,
    Report,
    Request,
    VolumeRequest,
    reserved_for,
    run_audit,
    run_bridge,
    run_compare,
    run_spectrum,
    run_volume,
)
from basinscope.tasks import GivenTask, task_files
from basinscope.tasks.own import chosen_task, task_on
from comparisons.evidence import EvidenceSettings
from comparisons.measures import chosen_options, measures_named
from spectra.checkpoint import ReadingOptions
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.sharded import ShardedLandscape
from spectra.spectrum import SpectrumSettings
from volume.chains import BridgeSettings
from volume.study import VolumeSettings

if TYPE_CHECKING:
    from comparisons.comparison import Comparison
    from spectra.store import StoredSpectrum
    from volume.audit import AuditReport
    from volume.bridge import BridgeResult
    from volume.study import VolumeStudy


def spectrum(
    source: Source | ShardedLandscape,
    settings: SpectrumSettings | None = None,
    *,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    cost: str | None = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quick: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> StoredSpectrum:
    """The eigenvalue spectrum of a Hessian, Gauss-Newton or Fisher matrix, as ``basinscope spectrum`` computes it.

    Args:
        source: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own, which may be
            sharded: then all ranks make this call, and rank 0 writes the output.
        settings: operator, probes, steps and the rest of what decides the numbers.
        task: name of the task that makes a landscape of the checkpoint; None for the checkpoint's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        cost: name of a cost in place of the task's.
        machine: dtype, device, threads, and the memory, which is taken in place of the settings'.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps the deflation and each finished block of probes; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with the output if it exists.
        quick: whether a rough answer of about 60 products is wanted.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``probes=16``.

    Returns:
        The spectrum and where it comes from.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> found = spectrum(Landscape(model, mean_squared_error, (x, torch.zeros(2, 1))), engine="dense")
    >>> found.spectrum.density.deflation.nodes.tolist()
    [1.0, 1.0]
    """
    asked = with_changes(settings or SpectrumSettings(), changes)
    request = Request(
        # A sharded landscape has all that a spectrum needs of a landscape, and refuses the rest.
        checkpoint=cast(Landscape, source) if isinstance(source, ShardedLandscape) else source_of(source),
        settings=asked,
        machine=machine or Machine(memory=asked.memory),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        quick=quick,
        command="basinscope.spectrum from Python",
    )
    with threads_kept(), reserved_for(request), shown(progress, "products") as report:
        return run_spectrum(request, report)[0]


def volume(
    source: Source,
    settings: VolumeSettings | None = None,
    *,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    validation_task: str | None = None,
    validation_data: Any = None,
    cost: str | None = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> VolumeStudy:
    """The volume of the basin around a checkpoint by several methods, as ``basinscope volume`` estimates it.

    Args:
        source: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own.
        settings: methods, cutoff, prior and the rest of what decides the numbers.
        task: name of the task that makes a landscape of the checkpoint; None for the checkpoint's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        validation_task: name of the task of the data that basins are measured on; None for the task's held-out rows.
        validation_data: the same for a model: other data for it and its loss.
        cost: ``kl`` (divergence from the checkpoint's outputs) or ``task``; None for kl where the model has outputs
            of a classifier.
        machine: dtype, device, memory and threads.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps finished blocks of directions; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with the output if it exists.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``directions=200``.

    Returns:
        The study: log-volumes in nats, by method.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    asked = with_changes(settings or VolumeSettings(), changes)
    validation = task_on(validation_task, model=model, data=validation_data, loss=loss, option="validation_data")
    request = VolumeRequest(
        checkpoint=source_of(source),
        settings=asked,
        # Directions that are stored keep theirs where none is asked for.
        preconditioner=None if asked.preconditioner == VolumeSettings.preconditioner else asked.preconditioner,
        validation_task=validation,
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.volume from Python",
    )
    files = reserved_for(request, inputs=[(TASK, path) for path in task_files(validation)])
    with threads_kept(), files, shown(progress) as report:
        return run_volume(request, report)


def bridge(
    source: Source,
    settings: BridgeSettings | None = None,
    *,
    prior: str = "gaussian",
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    cost: str | None = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> BridgeResult:
    """The ground truth of a basin's volume by a ladder of Markov chains, as ``basinscope bridge`` measures it.

    Args:
        source: path of a checkpoint (or its name in the Hugging Face cache), or a landscape of your own.
        settings: cutoffs, target, chains and draws.
        prior: ``gaussian``, ``gaussian:S`` (standard deviation S) or ``init``.
        task: name of the task that makes a landscape of the checkpoint; None for the checkpoint's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        cost: ``kl`` or ``task``; None for kl where the model has outputs of a classifier.
        machine: dtype, device, memory and threads.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps each finished rung; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with the output if it exists.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``chains=4``.

    Returns:
        The bridge: its ``volumes`` are log-volumes in nats with standard errors.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    request = BridgeRequest(
        checkpoint=source_of(source),
        settings=with_changes(settings or BridgeSettings(), changes),
        prior=prior,
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        cost=cost,
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.bridge from Python",
    )
    with threads_kept(), reserved_for(request), shown(progress) as report:
        result, made = run_bridge(request, report)
    return replace(result, source=made)


def compare(
    sources: Source | Sequence[Source],
    settings: EvidenceSettings | Mapping[str, Mapping[str, object]] | None = None,
    *,
    measures: str | Sequence[str] = ("default",),
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    held_out_task: str | None = None,
    held_out_data: Any = None,
    initial: str | Path | None = None,
    reuse: str | Path | Sequence[str | Path] = (),
    jobs: int = 1,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
    **changes: Any,
) -> Comparison:
    """Flatness measures of checkpoints side by side, as ``basinscope compare`` computes them.

    Args:
        sources: paths of checkpoints, or landscapes of your own.
        settings: probes, directions, cutoff and the rest of what decides the numbers; or only the options of single
            measures, such as ``{"learning-coefficient": {"localisation": 5}}``, with the rest as usual.
        measures: names of measures or families; ``default`` is done in about 1,000 gradients, ``all`` is all of them.
        task: name of the task that makes a landscape of each checkpoint; None for its own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        held_out_task: name of the task on held-out data; None for that of a built-in task.
        held_out_data: the same for a model: other data for it and its loss.
        initial: checkpoint of the initialisation; None for step 0 of the same run, beside it.
        reuse: files of spectra and volumes to take evidence from where it fits.
        jobs: number of checkpoints examined at once, each in a process of its own.
        machine: dtype, device, memory and threads.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps each finished checkpoint; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to skip checkpoints that the output holds.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.
        **changes: fields of the settings by name, such as ``probes=4``.

    Returns:
        The comparison; a checkpoint that could not be examined has a sentence in place of its outcomes.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a field of the settings has no such name, or a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    checkpoints = tuple(dict.fromkeys(map(source_of, listed(sources))))
    if not checkpoints:
        raise UserError("compare needs at least one checkpoint or landscape, got none")
    asked = chosen_task(task, model=model, data=data, loss=loss)
    held_out = task_on(held_out_task, model=model, data=held_out_data, loss=loss, option="held_out_data")
    objects = any(isinstance(one, Landscape | GivenTask) for one in (*checkpoints, asked, held_out))
    if jobs < 1 or (jobs > 1 and objects):
        raise UserError(f"jobs must be at least 1, and 1 where objects are given and no files and names; got {jobs}")
    named = measures_named(listed(measures))
    plain = settings if isinstance(settings, EvidenceSettings) else EvidenceSettings(options=settings or {})  # type: ignore[arg-type]
    changed = with_changes(plain, changes)
    request = CompareRequest(
        checkpoints=checkpoints,
        measures=tuple(one.name for one in named),
        settings=replace(changed, options=chosen_options(changed.options, named)),
        held_out_task=held_out,
        initial=path_of(initial),
        reuse=tuple(map(Path, listed(reuse))),
        jobs=jobs,
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=asked,
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.compare from Python",
    )
    files = reserved(results={"output": request.output}, inputs=request.inputs, overwrite=overwrite, resume=resume)
    with threads_kept(), files, shown(progress) as report:
        return run_compare(request, report)


def audit(
    source: Source | None = None,
    *,
    estimators: str | Sequence[str] = (),
    cases: str | Sequence[str] = (),
    repeats: int = 12,
    directions: int = 100,
    probes: int = 8,
    steps: int = 32,
    products: int = 60,
    seed: int = 0,
    facts: bool = True,
    cost: str | None = None,
    cutoff: float = 0.01,
    prior: str = "gaussian",
    truth: str | Sequence[str] | None = None,
    task: str | None = None,
    model: Any = None,
    data: Any = None,
    loss: Any = None,
    machine: Machine | None = None,
    reading: ReadingOptions | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Report | bool | None = None,
) -> AuditReport:
    """Bias, spread, coverage and cost of estimators over repeats, as ``basinscope audit`` tells them.

    Args:
        source: path of a checkpoint, or a landscape of your own; None audits on the cases whose truth is known.
        estimators: names of estimators, or their beginnings; empty for all but the bridge.
        cases: names of known cases, or their beginnings; empty for all.
        repeats: number of seeds an estimator and case, at least 2.
        directions: number of directions of sampled methods.
        probes: number of probes of spectra.
        steps: number of Lanczos steps a probe.
        products: number of operator products of traces.
        seed: seed of the first repeat.
        facts: whether to check the facts of the sampler too, with the known cases.
        cost: ``kl`` or ``task``, of a checkpoint.
        cutoff: cost T that bounds the basin, of a checkpoint.
        prior: prior of the volume, of a checkpoint.
        truth: nats and their standard error, as ``-1300:5`` of the sublevel set or ``star=-1400:5`` of the star
            domain; a bridge file of either; ``bridge`` or ``bridge-star``. Several, one a set.
        task: name of the task that makes a landscape of the checkpoint; None for the checkpoint's own.
        model: in place of a task: a module, what makes one, or where that is, ``package.module:factory``.
        data: with a model: arrays (inputs, targets), a data set, a loader, or the name of a file or a function.
        loss: with a model: a loss of torch, a function of yours, ``cross-entropy``, ``mse`` or ``bce``.
        machine: dtype, device, memory and threads.
        reading: which weights of the file, under which names, and whether its pickled code may run.
        output: HDF5 file that keeps finished rows; None keeps nothing.
        overwrite: whether an existing output may be replaced.
        resume: whether to keep the rows that the output has.
        progress: True shows progress and False none; None shows it in a notebook alone. Or what is called with the
            work done, all work and what is being done.

    Returns:
        The report; biases in nats.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        UserTypeError: if a landscape is given a task.
        OSError: if a file cannot be read or written.
    """
    request = AuditRequest(
        checkpoint=None if source is None else source_of(source),
        effort={"directions": directions, "probes": probes, "steps": steps, "products": products},
        facts=facts and source is None,
        estimators=tuple(listed(estimators)),
        cases=tuple(listed(cases)),
        repeats=repeats,
        seed=seed,
        cost=cost,
        cutoff=cutoff,
        prior=prior,
        truth=tuple(listed(truth or ())),
        machine=machine or Machine(),
        reading=reading or ReadingOptions(),
        task=chosen_task(task, model=model, data=data, loss=loss),
        output=path_of(output),
        overwrite=overwrite,
        resume=resume,
        command="basinscope.audit from Python",
    )
    files = reserved(results={"output": request.output}, inputs=request.inputs, overwrite=overwrite, resume=resume)
    with threads_kept(), files, shown(progress) as report:
        return run_audit(request, report)
