"""A table that fits its page: columns that find no room go on beneath, and no header or number is ever cut.

This is the one rule of all views. Where a page is too narrow, headers are broken between words first. Then the columns
are parted, each part beneath the one before and with the names of its rows. Where not even one column fits beside the
names, or where it takes fewer lines on a page under 80 characters, each row is a block of lines ``header: value``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text, visible

Justify = Literal["left", "center", "right"]

# Pages narrower than this may show rows as blocks.
NARROW = 80
# The least width that a column of sentences gets.
_LEAST_WORDS = 16
# Where a header may be broken: behind a space, a hyphen, an underscore or a slash, but not within a unit.
_PIECES = re.compile(r"(?:[^ _/-]|(?<=\d) | (?=/ )|/ )*[ _/-]?")


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Attributes:
        title: its header.
        justify: how its cells stand.
        words: whether cells are sentences, which are broken between words; numbers are not.
    """

    title: str
    justify: Justify = "left"
    words: bool = False


@dataclass(frozen=True)
class _Row:
    """Cells, fewer than there are columns for a heading within the table."""

    cells: tuple[str, ...]
    style: str = ""


@dataclass
class Sheet:
    """A table of texts; its first column names the rows.

    Attributes:
        title: what it is of, which is said where the table stands alone, as in Markdown.
        columns: the columns, in order of importance.
        header: whether headers are shown.
        gap: characters between columns.
        spaced: whether an empty line is behind each row.
    """

    title: str
    columns: list[Column]
    header: bool = True
    gap: int = 2
    spaced: bool = False
    rows: list[_Row] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        """Add a row; one cell alone is a heading within the table."""
        self.rows.append(_Row(tuple(map(visible, cells)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as wide as the page allows."""
        parts = self._parts(options.max_width)
        stacked = options.max_width < NARROW and self.header and len(self.columns) > 1
        if not parts or (stacked and len(parts) > 1 and self._lines() < len(parts) * (len(self.rows) + 2)):
            yield from self._blocks(options.max_width)
            return
        for number, part in enumerate(parts):
            drawn = self._drawn(part, options.max_width)
            yield Padding(drawn, (1, 0, 0, 0)) if number else drawn

    def _lines(self) -> int:
        return sum(1 if len(row.cells) == 1 else len(self.columns) for row in self.rows)

    def _parts(self, width: int) -> list[list[int]]:
        """Columns that stand side by side; none where one does not fit beside the names of the rows."""
        least = [self._narrowest(place) for place in range(len(self.columns))]
        if max(least[0] + self.gap + one if place else one for place, one in enumerate(least)) > width:
            return []
        parts, taken = [[0]], least[0]
        for place, one in enumerate(least[1:], 1):
            if taken + self.gap + one > width:
                parts.append([0])
                taken = least[0]
            parts[-1].append(place)
            taken += self.gap + one
        return parts

    def _cells(self, place: int) -> Iterator[str]:
        return (row.cells[place] for row in self.rows if place < len(row.cells))

    def _narrowest(self, place: int, lines: int = 0) -> int:
        """Characters that a column takes at the least, with its header in so many lines (0: as many as it takes)."""
        column, cells = self.columns[place], [line for cell in self._cells(place) for line in cell.split("\n")]
        title = _title_width(column.title, lines) if self.header else 0
        widest = max(map(cell_len, cells), default=0)
        if column.words:
            widest = max(_longest(word for cell in cells for word in cell.split()), min(widest, _LEAST_WORDS))
        return max(title, widest)

    def _widths(self, places: Sequence[int], width: int) -> list[int]:
        """With headers in as few lines as there is room for; what is left goes to sentences, the longest most."""
        room = width - self.gap * (len(places) - 1)
        for lines in itertools.count(1):
            found = [self._narrowest(place, lines) for place in places]
            if sum(found) <= room or found == [self._narrowest(place) for place in places]:
                break
        wants = {n: self._widest(place) - found[n] for n, place in enumerate(places) if self.columns[place].words}
        left, wanted = room - sum(found), sum(wants.values())
        for n, want in wants.items():
            found[n] += want if wanted <= left else left * want // wanted
        return found

    def _widest(self, place: int) -> int:
        return max((cell_len(line) for cell in self._cells(place) for line in cell.split("\n")), default=0)

    def _drawn(self, places: Sequence[int], width: int) -> Table:
        drawn = Table(
            box=None,
            padding=(0, self.gap, 1 if self.spaced else 0, 0),
            pad_edge=False,
            header_style="bold",
            show_header=self.header,
        )
        for place, room in zip(places, self._widths(places, width), strict=True):
            column = self.columns[place]
            title = Text("\n".join(_lines(visible(column.title), room)))
            drawn.add_column(title, justify=column.justify, width=room, no_wrap=not column.words, vertical="top")
        for row in self.rows:
            texts = [Text(row.cells[place]) if place < len(row.cells) else "" for place in places]
            drawn.add_row(*texts, style=row.style)
        return drawn

    def _blocks(self, width: int) -> Iterator[RenderableType]:
        """Rows one under the other, their values behind the headers, or beneath them where these are long."""
        names = [f"{column.title}: " if self.header and column.title else "" for column in self.columns]
        for row in self.rows:
            if len(row.cells) == 1 < len(self.columns):
                yield Text(row.cells[0], style=row.style)
                continue
            for place, cell in enumerate(row.cells):
                indent = 2 if place else 0
                fits = self.columns[place].words or cell_len(names[place] + cell) <= width - indent
                text = names[place] + cell if fits else f"{names[place].rstrip()}\n  {cell}".lstrip("\n")
                yield Padding(Text(text, style=row.style or ("" if place else "bold")), (0, 0, 0, indent))


def _longest(words: Iterable[str]) -> int:
    return max((cell_len(word.rstrip(" ")) for word in words), default=0)


def _pieces(title: str) -> list[str]:
    """The parts of a header that are never broken."""
    return [piece for piece in _PIECES.findall(visible(title)) if piece]


def _title_width(title: str, lines: int) -> int:
    """The least width at which a header takes no more than so many lines, 0 for any number."""
    least, full = _longest(_pieces(title)), cell_len(visible(title))
    return next((room for room in range(least, full) if not lines or len(_lines(visible(title), room)) <= lines), full)


def _lines(title: str, width: int) -> list[str]:
    """A header in lines of a width that its longest part has.

    >>> _lines("log det(H + cI) (nat)", 12), _lines("clean_seed0_step00640", 12)
    (['log det(H +', 'cI) (nat)'], ['clean_seed0_', 'step00640'])
    """
    lines = [""]
    for piece in _pieces(title):
        if cell_len((lines[-1] + piece).rstrip(" ")) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line.rstrip(" ") for line in lines]
