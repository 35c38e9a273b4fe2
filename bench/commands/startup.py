"""`heatline bench startup`."""

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


@click.command(epilog="Example: heatline bench startup boards.bundle --repetitions 20 --out startup.json")
@optional_bundle_argument
@precision_option
@click.option("--size", "frame_hw", type=FrameSize(), default="2448x2048", show_default=True, help="Of the frames.")
@click.option("--repetitions", type=click.IntRange(1, 1000), default=10, show_default=True, help="Of all conditions.")
@out_option
@json_option
def startup(
    bundle_path: Path,
    precision: Precision,
    frame_hw: tuple[int, int],
    repetitions: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the time from the start of the service with BUNDLE, or the demo's, to READY and to the first verdict.

    Starts it with files on the disk and in memory, each with and without the compiled graph in the model cache, and
    prints the phases. Reading files from the disk takes root. Run nothing else on the machine.
    """
    from heatline.bench.startup import measure_startup, starts_in_all, to_facts

    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    with counting("starts", starts_in_all(repetitions)) as (_, done):
        found = measure_startup(bundle, precision, frame_hw=frame_hw, repetitions=repetitions, done=done)
    facts = to_facts(found, is_virtual=bool(now["is_virtual"]))
    deliver(f"start of {found.model}", new_report("startup", now, found), facts, out, as_json)
