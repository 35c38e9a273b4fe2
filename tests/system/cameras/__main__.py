"""`make cameras`: how soon a line notices dead cameras, and inspects again (docs/cameras.md)."""

import sys
from argparse import Namespace

from heatline.edge.bundle import Bundle
from tests.system.cameras.measure import FAULTS, measure_cameras
from tests.system.command import Result, parser, report_line, run


def _measure(_: Namespace, bundle: Bundle) -> Result:
    cameras = measure_cameras(bundle, FAULTS, [0.5, 1.0, 2.0, 3.0, 4.0], report_line)
    facts = {
        f"{one.kind}, {one.fault}": f"noticed after {one.noticed_ms:.0f} ms, recovered after {one.recovered_ms:.0f} ms"
        for one in cameras.faults
    }
    return Result(cameras, facts, [f"{name}: {reason}" for name, reason in cameras.failed.items()])


if __name__ == "__main__":
    arguments = parser("Measure how soon a line notices dead cameras, and inspects again.").parse_args()
    sys.exit(run("cameras", arguments, _measure))
