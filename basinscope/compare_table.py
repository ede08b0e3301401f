"""A comparison for reading: rows of measures, a column a checkpoint, what speaks against it beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text, written
from comparisons.comparison import Comparison
from comparisons.extensive import incomparable
from comparisons.tables import Row, remarks, rows, short_names
from spectra.interval import RULE

# Characters of the columns that every part has, and the least of one checkpoint's.
_FIXED, _LEAST = 48, 19
_KEY = (
    f"{RULE}; ! marks a number with a caution beneath; flat: the direction that counts as flatter; inv.: unchanged "
    "under rescaling of layers (L) or nodes (N) of a ReLU network, permutation of hidden units (P), the parameters' "
    "scale (S); cost: gradients that the measure needs alone (measures share most of them)"
)


def comparison_table(comparison: Comparison, files: Mapping[str, str], width: int) -> Group:
    """A comparison laid out for a terminal.

    Args:
        comparison: at least one checkpoint done.
        files: where results were written, by kind.
        width: of the page, in characters.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = [_heading(comparison)]
    found, (names, _) = rows(comparison), short_names(comparison)
    each = max(1, (width - _FIXED) // _LEAST)
    for start in range(0, len(names), each):
        chosen = range(start, min(start + each, len(names)))
        parts.append(Padding(_part(found, names, chosen), (1, 0, 0, 0)))
    parts.append(Padding(Text(_KEY, style="dim"), (0, 0, 1, 0)))
    parts += spoken(comparison)
    parts += [Text(f"note: {note}", style="dim") for note in _notes(comparison)]
    parts += written(files)
    return Group(*parts)


def spoken(comparison: Comparison, *, marked: bool = True) -> list[Text]:
    """What speaks against the numbers: what does not compare, cautions, checkpoints that failed.

    Args:
        comparison: at least one checkpoint done.
        marked: with the sentences behind each ``!`` and each dash of the table.

    Returns:
        A line each.
    """
    lines = [Text(f"! {caution}", style="yellow") for caution in comparison.cautions]
    if left_out := incomparable(comparison):
        lines.append(Text(f"! not comparable, and not ranked: {', '.join(sorted(left_out))}", style="yellow"))
    if marked:
        told = remarks(comparison).items()
        lines += [Text(f"! {', '.join(places)}: {text}", style="yellow") for text, places in told]
    for one in comparison.checkpoints:
        if one.failure:
            lines.append(Text(f"{Path(one.provenance.checkpoint).name} failed: {one.failure}", style="red"))
    return lines


def _heading(comparison: Comparison) -> RenderableType:
    done, (names, shared) = comparison.done, short_names(comparison)
    many = len(comparison.measures)
    title = f"{many} flatness measure{'s' * (many != 1)} of {len(done)} checkpoint{'s' * (len(done) != 1)}"
    first, settings = done[0], comparison.settings
    lines = [
        f"{first.size:,} parameters, {first.samples:,.0f} samples, {first.provenance.cost} cost, "
        f"{first.provenance.dtype}; {settings.probes} probes of {settings.steps} steps, cutoff {settings.cutoff:g}, "
        f"seed {settings.seed}"
    ]
    if shared:
        lines.append(f"all of {shared}: {', '.join(names)}")
    total = sum(one.work.seconds for one in done)
    spent = sum(one.work.in_gradients for one in done)
    lines.append(f"{spent:,.0f} gradients in all, {total:.1f} s")
    return Group(Text(title, style="bold"), *(Text(line) for line in lines))


def _part(found: Sequence[Row], names: Sequence[str], chosen: range) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title, justify in (("measure", "left"), ("flat", "center"), ("inv.", "left"), ("cost", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for place in chosen:
        words = [word for row in found for word in row.cells[place].split()]
        longest = max(map(len, words), default=1)
        table.add_column(names[place], justify="right", overflow="fold", min_width=longest)
    family = ""
    for row in found:
        if row.measure.family != family:
            family = row.measure.family
            table.add_row(Text(family, style="bold dim"))
        cells = [row.cells[place] for place in chosen]
        table.add_row(row.measure.title, row.flat, row.invariances, row.gradients, *cells)
    return table


def _notes(comparison: Comparison) -> list[str]:
    """Notes with the checkpoints that they are of, where not all have them."""
    told: dict[str, list[str]] = {}
    names, _ = short_names(comparison)
    for name, one in zip(names, comparison.done, strict=True):
        for note in one.notes:
            told.setdefault(note, []).append(name)
    return [text if len(where) == len(names) else f"{', '.join(where)}: {text}" for text, where in told.items()]
