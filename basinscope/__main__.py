"""``python -m basinscope``, and the program ``basinscope``: the command line."""

import sys

from basinscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
