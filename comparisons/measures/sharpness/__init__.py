"""Measures of sharpness: how far the cost rises around the checkpoint, and how it bends on the way of an optimizer."""
