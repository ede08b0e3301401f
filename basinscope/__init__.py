"""How much of parameter space behaves like a checkpoint: spectra, basin volumes, flatness measures.

A call for each command (``spectrum``, ``volume``, ``bridge``, ``compare``, ``audit``), ``load`` for any result file,
and the nouns that people need, each imported when it is first asked for.
"""

import lazy_loader

from basinscope.packages import claim

claim()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
