"""Flatness measures of checkpoints, side by side."""
