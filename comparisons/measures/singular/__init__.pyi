from .heads import head_positions as head_positions
from .information import fluctuation as fluctuation
from .information import widely_applicable as widely_applicable
from .refined import class_rows as class_rows
from .refined import landscape_of_rows as landscape_of_rows
from .refined import layer_positions as layer_positions
from .refined import refined_coefficient as refined_coefficient
