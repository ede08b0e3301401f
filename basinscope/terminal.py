"""What reaches the terminal: words that it can show, tables that keep their digits, and one JSON object on its own."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import rich.text
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments

# What a table is laid out for where nobody says how wide the page is.
PAGE_WIDTH = 110
# Pages below this are laid out as if they had it.
NARROWEST = 20
# Characters of a long word that a sentence quotes, and from where on a word is long: no file name is longer than that.
QUOTED, LONG = 80, 300
_NEAREST = {
    "±": "+/-",
    "²": "^2",
    "³": "^3",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "•": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∞": "inf",
    "√": "sqrt",
    "σ": "sigma",
    "λ": "lambda",
    "θ": "theta",
    "τ": "tau",
    "ρ": "rho",
    "Δ": "Delta",
    "→": "->",
    "←": "<-",
}
# Marks that reverse or hide what stands beside them, which no name needs.
_HIDING = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_kept: list[TextIO | int] = []


class Text(rich.text.Text):
    """Text as a table shows it: no character of a name reaches the terminal as an order to it."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        super().__init__(visible(text), style, **options)

    def append(self, text: rich.text.Text | str, style: Any = None) -> Text:
        """As rich's."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class _Page(Console):
    """A console on which every plain string is text, never markup, and a pipe that nobody reads ends the run."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        return super().render_str(visible(text), **options)


def visible(text: str) -> str:
    r"""Text with control characters, escape sequences and marks that turn the writing written out; line ends stay.

    >>> print(visible("layer\x1b[31m.weight"))
    layer\x1b[31m.weight
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    hidden = [one != "\n" and (unicodedata.category(one) in _HIDING or _TURNING.match(one)) for one in text]
    return "".join(
        one.encode("unicode_escape").decode() if hide else one for one, hide in zip(text, hidden, strict=True)
    )


def shortened(text: str, arguments: list[str]) -> str:
    """A sentence in which long arguments of the command line and long words are quoted by beginning and end alone.

    >>> len(shortened("there is no " + "x" * 5000, []))
    92
    """
    for word in sorted(arguments, key=len, reverse=True):
        if len(word) > LONG:
            for form in (word, " ".join(word.split()), repr(word)[1:-1]):
                text = text.replace(form, _cut(form))
    return re.sub(rf"\S{{{LONG + 1},}}", lambda found: _cut(found[0]), text)


def _cut(word: str) -> str:
    return f"{word[: QUOTED // 2]}…{word[-(QUOTED // 2 - 1) :]}"


def say(text: str | rich.text.Text, style: str = "red") -> None:
    """Print a sentence on stderr: broken between words on a terminal that cuts none, else unbroken, as logs want it."""
    console, line = _Page(file=sys.stderr, highlight=False), Text(text, style) if isinstance(text, str) else text
    cut = max(map(cell_len, line.plain.split()), default=0) > console.width
    console.print(line, soft_wrap=cut or not console.is_terminal)


def page() -> Console:
    """A console for stdout: as wide as COLUMNS says, else as the terminal, in a pipe as a page."""
    asked = os.environ.get("COLUMNS", "")
    width = max(int(asked), NARROWEST) if asked.isdecimal() and int(asked) else None
    console = _Page(highlight=False, markup=False, emoji=False, width=width)
    if width is None and not console.is_terminal:
        console.width = PAGE_WIDTH
    return console


def written(files: Mapping[str, str]) -> list[Text]:
    """Lines that say which files were written, unbroken, so that a path can be copied."""
    return [Text(f"{kind} written to {path}", "green", no_wrap=True, overflow="ignore") for kind, path in files.items()]


def show(*parts: RenderableType) -> None:
    """Print tables and text on stdout, without spaces at the ends of lines."""
    console = page()
    laid_out: list[Segment] = []
    for line in Segment.split_lines(console.render(Group(*parts))):
        laid_out += [*_stripped(line), Segment.line()]
    console.print(Segments(laid_out), crop=False, end="")


def _stripped(line: list[Segment]) -> list[Segment]:
    left = list(line)
    while left and not left[-1].text.strip():
        left.pop()
    return [*left[:-1], left[-1]._replace(text=left[-1].text.rstrip())] if left else []


def emit(found: dict[str, Any]) -> None:
    """Print one JSON object on stdout: the only thing that is printed there with --json."""
    emit_text(json.dumps(found, allow_nan=False))


def emit_text(text: str) -> None:
    """Print lines on stdout where nothing else is to be printed there, as with --json and --table."""
    lines = text + "\n"
    if not _kept:
        sys.stdout.write(lines)
        return
    stream = _kept[-1]
    if isinstance(stream, int):
        data = lines.encode(sys.__stdout__.encoding if sys.__stdout__ else "utf-8", "basinscope")
        while data:
            data = data[os.write(stream, data) :]
    else:
        stream.write(lines)
        stream.flush()


@contextmanager
def streams(*, alone: bool) -> Iterator[None]:
    """Make the standard streams fit for a run: closed ones are open, and any character can be written.

    Where it is to be ``alone``, stdout is kept for ``emit``.
    """
    codecs.register_error("basinscope", _nearest)
    with ExitStack() as undone:
        _open_closed(undone)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="basinscope")
        undone.enter_context(_backend())
        undone.enter_context(_users_warnings())
        if alone:
            undone.enter_context(_apart())
        yield


@contextmanager
def muted() -> Iterator[None]:
    """Nothing that is printed is seen, as of all ranks but one."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that a stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_plain(one) for one in error.object[error.start : error.end]), error.end


def _plain(character: str) -> str:
    if character in _NEAREST:
        return _NEAREST[character]
    if "\u2500" <= character <= "\u257f":  # the lines of boxes
        return "|" if character in "│┃║╎╏" else "-" if character in "─━═╌╍" else "+"
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base or character.encode("unicode_escape").decode()


def _open_closed(undone: ExitStack) -> None:
    """A stream that was closed is opened on nothing: else the next file opened, a result, would take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nothing = undone.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            setattr(sys, name, nothing)
            undone.callback(setattr, sys, name, None)


@contextmanager
def _apart() -> Iterator[None]:
    """Stdout is kept for ``emit``; prints of Python and of libraries below it go to stderr."""
    own = sys.stdout
    sys.stdout.flush()
    with ExitStack() as undone:
        if own is sys.__stdout__ and own is not None and own.fileno() == 1:
            kept = os.dup(1)
            os.dup2(2, 1)
            undone.callback(os.close, kept)
            undone.callback(os.dup2, kept, 1)
            _kept.append(kept)
        else:
            _kept.append(own)
        undone.callback(_kept.pop)
        undone.enter_context(redirect_stdout(sys.stderr))
        yield


@contextmanager
def _backend() -> Iterator[None]:
    """Figures go to files; the backend of matplotlib that a notebook names for its children need not be installed."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before


@contextmanager
def _users_warnings() -> Iterator[None]:
    """Of warnings only those of the user's own code are shown, each in a line; those of libraries are not theirs."""

    def showed(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        from spectra.errors import is_library

        if not is_library(Path(filename)):
            words = " ".join(str(message).split())
            say(shortened(f"{Path(filename).name}, line {lineno}: {category.__name__}: {words}", []), "dim")

    before = warnings.showwarning
    warnings.showwarning = showed  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before
