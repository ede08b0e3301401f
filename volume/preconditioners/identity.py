"""No preconditioning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from volume.preconditioners.preconditioner import PreconditionerRow


@dataclass(frozen=True)
class Identity:
    """No preconditioning."""

    name: str = "identity"

    @property
    def size(self) -> None:
        """None: it fits any number of parameters."""
        return None

    def apply(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


ROWS = (PreconditionerRow("identity", lambda material, exponent: lambda eps: Identity(), tuned=False),)  # noqa: ARG005
