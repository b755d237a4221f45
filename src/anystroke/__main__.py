"""Run the command as ``python -m anystroke``."""

import sys

from anystroke.cli import main

if __name__ == "__main__":
    sys.exit(main())
