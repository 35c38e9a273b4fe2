"""Draws circuit boards with and without defects, as pictures, masks and labels to train on.

python examples/drawn_boards/draw.py boards --count 60 --seed 1
"""

import argparse
import os
import sys
from pathlib import Path

from boards import write_boards

from heatline.edge.errors import HeatlineError
from heatline.edge.util.text import format_count


def main() -> None:
    """Draw a folder of boards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for the boards")
    parser.add_argument("--count", type=int, required=True, help="number of boards; every third board is flawless")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the boards: the same seed draws the same boards; default: 0"
    )
    parser.add_argument(
        "--defects",
        type=int,
        help="defects per defective board, fewer if there is no room; 0: all boards are flawless; default: 1 to 5",
    )
    arguments = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    try:
        write_boards(arguments.folder, arguments.count, arguments.seed, defects=arguments.defects, workers=workers)
    except ValueError as error:
        parser.error(str(error))
    except HeatlineError as error:
        print(f"draw: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"{arguments.folder} holds {format_count(arguments.count, 'board')} of seed {arguments.seed}")


if __name__ == "__main__":
    main()
