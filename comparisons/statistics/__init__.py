"""Statistics over checkpoints: rank correlations, their intervals and tests, and what hyperparameters explain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
