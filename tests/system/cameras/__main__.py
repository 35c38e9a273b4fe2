"""`make cameras`: highest rates of cameras, and the line's recovery from their faults (docs/cameras.md)."""

import sys
from argparse import Namespace

from edge.bundle import Bundle
from tests.system.cameras.measure import Plan, faults, measure_cameras
from tests.system.command import Result, parser, report_line, run


def _measure(_: Namespace, bundle: Bundle) -> Result:
    found = measure_cameras(bundle, Plan(), report_line)
    facts = {f"{rate.load}, {rate.way}": rate.fact for rate in found.rates}
    facts |= {f"{times.load}, {times.fault}": times.fact for times in found.faults}
    facts |= {f"left out: {what}": why for what, why in found.left_out.items()}
    facts |= {f"failed: {what}": why for what, why in found.failed.items()}
    return Result(found, facts, faults(found))


def main() -> None:
    sys.exit(
        run(
            "cameras",
            parser("Measure the highest rates of cameras, and a line's recovery from their faults.").parse_args(),
            _measure,
        )
    )


if __name__ == "__main__":
    main()
