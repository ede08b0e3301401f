"""Products with curvature matrices: Hessian, Gauss-Newton and Fisher, and the ways to compute them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
