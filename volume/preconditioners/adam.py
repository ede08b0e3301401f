"""The preconditioners of Adam's moments, which a checkpoint may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.errors import UserError
from spectra.model import ParameterLayout
from volume.preconditioners.diagonal import Diagonal, of_diagonal
from volume.preconditioners.preconditioner import Material, PreconditionerRow


def adam_curvature(moments: AdamMoments, layout: ParameterLayout, which: str = "second") -> Tensor:
    """Adam's moment buffer as a diagonal curvature: v for the second, m^2 for the first.

    Args:
        moments: from the checkpoint.
        layout: order of the parameters in theta.
        which: ``second`` (mean squared gradients, an empirical Fisher) or ``first``.

    Returns:
        (n,) float64.

    Raises:
        UserError: if a parameter has no moment, or ``which`` is neither.
    """
    if which not in ("first", "second"):
        raise UserError(f"which must be first or second, got {which!r}")
    buffers: Mapping[str, Tensor] = moments.second if which == "second" else moments.first
    missing = [name for name in layout.names if name not in buffers]
    if missing:
        raise UserError(f"Adam's state has no {which} moment of parameter {missing[0]}")
    flat = torch.cat([buffers[name].reshape(-1).double() for name in layout.names])
    return flat if which == "second" else flat.square()


def _build(which: str, material: Material, exponent: float) -> Callable[[float], Diagonal]:
    name, landscape = f"adam-{which}", material.landscape
    if material.moments is None or landscape is None:
        raise UserError(f"the preconditioner {name} needs Adam's state, and the checkpoint has none; use diagonal")
    return of_diagonal(adam_curvature(material.moments, landscape.parameters, which), exponent, name)


ROWS = (
    PreconditionerRow("adam-second", partial(_build, "second")),
    PreconditionerRow("adam-first", partial(_build, "first")),
)
