"""Checkpoints: weights, optimizer state and metadata, read without running any code of the file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
