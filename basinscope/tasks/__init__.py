"""Built-in tasks, and tasks by name: a checkpoint to a Landscape."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
