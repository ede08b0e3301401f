"""Result files: which kind a file is, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from basinscope.training import TrainingCurves
    from comparisons.calibration import Calibration
    from comparisons.comparison import Comparison
    from comparisons.connections import Connection, CostSlice
    from spectra.store import StoredSpectrum
    from volume.audit import AuditReport
    from volume.bridge import BridgeResult, SandwichResult
    from volume.study import VolumeStudy

    Result = (
        StoredSpectrum
        | VolumeStudy
        | BridgeResult
        | SandwichResult
        | AuditReport
        | Comparison
        | Connection
        | CostSlice
        | TrainingCurves
        | Calibration
    )

KINDS = ("comparison", "audit", "volume", "bridge", "sandwich", "training", "connection", "slice", "calibration")


def kind_of(path: str | Path) -> str:
    """Which kind of result a file holds, by its own statement.

    Args:
        path: a file that basinscope wrote.

    Returns:
        One of ``KINDS``; ``spectrum`` for any other file, which reading it checks.

    Raises:
        UserError: if the file is no regular one, or damaged.
        FileNotFoundError: if there is none.
    """
    from spectra.files import format_of

    kind = format_of(path).removeprefix("basinscope ")
    return kind if kind in KINDS else "spectrum"


def load(path: str | Path) -> Result:
    """What a result file holds.

    Args:
        path: a file that a command wrote with ``--output``, or a tracker of a training run.

    Returns:
        A StoredSpectrum, VolumeStudy, BridgeResult, SandwichResult, AuditReport, Comparison, Connection, CostSlice,
        Calibration or TrainingCurves.

    Raises:
        UserError: if the file is foreign, newer, truncated or damaged.
        FileNotFoundError: if there is none.
    """
    kind = kind_of(path)
    if kind == "comparison":
        from comparisons.store import read_comparison

        return read_comparison(path)
    if kind == "connection":
        from comparisons.connections import read_connection

        return read_connection(path)
    if kind == "slice":
        from comparisons.connections import read_slice

        return read_slice(path)
    if kind == "calibration":
        from comparisons.calibration import read_calibration

        return read_calibration(path)
    if kind == "training":
        from basinscope.training import read_curves

        return read_curves(path)
    if kind == "audit":
        from volume.audit import read_report

        return read_report(path)
    if kind == "volume":
        from volume.store import read_study

        return read_study(path)
    if kind == "bridge":
        from volume.bridge import read_bridge

        return read_bridge(path)[0]
    if kind == "sandwich":
        from volume.bridge import read_sandwich

        return read_sandwich(path)
    from spectra.store import read_spectrum

    return read_spectrum(path)
