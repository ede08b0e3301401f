"""Calibration of the local learning coefficient: chains over a grid of settings, beside what the spectrum predicts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
