"""The landscape: model, data and cost as a function of theta, compared with finite differences before it is trusted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
