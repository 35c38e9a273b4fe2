"""`python -m bench`: the same as `heatline bench`."""

import sys

from edge.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
