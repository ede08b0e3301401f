"""Measures of curvature: sums over the spectra of the Hessian, the Gauss-Newton matrix and their stand-ins."""
