"""Spectra of models that fit no single rank: theta, gradients and vectors live as pieces, one on each rank."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
