"""One run of ``basinscope audit``: the cases, the estimators, and the table, kept as it grows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from basinscope.choices import chosen
from basinscope.outputs import to_continue
from basinscope.runs.progress import Report
from basinscope.runs.spectrum import SMALL
from basinscope.runs.volume import volume_landscape
from basinscope.tasks import data_folder, held_out_name, make_landscape, task_name
from spectra.checkpoint import UNCHECKED, AdamMoments, Checkpoint, DamagedStateError, adam_moments, read_checkpoint
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from spectra.store import read_spectrum
from volume.audit import (
    BY_NAME,
    NAMES,
    SHIFT,
    VOLUME,
    Array,
    AuditCase,
    AuditReport,
    AuditTable,
    Fact,
    Truth,
    audit,
    bridge_truth,
    estimators,
    known_cases,
    read_report,
    sampler_facts,
    truth_of,
    write_report,
)
from volume.bridge import read_bridge
from volume.curvature_density import curvature_name
from volume.noise import cost_noise, noise_caution
from volume.priors import parse_prior

SHIPPED = "digits_mlp_fisher.h5"
# Words for a truth that is computed, and what the bridge then aims at.
BRIDGES = {"bridge": "sublevel", "bridge-star": "star"}
UNKNOWN = "without a truth there is no bias: give --truth, or audit on --known cases"


@dataclass(frozen=True)
class AuditRequest:
    """What the user asked for.

    Attributes:
        checkpoint: path of the checkpoint; None for the known cases.
        effort: directions, probes, steps and products.
        facts: whether to check the sampler's facts.
        spectrum: a spectrum file for the known cases; None takes the one that comes with the data.
        estimators: names or beginnings; empty for all.
        cases: likewise.
        repeats: seeds a row.
        seed: of the first.
        task: of the checkpoint; None for its own.
        cost: ``kl``, ``task`` or None.
        cutoff: T.
        prior: as ``volume.priors.parse_prior`` reads it.
        truth: as typed, or None.
        output: file of the store, or None.
        plot: file of the figure, or None.
        overwrite: whether existing files may be replaced.
        resume: whether to keep the rows of the output.
        command: the command line, for the record.
    """

    checkpoint: Path | None
    effort: Mapping[str, int]
    facts: bool = True
    spectrum: Path | None = None
    estimators: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    repeats: int = 20
    seed: int = 0
    task: str | None = None
    cost: str | None = None
    cutoff: float = 0.01
    prior: str = "gaussian"
    truth: str | None = None
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False
    resume: bool = False
    command: str = ""


def run_audit(request: AuditRequest, progress: Report) -> AuditReport:
    """Run an audit, keeping each finished row in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.

    Returns:
        The report.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
    """
    names = chosen("--estimators", request.estimators, NAMES)
    if not request.estimators:
        names = tuple(name for name in names if name not in BY_NAME)
    earlier = _earlier(request)
    if "OMP_NUM_THREADS" not in os.environ and request.checkpoint is None:
        torch.set_num_threads(1)
    if request.checkpoint is None:
        cases, report = _known(request)
    else:
        cases, report = _checkpoint(request, request.checkpoint, "" if earlier is None else earlier.strategy)
    if earlier is not None and (earlier.title, earlier.notes[:1]) != (report.title, report.notes[:1]):
        raise UserError(f"{request.output} is an audit of {earlier.title} made otherwise; choose another --output")
    every = estimators(**request.effort)

    def keep(table: AuditTable) -> None:
        if request.output is not None:
            write_report(request.output, replace(report, table=table))

    table = audit(
        cases,
        {name: every[name] for name in names},
        repeats=request.repeats,
        seed=request.seed,
        earlier=None if earlier is None else earlier.table,
        progress=progress,
        on_row=keep,
    )
    facts: tuple[Fact, ...] = ()
    if request.facts:
        facts = sampler_facts(request.seed, lambda done, total: progress(done, total, "facts of the sampler"))
    report = replace(report, table=table, facts=facts)
    if request.output is not None:
        write_report(request.output, report)
    return report


def _earlier(request: AuditRequest) -> AuditReport | None:
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        return None
    return read_report(output)


def _effort(request: AuditRequest) -> str:
    return ", ".join(f"{value} {name}" for name, value in request.effort.items())


def known_spectrum(asked: Path | None) -> Path | None:
    """The spectrum file that goes into the known cases.

    Args:
        asked: what was typed, or None.

    Returns:
        It, else that of the data of this package, if it is there.
    """
    shipped = data_folder() / SHIPPED
    return asked or (shipped if shipped.is_file() else None)


def _known(request: AuditRequest) -> tuple[tuple[AuditCase, ...], AuditReport]:
    shipped, path = data_folder() / SHIPPED, known_spectrum(request.spectrum)
    notes = [_effort(request)]
    measured = {}
    if path is not None:
        name = "measured-digits" if path == shipped else f"measured-{path.stem}"
        measured[name] = _eigenvalues(path)
    else:
        notes.append(f"no measured spectrum: {shipped} is not there; give --spectrum FILE")
    cases = known_cases(measured)
    wanted = chosen("--cases", request.cases, tuple(case.name for case in cases))
    kept = tuple(case for case in cases if case.name in wanted)
    return kept, AuditReport(_empty(request), command=request.command, notes=tuple(notes))


def _eigenvalues(path: Path) -> Array:
    """All eigenvalues of an exact spectrum."""
    density = read_spectrum(path).spectrum.density
    if not density.exact:
        raise UserError(f"--spectrum {path} must hold an exact spectrum (--engine dense or gram), found a sampled one")
    counts = np.rint(density.deflation.weights).astype(np.int64)
    return np.repeat(density.deflation.nodes, counts)


def _checkpoint(request: AuditRequest, path: Path, strategy: str) -> tuple[tuple[AuditCase, ...], AuditReport]:
    truth = _given_truth(request.truth)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    checkpoint = read_checkpoint(path)
    name = task_name(request.task, checkpoint)
    name = held_out_name(name) or name
    landscape = volume_landscape(request.cost, name, make_landscape(name, checkpoint))
    if landscape.size < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    prior = parse_prior(request.prior, landscape.theta, layout=landscape.parameters, metadata=checkpoint.metadata)
    asked = SpectrumSettings(operator=curvature_name(landscape), strategy=strategy or "auto")
    operator = make_operator(landscape, asked)
    # The first product chooses the strategy, which all rows, the bridge and whatever goes on share.
    operator.matvec(landscape.theta)
    strategy = str(getattr(operator, "strategy", ""))
    if request.truth in BRIDGES:
        target = BRIDGES[request.truth]
        truth = bridge_truth(landscape, prior, request.cutoff, target=target, seed=request.seed, strategy=strategy)
    elif request.truth is not None and truth is None:
        truth = _stored_truth(request.truth, checkpoint.sha256, landscape, prior.name, request.cutoff)
    case = AuditCase(
        path.stem,
        landscape,
        request.cutoff,
        {} if truth is None else {VOLUME: truth},
        prior=prior,
        operator=operator,
        shift=SHIFT,
        landscape=landscape,
        moments=_moments(checkpoint, landscape),
    )
    unit = getattr(landscape.cost_function, "unit", "cost")
    made = f"{_effort(request)}, cutoff {request.cutoff:g} {unit}, prior {prior.name}"
    dtype = str(landscape.dtype).removeprefix("torch.")
    noisy = noise_caution(cost_noise(landscape), request.cutoff, landscape.size, dtype, fixed=True)
    beside = (
        (truth is None, UNKNOWN),
        (UNCHECKED in checkpoint.integrity, f"checkpoint: {checkpoint.integrity}"),
        (bool(noisy), noisy),
    )
    notes = (made, *(words for holds, words in beside if holds))
    return (case,), AuditReport(_empty(request), (), path.name, request.command, notes, strategy)


def _moments(checkpoint: Checkpoint, landscape: Landscape) -> AdamMoments | None:
    try:
        return adam_moments(checkpoint, landscape.model)
    except DamagedStateError:
        raise
    except UserError:
        return None  # the table says that there is no state of Adam


def _given_truth(text: str | None) -> Truth | None:
    """What was typed; None where nothing was, or a bridge is to be run."""
    if text is None or text in BRIDGES or Path(text).suffix == ".h5":
        return None
    value, _, error = text.partition(":")
    try:
        return Truth(float(value), float(error) if error else 0.0, "given")
    except ValueError:
        raise UserError(
            f"--truth must be nats and their error, as -1300:5, a bridge file, bridge or bridge-star; got {text!r}"
        ) from None


def _stored_truth(file: str, digest: str, landscape: Landscape, prior: str, cutoff: float) -> Truth:
    """The truth that a bridge file holds, if it is of this landscape and prior."""
    result, source = read_bridge(file)
    asked = {"checkpoint_sha256": digest, "prior": prior, "data_sha256": landscape.batches.sha256}
    different = [
        f"{name} is {source[name]} there and {asked[name]} here"
        for name in asked
        if name in source and source[name] != asked[name]
    ]
    if result.size != landscape.size:
        different.append(f"it has {result.size} parameters, the checkpoint {landscape.size}")
    if different:
        raise UserError(f"--truth {file} is of something else: {'; '.join(different)}")
    return truth_of(result, cutoff)


def _empty(request: AuditRequest) -> AuditTable:
    return AuditTable((), request.repeats, request.seed)
