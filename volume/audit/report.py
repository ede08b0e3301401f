"""An audit with the facts that were checked beside it, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass

from volume.audit.facts import Fact
from volume.audit.table import AuditTable


@dataclass(frozen=True, eq=False)
class AuditReport:
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
