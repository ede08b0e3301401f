"""Curvature while a model trains: a tracker for any loop, callbacks for Lightning and Transformers, and its file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
