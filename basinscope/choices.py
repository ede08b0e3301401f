"""What was typed, turned into what is meant, or refused in a sentence with the nearest choice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from spectra.errors import UserError

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A question, to end a sentence with, that names the allowed words nearest to a wrong one; empty if none is near.

    >>> nearest("hesian", ["hessian", "fisher"])
    '; did you mean hessian?'
    """
    found = difflib.get_close_matches(word, list(allowed), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def one_of(name: str, word: str, allowed: Iterable[str]) -> str:
    """The word that was typed for an option if it is allowed; else refused, with the nearest that is."""
    allowed = list(allowed)
    if word not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {word!r}{nearest(word, allowed)}")
    return word


def forms(allowed: Mapping[str, str]) -> str:
    """How an option may be written, for its help: each form, with what it means where that is said.

    >>> forms({"gaussian": "root mean square", "gaussian:S": ""})
    'gaussian (root mean square), gaussian:S.'
    """
    return ", ".join(form + (f" ({words})" if words else "") for form, words in allowed.items()) + "."


def read_bytes(name: str, text: str, *, least: int = 1) -> int:
    """A number of bytes of at least ``least``, such as ``4GB`` (decimal), ``512MiB`` (binary) or ``1000000``.

    Raises:
        UserError: if it is no such number, or below ``least``.

    >>> read_bytes("--memory", "4GB"), read_bytes("--memory", "1.5 KiB")
    (4000000000, 1536)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]i?)?b?\s*", text.lower())
    count = float(found[1]) * _UNITS[found[2] or ""] if found else 0.0
    if not 1.0 <= count < float("inf"):
        raise UserError(f"{name} must be a number of bytes such as 4GB or 512MiB; got {text!r}")
    if count < least:
        raise UserError(f"{name} must be at least {least / 1e6:g} MB; got {text!r}")
    return int(count)


def chosen(option: str, asked: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that begin with a word that was asked for, in their own order; all of them where none was.

    Raises:
        UserError: if a word is the beginning of none.

    >>> chosen("--cases", ("ball",), ("ball-2", "ball-3", "wells"))
    ('ball-2', 'ball-3')
    """
    for word in asked:
        if not any(name.startswith(word) for name in names):
            raise UserError(f"{option} must be among {', '.join(names)}; got {word!r}{nearest(word, names)}")
    return tuple(name for name in names if not asked or any(name.startswith(word) for word in asked))
