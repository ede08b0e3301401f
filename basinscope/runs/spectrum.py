"""One run of ``basinscope spectrum``: read, check, compute, and keep what is done after each block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from basinscope.choices import one_of
from basinscope.outputs import to_continue
from basinscope.ranks import common, writes_files
from basinscope.runs.announcement import LOOK_FROM, announcement, memory_line, planned, seconds_a_product
from basinscope.runs.placement import guarded
from basinscope.runs.resumption import check_landscape, check_settings, check_source
from basinscope.runs.session import CheckpointRequest, Session, continued, ends_early
from basinscope.views import first_look
from spectra.compute import compute_spectrum
from spectra.costs import BY_NAME
from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import StoredSpectrum, read_spectrum, write_spectrum
from spectra.words import COSTS

QUICK_LOOK = (
    "quick look: rough, by few probes and steps; more probes of this kind with --quick --probes N --resume, a finer "
    "spectrum without --quick in a file of its own"
)


@dataclass(frozen=True, kw_only=True)
class Request(CheckpointRequest):
    """What the user asked for; the cost is the task's own by default.

    Attributes:
        settings: settings of the spectrum; its memory is the machine's.
        quick: whether a rough answer of about 60 products is wanted.
    """

    settings: SpectrumSettings
    quick: bool = False


def run_spectrum(
    request: Request, progress: Callable[[int, int, str], None], announce: Callable[[str], None] | None = None
) -> tuple[StoredSpectrum, tuple[str, ...]]:
    """Compute a spectrum, or continue a stored one, keeping each finished block in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with the plan, in a line, before anything is computed, and with what the first parts show;
            where nobody listens no step is timed.

    Returns:
        The spectrum and where it comes from, and the notes on it that the plan has said already.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
        LostRankError: if another rank of several has died, saying the same.
    """
    settings = replace(request.settings, memory=request.machine.memory)
    if request.quick:
        settings = settings.quick()
    request = replace(request, settings=settings)
    stored = _earlier(request)
    session = Session(request.checkpoint, request.task, request.machine, request.reading)
    landscape = session.own()
    if request.cost is not None:
        one_of("--cost", request.cost, COSTS)
        with guarded(f"--cost {request.cost}", session.task):
            landscape = landscape.with_cost(BY_NAME[request.cost])
    landscape = session.shared(landscape)
    provenance = common(session.provenance(landscape, request.command), _described(stored))
    if stored is not None and request.output is not None:
        check_source(request.output, stored.provenance, provenance)
        check_landscape(request.output, stored, landscape.batches.sha256, landscape.cost())
        provenance = continued(stored.provenance, request.command)
        same = stored.spectrum.settings.probes == settings.probes and stored.spectrum.has_top(settings)
        if stored.spectrum.complete and same:
            return stored, ()
    resume = None if stored is None else stored.spectrum
    keeper = _Keeper(request, provenance, resume, announce)
    with ends_early(keeper.state):
        known = planned(landscape, settings, resume)
        if announce is not None:
            seconds = seconds_a_product(known)
            keeper.looks = not seconds * known.left(resume) < LOOK_FROM
            quick = [QUICK_LOOK] if request.quick and known.plan.route == "slq" else []
            memory = [memory_line(known.need)] if known.need is not None else []
            for line in filter(None, (announcement(known, resume, seconds), *quick, *memory)):
                announce(line)
        spectrum = compute_spectrum(
            landscape, settings, operator=known.operator, resume=resume, on_block=keeper.keep, progress=progress
        )
    keeper.keep(spectrum)
    return StoredSpectrum(spectrum, provenance), known.plan.notes


class _Keeper:
    """Writes the store after the deflation and after each block, says what these first show, and knows what is kept."""

    def __init__(
        self, request: Request, provenance: Provenance, resumed: Spectrum | None, announce: Callable[[str], None] | None
    ) -> None:
        self._request, self._provenance, self._kept, self._announce = request, provenance, resumed, announce
        self._seen = -1 if resumed is None or resumed.density.unsampled else resumed.density.size
        self.looks, self._said = False, ""

    def keep(self, spectrum: Spectrum) -> None:
        """Write a spectrum, unless it is what was written last."""
        self._look(spectrum)
        if self._request.output is not None and spectrum is not self._kept:
            if writes_files():
                write_spectrum(self._request.output, spectrum, self._provenance)
            self._kept = spectrum

    def _look(self, spectrum: Spectrum) -> None:
        """Say what the deflated part shows as it grows, and once what the first probes do, where more is to come."""
        captured, unsampled = spectrum.density.deflation.captured, spectrum.density.unsampled
        stage = captured if unsampled else spectrum.density.size
        if self._announce is not None and self.looks and stage > self._seen and not spectrum.complete:
            self._seen, line = stage, first_look(StoredSpectrum(spectrum, self._provenance))
            # A larger space often shows the same eigenvalues.
            if line.partition(": ")[2] != self._said:
                self._announce(line)
            self._said = line.partition(": ")[2]

    def state(self) -> str:
        """What an interruption leaves, and how to go on, in a sentence."""
        output, asked = self._request.output, self._request.settings.probes
        if output is None:
            return "interrupted; nothing is saved: with --output a run can be continued"
        # Read from the file itself: the interruption may have come in the middle of writing it.
        try:
            saved = read_spectrum(output)
        except (OSError, UserError):
            saved = None
        # With --overwrite the file of an earlier run stays until the first block is done.
        if saved is None or saved.provenance.created != self._provenance.created:
            return f"interrupted before the first eigenvalues were found; nothing is saved in {output} yet"
        probes = saved.spectrum.density.runs.probes
        done = f"{probes} of {counted(asked, 'probe')} are saved in {output}"
        if not probes:
            done = f"the largest eigenvalues so far, and no probes yet, are saved in {output}"
        return f"interrupted: {done}; go on with the same command and --resume"


def _earlier(request: Request) -> StoredSpectrum | None:
    """The stored spectrum to continue, after all checks that need no computing."""
    output = to_continue(request.output, resume=request.resume)
    if output is None:
        return None
    stored = read_spectrum(output)
    check_settings(output, stored, request.settings)
    return stored


def _described(stored: StoredSpectrum | None) -> str:
    if stored is None:
        return "nothing"
    return f"{counted(stored.spectrum.density.runs.probes, 'probe')} of {stored.provenance.created}"
