"""The command ``basinscope llc`` apart from its options: one run, and its result for reading."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
