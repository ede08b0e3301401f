"""The exponent of the curvature in a preconditioner; a module of its own, so that settings need no torch."""

# One half makes an ellipsoid a ball.
EXPONENT = 0.5
