"""The quadratic model of a basin: determinants, its mass, ranks, and points typical of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
