from .group import ALONE as ALONE
from .group import TIMEOUT as TIMEOUT
from .group import LostRankError as LostRankError
from .group import Ranks as Ranks
from .sharded import whole_model as whole_model
