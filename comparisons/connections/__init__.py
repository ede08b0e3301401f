"""Connections between checkpoints: costs along paths, barriers, aligned copies, and slices with the quadratic model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
