"""Time: where that of a run goes, and how much of it the writing of a growing result may take."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
