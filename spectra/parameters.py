"""Which parameters, in what order: between a model's tensors and the flat vector theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from spectra.errors import UserError, UserTypeError

Patterns = str | Sequence[str]


@dataclass(frozen=True)
class ParameterLayout:
    """Names, shapes and order of the parameters that make up theta.

    Attributes:
        names: parameter names, in the model's order; tied weights appear once.
        shapes: their shapes.
        dtypes: their dtypes in the model; theta has the widest of them, float32 at least.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """Length n of theta."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of theta: vectors and sums of a model in half precision are kept in float32."""
        return torch.promote_types(self.computed, torch.float32)

    @property
    def computed(self) -> torch.dtype:
        """Dtype that the model computes in, the widest of its parameters'."""
        widest = self.dtypes[0]
        for dtype in self.dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        return widest

    def split(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Theta (n,) as one tensor a parameter, views in the parameters' shapes and dtypes."""
        if theta.shape != (self.size,):
            raise UserError(f"theta must have shape ({self.size},), got {tuple(theta.shape)}")
        parts = torch.split(theta, self.sizes)
        rows = zip(parts, self.shapes, self.dtypes, strict=True)
        return tuple(part.view(shape).to(dtype) for part, shape, dtype in rows)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta (n,) as a dictionary from parameter names to tensors."""
        return dict(zip(self.names, self.split(theta), strict=True))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensors of these parameters as one new vector (n,)."""
        return torch.cat([tensors[name].detach().reshape(-1).to(self.dtype) for name in self.names])

    def positions(self, patterns: Patterns) -> Tensor:
        """Positions in theta (k,) of the parameters that match.

        Args:
            patterns: see ``select_parameters``.

        Returns:
            The positions, ascending.

        Raises:
            UserError: if none matches.
        """
        places = torch.split(torch.arange(self.size), self.sizes)
        chosen = [place for place, name in zip(places, self.names, strict=True) if matches(name, patterns)]
        if not chosen:
            raise UserError(f"no parameter matches {patterns!r}; there are {', '.join(self.names[:6])}")
        return torch.cat(chosen)

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Parameter names grouped by the module that owns them, in order."""
        groups: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            owner = name.rpartition(".")[0] or name
            groups[owner] = (*groups.get(owner, ()), name)
        return groups


def select_parameters(model: nn.Module, patterns: Patterns = "*") -> ParameterLayout:
    """The layout of a model's trainable parameters whose names match.

    Args:
        model: any module; parameters with ``requires_grad=False`` are constants, never selected.
        patterns: one shell-style pattern, several separated by commas, or a sequence of them; a
            pattern that starts with ``!`` excludes. A module's name stands for all its parameters.

    Returns:
        The layout, in the model's order.

    Raises:
        UserError: if nothing is selected, naming the patterns and some of the names on offer.
        UserTypeError: if a selected parameter is not of floating point.

    >>> select_parameters(nn.Linear(3, 2), "weight").size
    6
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen = [name for name in trainable if matches(name, patterns)]
    if not chosen:
        offer = ", ".join(list(trainable)[:6]) + (", ..." if len(trainable) > 6 else "")
        raise UserError(f"no trainable parameter matches {patterns!r}; the model has {offer or 'none at all'}")
    for name in chosen:
        if not trainable[name].dtype.is_floating_point:
            raise UserTypeError(f"parameter {name} must be real floating point, got {trainable[name].dtype}")
    return ParameterLayout(
        tuple(chosen),
        tuple(trainable[name].shape for name in chosen),
        tuple(trainable[name].dtype for name in chosen),
    )


def matches(name: str, patterns: Patterns) -> bool:
    """Whether a parameter name is selected by the patterns (see ``select_parameters``).

    Args:
        name: full name of a parameter.
        patterns: what to select.

    Returns:
        Whether it matches a pattern and none that excludes.

    >>> matches("hidden.weight", "hidden"), matches("hidden.weight", "*,!*.weight")
    (True, False)
    """
    parts = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    parts = [part.strip() for part in parts if part.strip()]
    wanted = [part for part in parts if not part.startswith("!")] or ["*"]
    unwanted = [part[1:] for part in parts if part.startswith("!")]
    return any(_match(name, part) for part in wanted) and not any(_match(name, part) for part in unwanted)


def _match(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(pattern + ".")
