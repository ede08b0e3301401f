"""The evidence of one checkpoint for ``basinscope compare``: task, held-out rows, initialisation, stored results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from basinscope.runs.session import Machine, Session
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.measures import basin_landscape
from spectra.checkpoint import Checkpoint, ReadingOptions, read_checkpoint
from spectra.costs import cost_name
from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.landscape import Landscape
from spectra.store import read_spectrum
from spectra.words import dtype_title, operator_title
from volume.store import is_volume_file, read_study

_STEP = re.compile(r"^(?P<run>.*step[-_]?)(?P<step>\d+)(?P<rest>.*)$")
_SAME_RUN = ("task", "kind", "seed", "hidden")


def make_evidence(
    path: Path | Landscape,
    settings: EvidenceSettings,
    *,
    machine: Machine,
    reading: ReadingOptions = ReadingOptions(),  # noqa: B008  # frozen
    task: str | None = None,
    held_out_task: str | None = None,
    initial: Path | None = None,
    reuse: tuple[Path, ...] = (),
    command: str = "",
    strategies: Mapping[str, str] | None = None,
    title: str = "landscape",
) -> tuple[Evidence, Provenance]:
    """Read a checkpoint (or take a landscape) and what belongs to it: evidence, not yet computed, and its origin."""
    session = Session(path, task, machine, reading, title=title)
    landscape = session.shared(session.own())
    beside = held_out_task or session.held_out
    held_out = None if beside is None else session.shared(session.own(beside))
    start, note = _initial(initial, session, landscape, reading)
    evidence = Evidence(
        landscape,
        settings=settings,
        held_out=held_out,
        checkpoint=session.checkpoint,
        initial=start,
        strategies=strategies,
        memory=machine.memory,
    )
    notes = [note, *(reused(evidence, file, session.checkpoint) for file in reuse)]
    evidence.notes = tuple(text for text in notes if text)
    return evidence, session.provenance(landscape, command)


def _initial(
    asked: Path | None, session: Session, landscape: Landscape, reading: ReadingOptions
) -> tuple[Tensor | None, str]:
    """The parameters at initialisation, and a sentence on where they are from."""
    checkpoint = session.checkpoint
    found = asked or named_initialisation(checkpoint.path, checkpoint) or step_zero(checkpoint.path)
    if found is None:
        return None, ""
    try:
        start = read_checkpoint(found, reading)
    except UserError as error:
        if asked is not None or reading.key is None:
            raise
        # A file from before the first average may well lack the key of averages.
        return None, f"{found.name} is not taken for the initialisation: {error}"
    differing = [key for key in _SAME_RUN if start.metadata.get(key) != checkpoint.metadata.get(key)]
    if asked is None and differing:
        return None, f"{found.name} is not taken for the initialisation: its {differing[0]} differs"
    theta = session.own(checkpoint=start).theta
    if theta.shape != landscape.theta.shape:
        raise UserError(f"{found} has {len(theta)} parameters, the checkpoint {landscape.size}: not its initialisation")
    return theta, f"initialisation read from {found.name}"


def named_initialisation(path: Path, checkpoint: Checkpoint) -> Path | None:
    """The file beside a checkpoint that its metadata calls its ``initialisation``; None if it is not there."""
    name = checkpoint.metadata.get("initialisation")
    # Its last part only: a checkpoint of unknown origin must not point anywhere else.
    found = path.with_name(Path(name).name) if isinstance(name, str) and Path(name).name else None
    return found if found is not None and found.is_file() else None


def step_zero(path: Path) -> Path | None:
    """The checkpoint of step 0 beside one such as ``run_step00640.pt``; None if it is not there.

    >>> step_zero(Path("nowhere/run_step00640.pt")) is None
    True
    """
    parts = _STEP.match(path.name)
    if parts is None:
        return None
    found = path.with_name(f"{parts['run']}{'0' * len(parts['step'])}{parts['rest']}")
    return found if found.is_file() else None


def reused(evidence: Evidence, file: Path, checkpoint: Checkpoint) -> str:
    """Take a stored result of this checkpoint, data and cost into the evidence, and say so, or why not."""
    if is_volume_file(file):
        return _reused_volume(evidence, file, checkpoint)
    stored = read_spectrum(file)
    spectrum, landscape = stored.spectrum, evidence.landscape
    if stored.provenance.checkpoint_sha256 != checkpoint.sha256:
        return ""
    reason = ""
    if not stored.provenance.same_weights(checkpoint.sha256, checkpoint.weights):
        reason = f"it is of other weights of the file ({stored.provenance.checkpoint_weights})"
    elif spectrum.settings.operator not in ("hessian", "gauss-newton"):
        reason = f"it is of the {operator_title(spectrum.settings.operator)}"
    elif spectrum.data_sha256 != landscape.batches.sha256:
        reason = "it is of other data"
    elif stored.provenance.cost != cost_name(landscape.cost_function):
        reason = f"it is of the cost {stored.provenance.cost}"
    elif stored.provenance.dtype != dtype_title(landscape.dtype):
        reason = f"it is in {stored.provenance.dtype}"
    elif tuple(name for name, _ in spectrum.parameters) != landscape.parameters.names:
        reason = "it is of other parameters"
    elif not spectrum.complete:
        reason = "it is not complete"
    if reason:
        return f"{file.name} was not reused: {reason}"
    evidence.stored_spectra[spectrum.settings.operator] = spectrum
    probes, steps = spectrum.settings.probes, spectrum.settings.steps
    title = operator_title(spectrum.settings.operator, first=True)
    return f"{title} spectrum reused from {file.name} ({counted(probes, 'probe')} of {counted(steps, 'step')})"


def _reused_volume(evidence: Evidence, file: Path, checkpoint: Checkpoint) -> str:
    study = read_study(file)
    if study.provenance.checkpoint_sha256 != checkpoint.sha256:
        return ""
    landscape, reason = basin_landscape(evidence), ""
    if not study.provenance.same_weights(checkpoint.sha256, checkpoint.weights):
        reason = f"it is of other weights of the file ({study.provenance.checkpoint_weights})"
    elif study.data_sha256 != landscape.batches.sha256:
        reason = "it is of other data than the held-out rows" if evidence.held_out else "it is of other data"
    elif study.provenance.cost != cost_name(landscape.cost_function):
        reason = f"it is of the cost {study.provenance.cost}"
    elif study.provenance.dtype != dtype_title(landscape.dtype):
        reason = f"it is in {study.provenance.dtype}"
    elif study.settings.cutoff != evidence.settings.cutoff:
        reason = f"its cutoff is {study.settings.cutoff:g}"
    elif study.settings.prior != "gaussian":
        reason = f"its prior is {study.settings.prior}"
    elif not study.complete:
        reason = "it is not complete"
    if reason:
        return f"{file.name} was not reused: {reason}"
    evidence.stored_study = study
    return f"{', '.join(name for name, one in study.results.items() if not one.failure)} reused from {file.name}"
