"""One run of ``basinscope audit``: the cases, the estimators, and the table, kept as it grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from basinscope.choices import chosen
from basinscope.outputs import TASK, to_continue
from basinscope.runs.announcement import EVALUATIONS_A_DIRECTION, forecast, seconds_of
from basinscope.runs.progress import Report
from basinscope.runs.session import RunRequest, Session, basin_cost, ends_early
from basinscope.tasks import data_folder, task_files
from spectra.checkpoint import UNCHECKED, AdamMoments, Checkpoint, DamagedStateError, ReadingOptions, adam_moments
from spectra.errors import UserError, require_counts
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from spectra.store import read_spectrum
from spectra.timing import Paced
from volume.audit import (
    BY_NAME,
    NAMES,
    SETS,
    SHIFT,
    STAR,
    SUBLEVEL,
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
    reusable,
    sampler_facts,
    truth_of,
    write_report,
)
from volume.bridge import read_bridge
from volume.curvature_density import curvature_name
from volume.noise import cost_noise, noise_caution
from volume.priors import Prior, parse_prior

SHIPPED = "digits_mlp_fisher.h5"
# Words for a truth that is computed, and what the bridge then aims at.
BRIDGES = {"bridge": "sublevel", "bridge-star": "star"}
ONE_SET = "the truth is of {0}: it bounds what estimators of {1} claim; for their bias give --truth of {2} too"
UNKNOWN = "without a truth there is no bias: give --truth, or audit on --known cases"


@dataclass(frozen=True, kw_only=True)
class AuditRequest(RunRequest):
    """What the user asked for.

    Attributes:
        checkpoint: path of the checkpoint, or a landscape of the user's own; None for the known cases.
        effort: directions, probes, steps and products.
        facts: whether to check the sampler's facts.
        spectrum: a spectrum file for the known cases; None takes the one that comes with the data.
        estimators: names or beginnings; empty for all.
        cases: names of known cases or beginnings; empty for all.
        repeats: number of seeds a row.
        seed: seed of the first repetition.
        cost: ``kl``, ``task`` or None.
        cutoff: T, the cutoff on the cost.
        prior: text of the prior, as ``volume.priors.parse_prior`` reads it.
        truth: true values as they were typed, at most one a set.
    """

    checkpoint: Path | Landscape | None
    effort: Mapping[str, int]
    facts: bool = True
    spectrum: Path | None = None
    estimators: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    repeats: int = 12
    seed: int = 0
    cost: str | None = None
    cutoff: float = 0.01
    prior: str = "gaussian"
    truth: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"repeats": 2, "directions": 1, "probes": 1, "steps": 1, "products": 6, "seed": 0}
        require_counts(SimpleNamespace(repeats=self.repeats, seed=self.seed, **self.effort), least)
        if not 0.0 < self.cutoff < math.inf:
            raise UserError(f"--cutoff must be positive and finite, got {self.cutoff}")
        if self.checkpoint is None:
            self._refuse_options_of_a_checkpoint()
        elif self.spectrum is not None or self.cases:
            raise UserError(f"--{'spectrum' if self.spectrum is not None else 'cases'} needs --known")

    def _refuse_options_of_a_checkpoint(self) -> None:
        """What belongs to the other kind of audit is refused, not ignored."""
        given = {
            "task": self.task is not None,
            "cost": self.cost is not None,
            "cutoff": self.cutoff != AuditRequest.cutoff,
            "prior": self.prior != AuditRequest.prior,
            "truth": bool(self.truth),
            "dtype": self.machine.dtype is not None,
            "device": self.machine.device is not None,
            "key": self.reading.key is not None,
            "strip-prefix": self.reading.strip_prefix is not None,
            "trust-pickle": self.reading.trust_pickle,
        }
        for name, is_given in given.items():
            if is_given:
                raise UserError(f"--{name} is of the audit of a checkpoint; --known has its own")

    @property
    def inputs(self) -> list[tuple[str, Path | None]]:
        """What is read, each with the option that names it."""
        source = self.checkpoint if isinstance(self.checkpoint, Path) else None
        return [
            ("CHECKPOINT", source),
            ("--spectrum", known_spectrum(self.spectrum) if self.checkpoint is None else None),
            *(("--truth", Path(text)) for text in self.truth),
            *((TASK, path) for path in task_files(self.task)),
        ]


def run_audit(request: AuditRequest, progress: Report, announce: Callable[[str], None] | None = None) -> AuditReport:
    """Run an audit, keeping finished rows in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with what it will cost, in a line, before the first row.

    Returns:
        The report.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
    """
    names = chosen("--estimators", request.estimators, NAMES)
    if not request.estimators:
        names = tuple(name for name in names if name not in BY_NAME)
    output = to_continue(request.output, resume=request.resume)
    earlier = None if output is None else read_report(output)
    if request.checkpoint is None:
        request.machine.set_threads(0)
        cases, report = _known(request)
    else:
        cases, report = _checkpoint(request, request.checkpoint, "" if earlier is None else earlier.strategy)
    if earlier is not None and (earlier.title, earlier.notes[:1]) != (report.title, report.notes[:1]):
        raise UserError(f"{request.output} is an audit of {earlier.title} made otherwise; choose another --output")
    every = estimators(**request.effort)
    known = reusable(None if earlier is None else earlier.table)
    if announce is not None:
        left = [(case, name) for case in cases for name in names if (case.name, name) not in known]
        announce(_work(request, left))

    def write(grown: AuditReport) -> None:
        if request.output is not None:
            write_report(request.output, grown)

    kept = Paced(write)

    def state() -> str:
        if request.output is None:
            return "interrupted; nothing is saved: with --output an audit can be continued"
        if kept.written is None:
            return f"interrupted before the first row was done; nothing new is saved in {request.output}"
        rows = len(kept.written.table.rows)
        return f"interrupted: {rows} rows are saved in {request.output}; go on with the same command and --resume"

    with ends_early(state), kept:
        table = audit(
            cases,
            {name: every[name] for name in names},
            repeats=request.repeats,
            seed=request.seed,
            earlier=None if earlier is None else earlier.table,
            progress=progress,
            on_row=lambda grown: kept.keep(replace(report, table=grown)),
        )
        facts: tuple[Fact, ...] = ()
        if request.facts:
            facts = sampler_facts(request.seed, lambda done, total: progress(done, total, "facts of the sampler"))
        finished = replace(report, table=table, facts=facts)
        kept.keep(finished)
    return finished


def _work(request: AuditRequest, rows: list[tuple[AuditCase, str]]) -> str:
    """What the rows that are left will cost, in a line: products and evaluations of the cost, timed on a checkpoint."""
    evaluations = products = 0
    for case, name in rows:
        effort = request.effort
        along = name.startswith(("star-domain", "ellipsoid-slice"))
        if along or name == "importance-sampling":
            directions = min(effort["directions"], case.most_directions)
            evaluations += directions * (EVALUATIONS_A_DIRECTION if along else 1)
        elif name not in BY_NAME:
            products += effort["products"] if name.startswith("trace/") else effort["probes"] * effort["steps"]
    head = f"plan: {counted(len(rows), 'row')} of {counted(request.repeats, 'repeat')}"
    landscape = rows[0][0].landscape if rows else None
    if request.checkpoint is None or landscape is None:
        return head
    timed = (
        ("evaluation of the cost", evaluations, lambda: landscape.cost(landscape.theta)),
        ("product", products, lambda: rows[0][0].curvature.matvec(landscape.theta)),
    )
    found = [
        forecast(
            count * request.repeats, unit, seconds_of(step, landscape.device, landscape.ranks), bound="at least about"
        )
        for unit, count, step in timed
        if count
    ]
    beside = ["and the bridge, which takes what it takes"] if any(name in BY_NAME for _, name in rows) else []
    return "; ".join([head, *found, *beside])


def _effort(request: AuditRequest) -> str:
    return ", ".join(f"{value} {name}" for name, value in request.effort.items())


def known_spectrum(asked: Path | None) -> Path | None:
    """The spectrum file asked for, else that of the data of this package, if it is there."""
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


def _checkpoint(
    request: AuditRequest, source: Path | Landscape, strategy: str
) -> tuple[tuple[AuditCase, ...], AuditReport]:
    typed = [_typed_truth(text) for text in request.truth if not _is_bridge(text)]
    session = Session(source, request.task, request.machine, request.reading)
    checkpoint, name = session.checkpoint, session.held_out or session.task
    landscape = session.shared(basin_cost(session.own(name), request.cost, name))
    memory = request.machine.memory
    prior = parse_prior(request.prior, landscape.theta, layout=landscape.parameters, metadata=checkpoint.metadata)
    asked = SpectrumSettings(operator=curvature_name(landscape), strategy=strategy or "auto", memory=memory)
    operator = make_operator(landscape, asked)
    # The first product chooses the strategy, which all rows, the bridge and whatever goes on share.
    operator.matvec(landscape.theta)
    strategy = str(getattr(operator, "strategy", ""))
    by_set = _by_set(request, typed, checkpoint, landscape, prior, strategy)
    case = AuditCase(
        checkpoint.path.stem,
        landscape,
        request.cutoff,
        {VOLUME: by_set[SUBLEVEL]} if SUBLEVEL in by_set else {},
        prior=prior,
        operator=operator,
        shift=SHIFT,
        landscape=landscape,
        moments=_moments(checkpoint, landscape),
        memory=memory,
        star=by_set.get(STAR),
    )
    made_from = session.provenance(landscape, request.command, name)
    made = f"{_effort(request)}, cutoff {request.cutoff:g} {made_from.cost_unit}, prior {prior.name}"
    # As asked for, and not where it is as the task has it: files from before the options were there say nothing of it.
    machine = {"in": request.machine.dtype, "on": request.machine.device}
    if request.reading != ReadingOptions():
        machine["of"] = checkpoint.weights
    made = ", ".join([made, *(f"{where} {word}" for where, word in machine.items() if word is not None)])
    noisy = noise_caution(cost_noise(landscape), request.cutoff, landscape.size, made_from.dtype, fixed=True)
    beside = (
        (not by_set, UNKNOWN),
        (set(by_set) == {SUBLEVEL}, ONE_SET.format(*SETS.values(), STAR)),
        (set(by_set) == {STAR}, ONE_SET.format(*reversed(SETS.values()), SUBLEVEL)),
        (UNCHECKED in checkpoint.integrity, f"checkpoint: {checkpoint.integrity}"),
        (bool(noisy), noisy),
    )
    notes = (made, *(words for holds, words in beside if holds))
    return (case,), AuditReport(_empty(request), (), checkpoint.path.name, request.command, notes, strategy)


def _moments(checkpoint: Checkpoint, landscape: Landscape) -> AdamMoments | None:
    try:
        return adam_moments(checkpoint, landscape.model)
    except DamagedStateError:
        raise
    except UserError:
        return None  # the table says that there is no state of Adam


def _is_bridge(text: str) -> bool:
    """Whether a truth is of a bridge, to be run or read, and not a number."""
    return text in BRIDGES or Path(text).suffix == ".h5"


def _typed_truth(text: str) -> Truth:
    """A number that was typed, and of which set."""
    of, _, number = text.rpartition("=")
    value, _, error = number.partition(":")
    try:
        if of not in ("", *SETS):
            raise ValueError(of)
        return Truth(float(value), float(error) if error else 0.0, "given", of=of or SUBLEVEL)
    except ValueError:
        raise UserError(
            "--truth must be nats and their error, as -1300:5 of the sublevel set or star=-1400:5 of the star domain, "
            f"a bridge file, bridge or bridge-star; got {text!r}"
        ) from None


def _by_set(
    request: AuditRequest,
    typed: list[Truth],
    checkpoint: Checkpoint,
    landscape: Landscape,
    prior: Prior,
    strategy: str,
) -> dict[str, Truth]:
    """Truths by the set that they are of: those typed, those of files, and those of bridges that are run now."""
    files = [text for text in request.truth if _is_bridge(text) and text not in BRIDGES]
    targets = [BRIDGES[text] for text in request.truth if text in BRIDGES]
    truths = typed + [_stored_truth(file, checkpoint, landscape, prior.name, request.cutoff) for file in files]
    sets = [truth.of for truth in truths] + targets
    if (twice := next((of for of in SETS if sets.count(of) > 1), None)) is not None:
        raise UserError(f"--truth is given twice for {SETS[twice]}: give one for each set")
    for target in targets:
        found = bridge_truth(
            landscape,
            prior,
            request.cutoff,
            target=target,
            seed=request.seed,
            strategy=strategy,
            memory=request.machine.memory,
        )
        truths.append(found)
    return {truth.of: truth for truth in truths}


def _stored_truth(file: str, checkpoint: Checkpoint, landscape: Landscape, prior: str, cutoff: float) -> Truth:
    """The truth that a bridge file holds, if it is of this landscape and prior."""
    result, source = read_bridge(file)
    asked = {"checkpoint_sha256": checkpoint.sha256, "prior": prior, "data_sha256": landscape.batches.sha256}
    asked["checkpoint_weights"] = checkpoint.weights
    different = [
        f"{name} is {source[name]} there and {asked[name]} here"
        for name in asked
        if source.get(name) and source[name] != asked[name]
    ]
    if result.size != landscape.size:
        different.append(f"it has {result.size} parameters, the checkpoint {landscape.size}")
    if different:
        raise UserError(f"--truth {file} is of something else: {'; '.join(different)}")
    try:
        return truth_of(result, cutoff)
    except UserError as error:
        raise UserError(f"--truth {file}: {error}") from None


def _empty(request: AuditRequest) -> AuditTable:
    return AuditTable((), request.repeats, request.seed)
