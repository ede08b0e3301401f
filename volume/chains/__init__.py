"""Markov chains along a ladder of rungs: the sampler of a bridge, and ratios of neighbouring rungs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
