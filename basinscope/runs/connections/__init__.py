"""Runs of the commands that lead from one checkpoint to others: paths between two, and slices through one or three."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
