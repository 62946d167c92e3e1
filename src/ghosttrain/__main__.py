"""`python -m ghosttrain`: the command line."""

import sys

from ghosttrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
