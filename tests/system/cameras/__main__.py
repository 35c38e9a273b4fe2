"""`make cameras`: the highest frame rates of cameras, and how soon a line recovers from dead ones (docs/cameras.md)."""

import sys
from argparse import Namespace

from edge.bundle import Bundle
from tests.system.cameras.measure import Plan, measure_cameras
from tests.system.command import Result, parser, run, say


def _measure(_: Namespace, bundle: Bundle) -> Result:
    cameras = measure_cameras(bundle, Plan(), say)
    facts = {f"{rate.load}, {rate.way}": rate.fact for rate in cameras.rates}
    facts |= {f"{times.load}, {times.fault}": times.fact for times in cameras.faults}
    return Result(cameras, facts | {f"left out: {name}": reason for name, reason in cameras.left_out.items()}, [])


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
