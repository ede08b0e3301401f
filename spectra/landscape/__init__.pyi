from .derivatives import confirm as confirm
from .landscape import Landscape as Landscape
from .many_costs import ManyCosts as ManyCosts
from .many_gradients import ManyGradients as ManyGradients
from .shares import share_of_rows as share_of_rows
