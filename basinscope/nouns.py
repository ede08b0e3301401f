"""The nouns that people need, taken from the rooms that have them."""

from __future__ import annotations

from basinscope.runs import Machine
from comparisons.calibration import Calibration, SweepSettings
from comparisons.comparison import Comparison
from comparisons.connections import Connection, CostSlice
from comparisons.evidence import EvidenceSettings
from comparisons.flatness import Measure
from comparisons.measures import REGISTRY
from spectra.checkpoint import Checkpoint, ReadingOptions, load_into, read_checkpoint
from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.lanczos import top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import Fisher, GaussNewton, Hessian
from spectra.sharded import ShardedLandscape
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import StoredSpectrum
from volume.audit import AuditReport
from volume.bridge import BridgeResult, bridge_volume
from volume.chains import BridgeSettings
from volume.estimator import estimate_volumes
from volume.priors import GaussianPrior, Prior, UniformPrior
from volume.result import VolumeEstimate
from volume.study import VolumeSettings, VolumeStudy

__all__ = [
    "AuditReport",
    "BridgeResult",
    "BridgeSettings",
    "Calibration",
    "Checkpoint",
    "Comparison",
    "Connection",
    "CostSlice",
    "Estimate",
    "EvidenceSettings",
    "Fisher",
    "GaussNewton",
    "GaussianPrior",
    "Hessian",
    "Landscape",
    "Machine",
    "Measure",
    "Prior",
    "REGISTRY",
    "ReadingOptions",
    "ShardedLandscape",
    "SpectralDensity",
    "Spectrum",
    "SpectrumSettings",
    "SweepSettings",
    "StoredSpectrum",
    "UniformPrior",
    "UserError",
    "VolumeEstimate",
    "VolumeSettings",
    "VolumeStudy",
    "bridge_volume",
    "compute_spectrum",
    "cross_entropy",
    "estimate_volumes",
    "kl_from_anchor",
    "load_into",
    "mean_squared_error",
    "read_checkpoint",
    "top_eigenpairs",
]
