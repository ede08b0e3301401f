"""Spectral densities: what Lanczos or an exact route found, the sums read from it, and views of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
