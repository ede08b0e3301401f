from .connecting import connect as connect
from .connecting import show_connection as show_connection
from .slicing import show_slice as show_slice
from .slicing import slice as slice
