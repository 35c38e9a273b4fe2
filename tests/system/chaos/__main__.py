"""`make chaos`: check that no event is lost while processes, links and the disk fail (docs/bench.md)."""

import secrets
import sys
from argparse import Namespace
from pathlib import Path

from heatline.edge.bundle import Bundle
from tests.system.chaos.result import faults, measure_chaos, to_facts
from tests.system.command import Result, parser, positive, report_line, run


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_chaos(
        bundle,
        seed=secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed,
        seconds=arguments.seconds,
        rate_fps=arguments.rate,
        report_line=report_line,
        keep=arguments.keep,
    )
    return Result(found, to_facts(found), faults(found))


def main() -> None:
    options = parser("Kill a line and its clients, cut their links and fill its disk: is any event lost?")
    options.add_argument("--seconds", type=positive(float), default=60.0, help="duration while the line runs")
    options.add_argument("--rate", type=positive(float), default=200.0, help="frames a second")
    options.add_argument("--seed", type=int, help="seed of the faults; random by default")
    options.add_argument("--keep", type=Path, help="folder to which all written files are copied")
    sys.exit(run("chaos", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
