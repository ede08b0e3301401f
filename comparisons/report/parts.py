"""Pieces of a page: a table that sorts, an embedded figure, lists; every text is escaped here and nowhere else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

from spectra.plots import drawn

DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        key: what it sorts by: a number, a text, or None for nothing.
        cautions: sentences shown on hovering.
    """

    text: str
    key: float | str | None = None
    cautions: tuple[str, ...] = ()


def number(value: float, form: str) -> Cell:
    """A cell of a number, a dash where there is none.

    Args:
        value: the number.
        form: of ``format``.

    Returns:
        The cell.

    >>> number(0.5, "+.2f").text
    '+0.50'
    """
    return Cell(format(value, form), value) if math.isfinite(value) else Cell("–")


def table(name: str, head: Sequence[str], body: Sequence[Sequence[Cell]]) -> str:
    """A table that sorts by a click on its head.

    Args:
        name: its id.
        head: titles.
        body: rows, the first cell of each its title.

    Returns:
        HTML.
    """
    words = [any(isinstance(row[place].key, str) for row in body) for place in range(len(head))]
    titles = "".join(map(_title, head, words))
    lines = "\n".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in body)
    inner = f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="sorts" id="{escape(name)}">{inner}</table></div>'


def _title(text: str, words: bool) -> str:
    kind = ' class="text"' if words else ""
    return f'<th scope="col"{kind}><button type="button">{escape(text)}</button></th>'


def _cell(cell: Cell) -> str:
    kinds = [*(["text"] if isinstance(cell.key, str) else []), *(["caution"] if cell.cautions else [])]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    # repr keeps every digit of a number: what is sorted by is what was measured.
    key = "" if cell.key is None else cell.key if isinstance(cell.key, str) else repr(float(cell.key))
    told = f' title="{escape("; ".join(cell.cautions))}"' if cell.cautions else ""
    return f'<td{kind} data-value="{escape(key)}"{told}>{escape(cell.text)}</td>'


def picture(figure: Figure, caption: str) -> str:
    """A figure inside the page.

    Args:
        figure: the figure.
        caption: a sentence beneath, and its text for those who do not see it.

    Returns:
        HTML.
    """
    data = base64.b64encode(drawn(figure, "png", DOTS_PER_INCH)).decode()
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def items(texts: Iterable[str], kind: str = "") -> str:
    """A list of plain texts."""
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{escape(kind)}">{lines}</ul>'


def code(text: str) -> str:
    """A text to be copied."""
    return f"<p><code>{escape(text)}</code></p>"


def folded(title: str, inner: str) -> str:
    """What is opened by a click; ``inner`` is HTML."""
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def section(name: str, title: str, inner: str) -> str:
    """A section under a heading; ``inner`` is HTML."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>\n{inner}\n</section>'
