"""The bridge: ground truth of a basin's volume, its result, its cautions and its store."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
