"""`python -m heatline.bench`: the same as `heatline bench`."""

import sys

from heatline.edge.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
