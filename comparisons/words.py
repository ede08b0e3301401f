"""Words and numbers of options, which the command line reads without importing what computes."""

from __future__ import annotations

# How hidden units of two networks are matched, and what batch norm's running statistics are between them.
MATCHINGS = ("weights", "activations", "none")
STATISTICS = ("recompute", "interpolate")
FAMILIES = ("curvature", "sharpness", "norms", "volumes", "learning-coefficient")
# Of Langevin chains: plain, preconditioned, and with each step accepted or rejected.
SAMPLERS = ("sgld", "rmsprop", "mala")
# A rank correlation of fewer checkpoints says nothing.
FEWEST = 4
# Radii on each ray of the slope of log V, by Gauss and Legendre: 48 give the four decimals of the known cases.
RAY_NODES = 48
