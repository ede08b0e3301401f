"""Result files: which kind a file is, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comparisons.comparison import Comparison
    from spectra.store import StoredSpectrum
    from volume.audit import AuditReport
    from volume.bridge import BridgeResult
    from volume.study import VolumeStudy

    Result = StoredSpectrum | VolumeStudy | BridgeResult | AuditReport | Comparison


def kind_of(path: str | Path) -> str:
    """Which kind of result a file holds, by its own statement.

    Args:
        path: a file that basinscope wrote.

    Returns:
        ``volume``, ``bridge``, ``audit`` or ``comparison``; ``spectrum`` for any other file, which reading it checks.

    Raises:
        UserError: if the file is no regular one, or damaged.
        FileNotFoundError: if there is none.
    """
    from comparisons.store import is_comparison_file
    from volume.audit import is_audit_file
    from volume.bridge import is_bridge_file
    from volume.store import is_volume_file

    kinds = {
        "comparison": is_comparison_file,
        "audit": is_audit_file,
        "volume": is_volume_file,
        "bridge": is_bridge_file,
    }
    return next((kind for kind, holds in kinds.items() if holds(path)), "spectrum")


def load(path: str | Path) -> Result:
    """What a result file holds.

    Args:
        path: a file that a command wrote with ``--output``.

    Returns:
        A StoredSpectrum, VolumeStudy, BridgeResult, AuditReport or Comparison.

    Raises:
        UserError: if the file is foreign, newer, truncated or damaged.
        FileNotFoundError: if there is none.
    """
    from comparisons.store import read_comparison
    from spectra.store import read_spectrum
    from volume.audit import read_report
    from volume.bridge import read_bridge
    from volume.store import read_study

    kind = kind_of(path)
    if kind == "comparison":
        return read_comparison(path)
    if kind == "audit":
        return read_report(path)
    if kind == "volume":
        return read_study(path)
    return read_bridge(path)[0] if kind == "bridge" else read_spectrum(path)
