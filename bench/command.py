"""`heatline bench`."""

import signal
import sys

import click

from bench.commands.drift import drift
from bench.commands.end_to_end import end_to_end
from bench.commands.flops import flops
from bench.commands.map_cost import map_cost
from bench.commands.peers import peers
from bench.commands.plausibility import plausibility
from bench.commands.recipes import recipes
from bench.commands.report import report
from bench.commands.robustness import robustness
from bench.commands.stages import stages
from bench.commands.startup import startup
from bench.commands.tune import tune
from edge.cli.group import CommandGroup

COMMANDS = (
    drift,
    end_to_end,
    flops,
    map_cost,
    peers,
    plausibility,
    recipes,
    report,
    robustness,
    stages,
    startup,
    tune,
)


@click.group(cls=CommandGroup, epilog="Example: heatline bench end-to-end boards.bundle --find-max --saturate")
def bench() -> None:
    """Measure speed and accuracy on this machine."""
    # A bench that `kill`, `timeout` or a closed terminal ends must leave no process and no folder.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


for each in COMMANDS:
    bench.add_command(each)
