from .curvature import STRATEGIES as STRATEGIES
from .curvature import ShardedCurvature as ShardedCurvature
from .landscape import ShardedLandscape as ShardedLandscape
from .loading import load_sharded as load_sharded
