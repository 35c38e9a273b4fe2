"""`make cameras`: the highest frame rates of cameras, and how soon a line recovers from dead ones (docs/cameras.md)."""

import sys
from argparse import Namespace

from heatline.edge.bundle import Bundle
from tests.system.cameras.measure import Plan, faults, measure_cameras
from tests.system.command import Result, parser, report_line, run


def _measure(_: Namespace, bundle: Bundle) -> Result:
    cameras = measure_cameras(bundle, Plan(), report_line)
    facts = {f"{rate.load}, {rate.way}": rate.fact for rate in cameras.rates}
    facts |= {f"{times.load}, {times.fault}": times.fact for times in cameras.faults}
    facts |= {f"left out: {name}": reason for name, reason in cameras.left_out.items()}
    facts |= {f"failed: {name}": reason for name, reason in cameras.failed.items()}
    return Result(cameras, facts, faults(cameras))


def main() -> None:
    sys.exit(
        run(
            "cameras",
            parser(
                "Measure the highest frame rates of cameras, and how soon a line recovers from dead ones."
            ).parse_args(),
            _measure,
        )
    )


if __name__ == "__main__":
    main()
