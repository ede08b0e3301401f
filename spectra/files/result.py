"""What every result offers in Python: a short text, a table in notebooks, data frames, named arrays, a figure, a file.

What draws and what writes a result knows its class; so that the class need not know them, it names them as entry
points, ``module:function``, which are loaded when they are asked for.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from spectra.errors import UserError

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.axes import Axes

# Of a result: values, dimensions and attributes by name, as xarray takes them.
Named = dict[str, tuple[tuple[str, ...], Any, dict[str, str]]]


class Result:
    """A result as people meet it: its title, its main numbers and its rows come from the subclass."""

    _drawn_by: ClassVar[str] = ""
    _written_by: ClassVar[str] = ""
    # Makes headings and rows of texts, which notebooks show beneath the main numbers.
    _tabled_by: ClassVar[str] = ""

    def _title(self) -> str:
        """What it is of, in a few words."""
        raise NotImplementedError

    def _facts(self) -> dict[str, str]:
        """The numbers that are read first, with their errors and units, by name."""
        raise NotImplementedError

    def _cautions(self) -> Sequence[str]:
        """Why not to trust it."""
        return ()

    def records(self) -> list[dict[str, Any]]:
        """The rows of ``to_dataframe``, as plain values by column."""
        raise NotImplementedError

    def _arrays(self) -> Named:
        """What ``to_xarray`` gives of a result that no file of its own holds."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """A line on what it is of, and one with its main numbers and how many cautions there are."""
        facts = "; ".join(f"{name} {value}" for name, value in self._facts().items())
        many = len(self._cautions())
        told = f"; {many} caution{'s' * (many != 1)}" if many else ""
        return f"{type(self).__name__}: {self._title()}\n  {facts}{told}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        told = "".join(f"<li>{html.escape(caution)}</li>" for caution in self._cautions())
        title = html.escape(self._title())
        return f"<table><caption>{title}</caption>{rows}</table>{self._rows_html()}{told and f'<ul>{told}</ul>'}"

    def _rows_html(self) -> str:
        if not self._tabled_by:
            return ""
        headings, rows = pkgutil.resolve_name(self._tabled_by)(self)
        head = "".join(f"<th>{html.escape(one)}</th>" for one in headings)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_dataframe(self) -> pandas.DataFrame:
        """The rows as a data frame.

        Returns:
            One row for each of what the class says, columns named as in JSON, numbers in the units that they name.

        Raises:
            UserError: if pandas is not installed.
        """
        frame: pandas.DataFrame = _library("pandas").DataFrame(self.records())
        return frame

    def to_xarray(self) -> xarray.DataTree | xarray.Dataset:
        """The evidence as arrays with named dimensions, long names and units, as the result's file has them.

        Returns:
            A tree with the file's groups; a data set for what has no file of its own.

        Raises:
            UserError: if xarray or h5netcdf is not installed.
        """
        library = _library("xarray")
        if not self._written_by:
            found: xarray.Dataset = library.Dataset(self._arrays())
            return found
        _library("h5netcdf")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.h5"
            self.save(path)
            with library.open_datatree(path, engine="h5netcdf", phony_dims="sort") as opened:
                tree: xarray.DataTree = opened.load()
                return tree

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the result's main panel.

        Args:
            ax: axes to draw on; None for a new figure of pyplot's.
            **options: what the class says that it takes.

        Returns:
            The axes.

        Raises:
            UserError: if there is nothing to draw.
        """
        if not self._drawn_by:
            raise UserError(f"{type(self).__name__} has no figure")
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(layout="constrained")[1]
        pkgutil.resolve_name(self._drawn_by)(ax, self, **options)
        return ax

    def save(self, path: str | Path) -> None:
        """Write the result to an HDF5 file, which ``basinscope.load`` reads; what is there is replaced in one step.

        Args:
            path: the file.

        Raises:
            UserError: if files hold it only as a part of another result.
            OSError: if the file cannot be written; what was there before is intact.
        """
        if not self._written_by:
            raise UserError(f"{type(self).__name__} has no file of its own: save the result that it is a part of")
        pkgutil.resolve_name(self._written_by)(path, *self._stored())

    def _stored(self) -> tuple[Any, ...]:
        """What the writer takes beside the path."""
        return (self,)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "probe"), counted(4810, "parameter")
    ('1 probe', '4,810 parameters')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _library(name: str) -> ModuleType:
    """A library that is not required."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {name}, which is not installed: pip install {name}") from error
