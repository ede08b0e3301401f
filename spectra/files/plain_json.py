"""JSON of somebody else's: one object, no name twice, and nested no deeper than Python can follow."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from spectra.errors import UserError


def parse_object(content: bytes) -> dict[str, Any]:
    """The object that a JSON text holds.

    Args:
        content: the text, in UTF-8.

    Returns:
        The object.

    Raises:
        UserError: if it is no JSON, no object, or an object in it has a name twice.

    >>> parse_object(b'{"a": 1}')
    {'a': 1}
    """
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except UserError:
        raise
    except RecursionError:
        raise UserError("is nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"must hold a JSON object, got {type(found).__name__}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise UserError(f"holds {twice[0][:80]!r} twice, so it cannot be told which one counts")
    return dict(pairs)
