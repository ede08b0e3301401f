from .archive import read_archive as read_archive
from .image_set import checked_set as checked_set
from .preparation import PROCESSOR as PROCESSOR
from .preparation import Preparation as Preparation
from .preparation import read_preparation as read_preparation
from .size import resized as resized
from .source import read_images as read_images
