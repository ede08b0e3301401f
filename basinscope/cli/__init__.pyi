from .app import main as main
from .trajectory import TrajectoryPoint as TrajectoryPoint
from .trajectory import trajectory_files as trajectory_files
from .trajectory_plot import trajectory_figure as trajectory_figure
