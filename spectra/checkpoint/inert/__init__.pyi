from .pickles import read_pickle as read_pickle
from .torch_file import UNCHECKED as UNCHECKED
from .torch_file import read_torch as read_torch
