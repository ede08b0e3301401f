"""Where a result comes from: checkpoint, task, command, time and library versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from spectra.files.codec import Attribute, Mapped, Record

PACKAGES = ("basinscope", "torch", "numpy", "scipy", "h5py")


def now() -> str:
    """The time in UTC to the second, ISO 8601.

    Returns:
        A text such as ``2025-01-31T12:00:00+00:00``.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Versions of this package, of the libraries that decide numbers, and of Python.

    Returns:
        Version by name; ``unknown`` for a package that is used without being installed.

    >>> sorted(library_versions())
    ['basinscope', 'h5py', 'numpy', 'python', 'scipy', 'torch']
    """
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


# Keys of weights that need no mention, and what folders of models in Hugging Face's cache begin with.
_USUAL = ("", "all", "model", "state_dict", "model_state_dict", "module")
_CACHED = "models--"


@dataclass(frozen=True)
class Provenance:
    """What a result was made from and with.

    Attributes:
        checkpoint: path of the checkpoint file.
        checkpoint_sha256: SHA-256 of its bytes, in hexadecimal.
        task: name of the task that made the landscape.
        cost: name of the per-sample cost.
        cost_unit: its unit.
        dtype: dtype of the parameters while products were computed, such as ``float32``.
        device: device on which products were computed, such as ``cpu``.
        command: the command line, one line for each run that added to the result.
        created: time of the first run in UTC, ISO 8601.
        versions: version of each library and of Python, by name.
        checkpoint_integrity: how far damage to the checkpoint would have been noticed when it was read, in words.
        checkpoint_weights: which weights of the file were read: the key, ``all`` at the top, and the prefix that was
            taken off; empty where it was not recorded.
    """

    checkpoint: str
    checkpoint_sha256: str
    task: str = ""
    cost: str = ""
    cost_unit: str = "cost"
    dtype: str = ""
    device: str = ""
    command: str = ""
    created: str = field(default_factory=now)
    versions: Mapping[str, str] = field(default_factory=library_versions)
    checkpoint_integrity: str = ""
    checkpoint_weights: str = ""

    @property
    def name(self) -> str:
        """The checkpoint in a few words: its file or folder, and which weights of it where they have no usual key.

        >>> Provenance("runs/model.pt", "ab", checkpoint_weights="ema_state_dict").name
        'model.pt (ema_state_dict)'
        >>> Provenance("hub/models--owner--net/snapshots/0a1b", "ab", checkpoint_weights="all").name
        'owner/net'
        """
        parts = Path(self.checkpoint).parts
        cached = [part.removeprefix(_CACHED).replace("--", "/") for part in parts[-3:-2] if part.startswith(_CACHED)]
        name = cached[0] if cached else Path(self.checkpoint).name
        return f"{name} ({self.chosen_weights})" if self.chosen_weights else name

    @property
    def chosen_weights(self) -> str:
        """Which weights of the file were read, where they do not lie under a usual key."""
        return "" if self.checkpoint_weights in _USUAL else self.checkpoint_weights

    def same_weights(self, sha256: str, weights: str) -> bool:
        """Whether this is of the weights of that name, in the file of that digest.

        >>> Provenance("model.pt", "ab", checkpoint_weights="ema").same_weights("ab", "model")
        False
        """
        return self.checkpoint_sha256 == sha256 and (
            not self.checkpoint_weights or not weights or self.checkpoint_weights == weights
        )


VERSIONS = Mapped("version_", str)
# In a file ``cost`` is the cost's value, so the function's name needs another.
PROVENANCE = Record(
    Provenance,
    {"cost": Attribute(str, name="cost_function"), "versions": VERSIONS},
    later=("checkpoint_integrity", "checkpoint_weights"),
)
