from .paths import connection_json as connection_json
from .paths import connection_rows as connection_rows
from .paths import connection_table as connection_table
from .window import slice_json as slice_json
from .window import slice_rows as slice_rows
from .window import slice_table as slice_table
