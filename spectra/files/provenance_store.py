"""Where a result comes from, as attributes of an HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import h5py

from spectra.files.provenance import Provenance

_VERSION = "version_"
_NAMES = tuple(entry.name for entry in fields(Provenance) if entry.name != "versions")


def write_provenance(file: h5py.File, provenance: Provenance) -> None:
    """Put each entry, and each library's version, into an attribute of the file."""
    for name in _NAMES:
        file.attrs[_attribute(name)] = getattr(provenance, name)
    for name, version in provenance.versions.items():
        file.attrs[_VERSION + name] = version


def read_provenance(attributes: Mapping[str, Any]) -> Provenance:
    """The provenance that :func:`write_provenance` put into a file's attributes.

    Args:
        attributes: of the file.

    Returns:
        The provenance.

    Raises:
        KeyError: if an entry is missing.
    """
    versions = {
        name.removeprefix(_VERSION): str(value) for name, value in attributes.items() if name.startswith(_VERSION)
    }
    # Files from before integrity was recorded say nothing of it.
    found = {"checkpoint_integrity": "", **attributes}
    return Provenance(**{name: str(found[_attribute(name)]) for name in _NAMES}, versions=versions)


def _attribute(name: str) -> str:
    """Name in the file: ``cost`` there is the cost's value, so the function's name needs another."""
    return "cost_function" if name == "cost" else name
