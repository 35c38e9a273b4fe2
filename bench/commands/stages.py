"""`heatline bench stages`."""

from pathlib import Path

import click

from heatline.bench.commands.common import (
    FrameSize,
    counting,
    deliver,
    optional_bundle_argument,
    out_option,
    precision_option,
)
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.bundle import open_bundle
from heatline.edge.cli.output import json_option
from heatline.edge.inference import Precision

SIZES = ("640x480", "1920x1080", "2448x2048")
TILE_COUNTS = (9, 30, 60, 120, 240, 480)


@click.command(epilog="Example: heatline bench stages boards.bundle --size 2448x2048 --out stages.json")
@optional_bundle_argument
@precision_option
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=FrameSize(),
    default=SIZES,
    show_default=True,
    help="Of frames; repeatable.",
)
@click.option(
    "--tiles",
    "tile_counts",
    multiple=True,
    type=click.IntRange(0, 2000),
    default=TILE_COUNTS,
    show_default=True,
    help="Per frame, for the cost of a tile; may be repeated. 0: leave that out.",
)
@out_option
@json_option
def stages(
    bundle_path: Path,
    precision: Precision,
    sizes: tuple[tuple[int, int], ...],
    tile_counts: tuple[int, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Time each stage of a frame, from the camera to a subscriber, with BUNDLE, or the demo's.

    Prints the time of each stage, of the whole inspection beyond its stages, and of a tile in frames of few and of many
    tiles. Takes minutes; run nothing else on the machine.
    """
    from heatline.bench.stages.stages import measure_stages, steps, to_facts

    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    counts = tuple(filter(None, tile_counts))
    with counting("rounds", steps(sizes, counts)) as (report_line, done):
        found = measure_stages(bundle, precision, sizes=sizes, tile_counts=counts, report_line=report_line, done=done)
    deliver("stages", new_report("stages", now, found), to_facts(found), out, as_json)
