"""What stands in a pickle's data where only foreign code could build something."""

from __future__ import annotations

from typing import Any

from spectra.errors import UserError


class PickledCodeError(UserError):
    """A pickle has a function called, which is never done."""


class Opaque(dict[Any, Any]):
    """A name, or an instance of a class, of foreign code; a dictionary of its entries if it is some kind of one.

    Attributes:
        name: name of the class, as ``package.module.Class``.
        words: what it is, for a message.
        tensor: whether it stands for a tensor, of a kind that is not read.
        state: its attributes, or what else its class would be given; None if it has none.
        members: what it holds, if it is some kind of list.
    """

    def __init__(self, name: str, words: str = "", *, tensor: bool = False) -> None:
        """A placeholder without entries."""
        super().__init__()
        self.name, self.words, self.tensor = name, words or f"pickled code ({name})", tensor
        self.state: Any = None
        self.members: list[Any] = []

    def __eq__(self, other: object) -> bool:
        """Whether it is the very same one: what equality means only its class knows."""
        return self is other

    def __hash__(self) -> int:  # type: ignore[override]
        """Of the object itself: members of enumerations are keys of dictionaries."""
        return id(self)

    def __repr__(self) -> str:
        """The name alone."""
        return f"<{self.name}>"

    @property
    def entries(self) -> dict[Any, Any]:
        """Its entries, or where it has none its attributes by name."""
        return dict(self) or (self.state if isinstance(self.state, dict) else {})


def instance(kind: Any, *_: Any) -> Opaque:
    """An instance of a class that a pickle names; what it would be built from is left out."""
    if not isinstance(kind, Opaque):
        raise TypeError(f"an instance of a {type(kind).__name__}")
    return Opaque(kind.name, kind.words)


def refused_call(name: str) -> PickledCodeError:
    """The error for a function that a pickle calls."""
    return PickledCodeError(
        f"contains pickled code ({name}); basinscope never runs it: save a state_dict or plain data instead"
    )
