"""`heatline bench`."""

import click

from bench.commands.cameras import cameras
from bench.commands.chaos import chaos
from bench.commands.delivery import delivery
from bench.commands.end_to_end import end_to_end
from bench.commands.hostile import hostile
from bench.commands.map_cost import map_cost
from bench.commands.micro import micro
from bench.commands.precisions import precisions
from bench.commands.seams import seams
from bench.commands.soak import soak
from bench.commands.training import training


@click.group(epilog="Example: heatline bench micro boards.bundle")
def bench() -> None:
    """Measure what the parts cost on this machine."""


for _command in (cameras, chaos, delivery, end_to_end, hostile, map_cost, micro, precisions, seams, soak, training):
    bench.add_command(_command)
