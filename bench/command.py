"""`heatline bench`."""

import signal
import sys

import click

from heatline.bench.commands.end_to_end import end_to_end
from heatline.bench.commands.flops import flops
from heatline.bench.commands.map_cost import map_cost
from heatline.bench.commands.peers import peers
from heatline.bench.commands.recipes import recipes
from heatline.bench.commands.report import report
from heatline.bench.commands.stages import stages
from heatline.bench.commands.startup import startup
from heatline.bench.commands.tune import tune
from heatline.edge.cli.group import CommandGroup

COMMANDS = (
    end_to_end,
    flops,
    map_cost,
    peers,
    recipes,
    report,
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
