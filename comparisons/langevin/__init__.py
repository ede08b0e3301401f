"""Langevin chains and learning coefficients, with what the spectrum predicts for them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
