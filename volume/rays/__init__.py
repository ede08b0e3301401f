"""Rays from the anchor: first crossings, radial integrals, and the star domain that they sample."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
