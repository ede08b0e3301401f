"""Which parameters, in what order: between a model's tensors and the flat vector theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate

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

    def only(self, names: Sequence[str]) -> ParameterLayout:
        """The layout of these of its parameters, in the order given."""
        places = [self.names.index(name) for name in names]
        return ParameterLayout(
            tuple(names), tuple(self.shapes[place] for place in places), tuple(self.dtypes[place] for place in places)
        )

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
        # A part at an odd place is copied: it could not be viewed as complex numbers.
        return tuple(
            (part.clone() if odd else part).view(shape).to(dtype)
            for (part, shape, dtype), odd in zip(rows, self.odd, strict=True)
        )

    @property
    def odd(self) -> list[bool]:
        """Whether each parameter begins at an odd place of theta and could be viewed as pairs of numbers."""
        starts = accumulate(self.sizes, initial=0)
        return [start % 2 == 1 and size % 2 == 0 for start, size in zip(starts, self.sizes, strict=False)]

    def concatenated(self, parts: Sequence[Tensor | None], like: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """One tensor a parameter as one vector (n,), into ``out`` if given; for None zeros shaped as in ``like``."""
        rows = []
        for part, one, odd in zip(parts, like, self.odd, strict=True):
            row = torch.zeros_like(one) if part is None else part
            row = (row.to_dense() if row.layout != torch.strided else row).reshape(-1).to(self.dtype)
            # What is differentiated again gets its part of a vector as a copy, not as a view at an odd place.
            rows.append(row * 1.0 if odd and row.requires_grad else row)
        return torch.cat(rows, out=out)

    def in_dtype(self, dtype: torch.dtype) -> ParameterLayout:
        """The same parameters in another dtype."""
        return ParameterLayout(self.names, self.shapes, tuple(dtype for _ in self.dtypes))

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta (n,) as a dictionary from parameter names to tensors."""
        return dict(zip(self.names, self.split(theta), strict=True))

    def leaves(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta (n,) as new leaf tensors that require gradients, by parameter name."""
        return {name: part.detach().requires_grad_() for name, part in self.unflatten(theta).items()}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensors of these parameters as one new vector (n,)."""
        return torch.cat([tensors[name].detach().reshape(-1).to(self.dtype) for name in self.names])

    def positions(self, patterns: Patterns) -> Tensor:
        """Positions in theta (k,) of the parameters that match.

        Args:
            patterns: patterns as ``select_parameters`` takes them.

        Returns:
            The positions, ascending.

        Raises:
            UserError: if none matches.
        """
        places = dict(zip(self.names, torch.split(torch.arange(self.size), self.sizes), strict=True))
        found = [places[name] for name in chosen(self.names, patterns)]
        if not found:
            raise UserError(f"no parameter matches {patterns!r}; there are {', '.join(self.names[:6])}")
        return torch.cat(found)

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
            pattern that starts with ``!`` excludes. A module's name stands for all its parameters. A name is a name,
            also with signs in it that patterns use.

    Returns:
        The layout, in the model's order.

    Raises:
        UserError: if nothing is selected, naming the patterns and some of the names on offer.
        UserTypeError: if a selected parameter is not of floating point.

    >>> select_parameters(nn.Linear(3, 2), "weight").size
    6
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = chosen(list(trainable), patterns)
    if not found:
        offer = ", ".join(list(trainable)[:6]) + (", ..." if len(trainable) > 6 else "")
        raise UserError(f"no trainable parameter matches {patterns!r}; the model has {offer or 'none at all'}")
    for name in found:
        if not trainable[name].dtype.is_floating_point:
            raise UserTypeError(f"parameter {name} must be real floating point, got {trainable[name].dtype}")
    return ParameterLayout(
        tuple(found),
        tuple(trainable[name].shape for name in found),
        tuple(trainable[name].dtype for name in found),
    )


def chosen(names: Sequence[str], patterns: Patterns) -> list[str]:
    """The names that patterns select (see ``select_parameters``).

    What is literally the name of a parameter or of a module is that name, whatever signs are in it.

    Args:
        names: full names of parameters.
        patterns: what to select.

    Returns:
        Those that match a pattern and none that excludes, in the order of the names.

    >>> chosen(["hidden.weight", "hidden.bias"], "hidden"), chosen(["l?.weight", "l1.weight"], "l?")
    (['hidden.weight', 'hidden.bias'], ['l?.weight'])
    >>> chosen(["a.weight", "a.bias"], "*,!*.bias")
    ['a.weight']
    """
    owners = {name[:end] for name in names for end in range(len(name)) if name[end] == "."}
    literal = owners | set(names)
    if isinstance(patterns, str):
        patterns = [patterns] if patterns.removeprefix("!") in literal else patterns.split(",")
    wanted, unwanted = [], []
    for pattern in patterns:
        if pattern in literal or not pattern.strip().startswith("!"):
            wanted.append(pattern if pattern in literal else pattern.strip())
        else:
            word = pattern.strip()[1:]
            unwanted.append(pattern[1:] if pattern[1:] in literal else word)
    wanted = [one for one in wanted if one] or ["*"]

    def match(name: str, pattern: str) -> bool:
        if pattern in literal:
            return name == pattern or name.startswith(f"{pattern}.")
        return fnmatchcase(name, pattern)

    return [n for n in names if any(match(n, one) for one in wanted) and not any(match(n, one) for one in unwanted)]
