"""Run the command as ``python -m anystroke``."""

import sys

from anystroke.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
