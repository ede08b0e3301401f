"""Functions and classes of the user's by name, with options typed after a question mark: ``net.py:make?width=8``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from basinscope.choices import nearest
from spectra.errors import UserError, foreign

_WORDS = {"true": True, "false": False, "none": None}


def split_query(typed: str) -> tuple[str, dict[str, Any]]:
    """A name, and the options after its question mark: literals of Python, or else texts.

    Args:
        typed: such as ``net.py:make?width=8&sizes=[1,2]&norm=layer``.

    Returns:
        The name, and the options by name; ``true``, ``false`` and ``none`` are understood in small letters too.

    Raises:
        UserError: if an option is not ``key=value``, or given twice.

    >>> split_query("net.py:make?width=8&sizes=[1,2]&norm=layer&bias=false")
    ('net.py:make', {'width': 8, 'sizes': [1, 2], 'norm': 'layer', 'bias': False})
    """
    place, _, query = typed.partition("?")
    found: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, sign, value = part.partition("=")
        if not sign or not key.isidentifier():
            raise UserError(f"options after ? are key=value with & between, got {part!r} in {typed!r}")
        if key in found:
            raise UserError(f"option {key} is given twice in {typed!r}")
        found[key] = _literal(value)
    return place, found


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def called(function: Callable[..., Any], options: Mapping[str, Any], what: str) -> Any:
    """What a function or class of the user's gives for options; ``what`` names it in messages.

    Raises:
        UserError: if it does not take the options, needs others, or fails.

    >>> called(lambda width: 2 * width, {"width": 3}, "--model double")
    6
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some of C's have none; what is wrong they say themselves
        signature = None
    if signature is not None:
        _check_options(signature, options, what)
    with foreign(what):
        return function(**options)


def _check_options(signature: inspect.Signature, options: Mapping[str, Any], what: str) -> None:
    parameters = signature.parameters.values()
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes = f"it takes {', '.join(known)}" if known else "it takes none"
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        for name in options:
            if name not in known:
                raise UserError(f"{what} has no option {name!r}: {takes}{nearest(name, known)}")
    try:
        signature.bind(**options)
    except TypeError as error:
        raise UserError(
            f"{what} cannot be called so ({error}): {takes}, written as ?{(known or ['x'])[0]}=..."
        ) from error


def refuse_unknown(what: str, options: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Refuse options that something does not take, with the nearest that it does."""
    for name in options:
        if name not in known:
            raise UserError(f"{what} has no option {name!r}: it takes {', '.join(known)}{nearest(name, known)}")
