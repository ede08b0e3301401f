from .finite_differences import check_curvature as check_curvature
from .landscape import Landscape as Landscape
from .many_costs import CHUNK_BYTES as CHUNK_BYTES
from .many_costs import ManyCosts as ManyCosts
from .many_gradients import ManyGradients as ManyGradients
from .shares import share_of_rows as share_of_rows
