"""Whether a stored spectrum may be continued: everything that decides its numbers must be the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.spectrum import SpectrumSettings
from spectra.store import StoredSpectrum

# Relative difference of the cost at the anchor beyond which model, data or cost must have changed: more than
# the order of summation does to a float32 evaluation.
SAME_COST = 1e-4


def check_settings(path: Path, stored: StoredSpectrum, asked: SpectrumSettings) -> None:
    """Refuse to continue a spectrum under other settings; only the probes and the top eigenpairs may grow."""
    before, now = stored.spectrum.settings.as_dict(), asked.as_dict()
    # A strategy that was chosen by timing is kept on resuming; naming the same one is no difference.
    same_strategy = now["strategy"] in ("auto", before["strategy"], stored.spectrum.strategy)
    if stored.spectrum.settings.rough and not asked.rough:
        raise UserError(
            f"{path} holds a quick look of {before['steps']} steps a probe, which cannot be made finer: compute anew "
            "with --overwrite or in another file, or give it more probes with --quick --probes N"
        )
    # Probes a pass change no more than the last digits.
    allowed = {"probes", "block", "top", "keep_vectors", *(["strategy"] if same_strategy else [])}
    refuse_differences(path, ((name, before[name], now[name]) for name in now if name not in allowed))
    done = stored.spectrum.density.runs.probes
    if asked.probes < done:
        raise UserError(
            f"{path} has {counted(done, 'probe')} already: --resume needs at least --probes {done}, got {asked.probes}"
        )


def check_source(path: Path, before: Provenance, now: Provenance) -> None:
    """Refuse to continue the result of another checkpoint, or one under another cost, dtype or device."""
    # Files from before the weights were recorded say nothing of them.
    weights = ("checkpoint_weights",) if before.checkpoint_weights else ()
    names = ("checkpoint_sha256", *weights, "cost", "dtype", "device")
    refuse_differences(path, ((name, getattr(before, name), getattr(now, name)) for name in names))


def check_landscape(path: Path, stored: StoredSpectrum, data_sha256: str, cost: float) -> None:
    """Refuse to continue a spectrum on other data, or where the cost at the anchor has changed."""
    before = stored.spectrum
    refuse_differences(path, [("data_sha256", before.data_sha256, data_sha256)])
    if not math.isclose(before.cost, cost, rel_tol=SAME_COST, abs_tol=1e-12):
        refuse_differences(path, [("cost at the checkpoint", before.cost, cost)])


def refuse_differences(path: Path, entries: Iterable[tuple[str, object, object]]) -> None:
    """Refuse to continue a file where an entry (its name, as it is in the file, as it is now) has changed."""
    different = [f"{name} is {before} there and {now} now" for name, before, now in entries if before != now]
    if different:
        raise UserError(f"{path} cannot be resumed: {'; '.join(different)} (write to another file, or use --overwrite)")
