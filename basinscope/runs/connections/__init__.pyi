from .connect import ConnectRequest as ConnectRequest
from .connect import run_connect as run_connect
from .plane import SliceRequest as SliceRequest
from .plane import run_slice as run_slice
