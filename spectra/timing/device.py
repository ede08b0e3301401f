"""Waiting for a device before a clock is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def synchronise(device: torch.device) -> None:
    """Wait until all work that was queued on a device is done, so that a clock can be read; nothing on the CPU.

    Args:
        device: the device.
    """
    if device.type != "cpu":
        import torch  # result files are shown without it

        torch.accelerator.synchronize(device)
