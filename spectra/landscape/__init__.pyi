from .derivatives import confirm as confirm
from .kept_products import kept_or_rebuilt as kept_or_rebuilt
from .landscape import Landscape as Landscape
from .many_costs import ManyCosts as ManyCosts
from .many_gradients import ManyGradients as ManyGradients
from .shared_out import SpreadLandscape as SpreadLandscape
from .shared_out import share_of_rows as share_of_rows
from .shared_out import spread as spread
