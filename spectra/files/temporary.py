"""Tensors in a temporary HDF5 file that vanishes with the process, however that ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import h5py
import torch
from torch import Tensor

# Left free on the disk, whatever else is written there.
_ROOM = 2**30


class AnchorFile:
    """A sequence of tensors on disk: appended in order, read by number.

    The file has no name once it is open, so that not even a killed process leaves it behind. It lies in the folder
    that ``TMPDIR`` names.

    >>> file = AnchorFile()
    >>> file.append(torch.tensor([1.0, 2.0]))
    True
    >>> len(file), file[0]
    (1, tensor([1., 2.]))
    """

    def __init__(self) -> None:
        """Opens an empty file.

        Raises:
            OSError: if none can be made there.
        """
        handle, name = tempfile.mkstemp(prefix="basinscope_anchors_", suffix=".h5")
        os.close(handle)
        try:
            self._file = h5py.File(name, "w")
        finally:
            os.unlink(name)
        self._folder = Path(name).parent
        self._count = 0

    def __len__(self) -> int:
        """How many tensors are held."""
        return self._count

    def __getitem__(self, number: int) -> Tensor:
        """The tensor of that number, on the CPU."""
        return torch.from_numpy(self._file[str(number)][()])

    def append(self, tensor: Tensor) -> bool:
        """Writes one more tensor.

        Args:
            tensor: a tensor of float32 or float64.

        Returns:
            Whether there was room for it.
        """
        if shutil.disk_usage(self._folder).free < tensor.numel() * tensor.element_size() + _ROOM:
            return False
        try:
            self._file.create_dataset(str(self._count), data=tensor.detach().cpu().numpy())
            # What does not fit the disk must fail here, not when it is read.
            self._file.flush()
        except OSError:
            return False
        self._count += 1
        return True
