from .information import fluctuation as fluctuation
from .information import widely_applicable as widely_applicable
