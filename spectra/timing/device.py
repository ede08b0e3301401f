"""Waiting for a device before a clock is read."""

from __future__ import annotations

import torch


def synchronise(device: torch.device) -> None:
    """Wait until all work that was queued on a device is done, so that a clock can be read; nothing on the CPU.

    Args:
        device: the device.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
