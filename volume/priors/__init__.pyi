from .families import GaussianPrior as GaussianPrior
from .families import Lebesgue as Lebesgue
from .families import Prior as Prior
from .families import parse_prior as parse_prior
from .ray_density import RayDensity as RayDensity
from .uniform import UniformPrior as UniformPrior
