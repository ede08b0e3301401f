"""Whether a stored volume study may be continued: everything that decides its numbers must be the same."""

from __future__ import annotations

import math
from pathlib import Path

from basinscope.runs.resumption import SAME_COST, refuse_differences
from spectra.errors import UserError
from spectra.files import counted
from spectra.members import stating
from volume.method_result import METHODS, stating_methods
from volume.study import VolumeSettings, VolumeStudy

DETERMINANTS = tuple(method for method in METHODS if method not in stating_methods("sampled"))


def check_settings(path: Path, stored: VolumeStudy, asked: VolumeSettings) -> None:
    """Refuse to continue a study under other settings; methods may be added, and directions."""
    before, now = stored.settings.as_dict(), asked.as_dict()
    free = {"methods", "directions"}
    if stored.sweep is None or not asked.sweep_cutoff:
        free |= {"sweep_cutoff"}
    if not stating_methods("shifted", {*stored.results, *asked.methods}):
        free |= {"k"}
    if not stating_methods("two_sets", {*stored.results, *asked.methods}):
        free |= {"rank_tolerance"}
    done = _done(stored)
    if not done & set(DETERMINANTS):
        free |= {"negative", "probes", "steps"}
    # By the name that it came to: check_landscape compares that.
    free |= {"operator"}
    if "star-domain" not in stored.results or "star-domain" not in asked.methods:
        free |= {"preconditioner", "eps", "exponent"}
    refuse_differences(path, ((name, before[name], now[name]) for name in now if name not in free))
    for method in asked.methods:
        sampled = stored.results[method].sampled if method in stored.results else None
        count = 0 if sampled is None else len(sampled.log_terms)
        if asked.sweep_cutoff and stored.sweep is not None:
            count = max(count, stored.sweep.directions(method))
        if asked.directions < count:
            raise UserError(
                f"{path} has {counted(count, 'direction')} of {method} already: --resume needs at least "
                f"--directions {count}, got {asked.directions}"
            )


def _done(stored: VolumeStudy) -> set[str]:
    """Methods with a volume, which settings must not change."""
    swept = {} if stored.sweep is None else stored.sweep.results
    return {*(name for name, result in stored.results.items() if not result.failure), *swept}


def check_landscape(path: Path, stored: VolumeStudy, asked: VolumeStudy) -> None:
    """Refuse to continue a study on other data, or where the cost at the anchor has changed."""
    names, done = ["size", "data_sha256"], _done(stored)
    curved = stored.settings.preconditioner in stating("volume.preconditioners", "curved")
    if done & set(DETERMINANTS) or ("star-domain" in done and curved):
        names.append("operator")
    refuse_differences(path, ((name, getattr(stored, name), getattr(asked, name)) for name in names))
    if not math.isclose(stored.cost, asked.cost, rel_tol=SAME_COST, abs_tol=1e-6):
        refuse_differences(path, [("cost at the checkpoint", stored.cost, asked.cost)])
