"""How much of parameter space behaves like a checkpoint: spectra, basin volumes, flatness measures.

The nouns that people need, each imported when it is first asked for; ``load`` reads any result file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
