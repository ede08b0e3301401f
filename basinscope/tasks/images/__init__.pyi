from .archive import read_archive as read_archive
from .preparation import PROCESSOR as PROCESSOR
from .preparation import Preparation as Preparation
from .preparation import read_preparation as read_preparation
from .source import read_images as read_images
