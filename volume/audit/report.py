"""An audit with the facts that were checked beside it, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spectra.files import Result, counted
from volume.audit.table import AuditTable


@dataclass(frozen=True)
class Fact:
    """A claim, what was measured of it, and whether it holds.

    Attributes:
        letter: a to g.
        claim: in words.
        measured: in words, with half of its 95 % interval.
        verdict: ``holds``, or what does.
        value: the number measured.
        error: its standard error; nan for a share.
    """

    letter: str
    claim: str
    measured: str
    verdict: str
    value: float
    error: float


@dataclass(frozen=True, eq=False, repr=False)
class AuditReport(Result):
    """What ``basinscope audit`` shows and stores.

    Attributes:
        table: the rows.
        facts: those of the sampler that were checked; empty if none were.
        title: what was audited.
        command: the command line.
        notes: sentences on choices made.
        strategy: how products with a checkpoint's curvature were computed; kept on resuming.
    """

    table: AuditTable
    facts: tuple[Fact, ...] = ()
    title: str = "estimators on known cases"
    command: str = ""
    notes: tuple[str, ...] = ()
    strategy: str = ""
    _drawn_by: ClassVar[str] = "volume.audit.plots:draw_case"
    _written_by: ClassVar[str] = "volume.audit.store:write_report"

    def _title(self) -> str:
        return f"audit of {self.title}, {counted(self.table.repeats, 'repeat')} a row"

    def _facts(self) -> dict[str, str]:
        return self.table._facts()

    def records(self) -> list[dict[str, Any]]:
        """As ``AuditTable.records``."""
        return self.table.records()
