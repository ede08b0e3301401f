"""The user's model and data: batches, the flat parameter vector, and evaluation that leaves the model as found."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
