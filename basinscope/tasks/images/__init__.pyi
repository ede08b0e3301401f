from .archive import read_archive as read_archive
from .preparation import PROCESSOR as PROCESSOR
from .preparation import read_preparation as read_preparation
