"""One run of ``basinscope spectrum``: read, check, compute, and keep what is done after each block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from basinscope.choices import one_of
from basinscope.outputs import to_continue
from basinscope.ranks import common, writes_files
from basinscope.runs.announcement import announcement, memory_line, plan_of
from basinscope.runs.placement import guarded
from basinscope.runs.resumption import check_landscape, check_settings, check_source
from basinscope.runs.session import CheckpointRequest, Session, continued, ends_early
from spectra.compute import compute_spectrum
from spectra.costs import BY_NAME
from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import StoredSpectrum, read_spectrum, write_spectrum
from spectra.words import COSTS


@dataclass(frozen=True, kw_only=True)
class Request(CheckpointRequest):
    """What the user asked for; the cost is the task's own by default.

    Attributes:
        settings: settings of the spectrum; its memory is the machine's.
    """

    settings: SpectrumSettings


def run_spectrum(
    request: Request, progress: Callable[[int, int, str], None], announce: Callable[[str], None]
) -> tuple[StoredSpectrum, tuple[str, ...]]:
    """Compute a spectrum, or continue a stored one, keeping each finished block in the output.

    Args:
        request: what was asked for.
        progress: called with work done, all work and what is being done.
        announce: called with the plan, in a line, before anything is computed.

    Returns:
        The spectrum and where it comes from, and the notes on it that the plan has said already.

    Raises:
        UserError: if what was asked for is not possible, in a sentence.
        OSError: if a file cannot be read or written.
        Interrupted: if the user interrupts the computing, saying what is kept and how to go on.
        LostRankError: if another rank of several has died, saying the same.
    """
    settings = replace(request.settings, memory=request.machine.memory)
    request = replace(request, settings=settings)
    stored = _earlier(request)
    session = Session(request.checkpoint, request.task, request.machine)
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
        if stored.spectrum.complete and stored.spectrum.settings.probes == request.settings.probes:
            return stored, ()
    resume = None if stored is None else stored.spectrum
    plan, need = plan_of(landscape, settings, resume)
    announce(announcement(plan, settings, resume))
    if need is not None and (line := memory_line(need)):
        announce(line)
    keeper = _Keeper(request, provenance, resume)
    with ends_early(keeper.state):
        spectrum = compute_spectrum(landscape, settings, resume=resume, on_block=keeper.keep, progress=progress)
    keeper.keep(spectrum)
    return StoredSpectrum(spectrum, provenance), plan.notes


class _Keeper:
    """Writes the store after each block, and knows what is in it."""

    def __init__(self, request: Request, provenance: Provenance, resumed: Spectrum | None) -> None:
        self._request, self._provenance, self._kept = request, provenance, resumed

    def keep(self, spectrum: Spectrum) -> None:
        """Write a spectrum, unless it is what was written last."""
        if self._request.output is not None and spectrum is not self._kept:
            if writes_files():
                write_spectrum(self._request.output, spectrum, self._provenance)
            self._kept = spectrum

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
            return f"interrupted before the first block of probes was done; nothing is saved in {output} yet"
        done = f"{saved.spectrum.density.runs.probes} of {asked} probes are saved in {output}"
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
