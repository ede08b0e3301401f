"""Lanczos and what is built on it: probes, Krylov spaces, eigenpairs, quadrature, traces."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
