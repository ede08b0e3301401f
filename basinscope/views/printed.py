"""A result on stdout: laid out for reading, as one JSON object, or as tables of another program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rich.text
from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import emit, emit_text, say, show, visible
from basinscope.views.sheet import Sheet
from comparisons.typeset import comma_separated, latex, markdown
from spectra.timing import TABLE, phase


@phase(TABLE)
def print_result(
    form: str,
    *,
    table: Callable[[], Group],
    rows: Callable[[], list[dict[str, Any]]],
    found: Callable[[], dict[str, Any]],
) -> None:
    """Print a result in the form asked for; whatever is not called for is not computed.

    With a form for other programs, only tables go to stdout: the words around them are for people, and go to stderr.

    Args:
        form: ``json``, one of ``TABLES``, or empty for a terminal.
        table: makes the result laid out for a terminal.
        rows: makes the rows of its main table, numbers at full precision.
        found: makes its plain values.
    """
    if form == "json":
        emit(found())
        return
    laid_out = table()
    if not form:
        show(laid_out)
        return
    parts = list(_leaves(laid_out))
    sheets = [one for one in parts if isinstance(one, Sheet)]
    emit_text(visible(comma_separated(rows()) if form == "csv" else typeset(sheets, form)))
    for part in parts:
        if not isinstance(part, Sheet) and str(part).strip():
            say(part if isinstance(part, rich.text.Text) else str(part), "")


def typeset(sheets: Sequence[Sheet], form: str) -> str:
    """Tables as Markdown or LaTeX; where there are several, each is behind what it is of, and an empty line apart."""
    texts = []
    for sheet in sheets:
        head, width = [column.title for column in sheet.columns], len(sheet.columns)
        body = [[*row.cells, *[""] * (width - len(row.cells))] for row in sheet.rows]
        left = next((n for n, one in enumerate(sheet.columns) if one.justify == "right"), width)
        drawn = markdown(head, body) if form == "md" else latex(head, body, left=left)
        of = " ".join(sheet.title.split())
        title = f"**{of}**\n\n" if form == "md" else f"% {of}\n"
        texts.append(drawn if len(sheets) == 1 else title + drawn)
    return "\n\n".join(texts)


def _leaves(part: RenderableType) -> Iterator[RenderableType]:
    if isinstance(part, Group):
        for one in part.renderables:
            yield from _leaves(one)
    elif isinstance(part, Padding):
        yield from _leaves(part.renderable)
    else:
        yield part
