"""How connections between checkpoints and slices through them are read: tables, rows and JSON objects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
