"""`heatline bench end-to-end`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from heatline.bench.commands.common import (
    FrameSize,
    bundle_argument,
    deliver,
    out_option,
    precision_option,
    report_line,
)
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, keep, new_report
from heatline.edge.bundle import open_bundle
from heatline.edge.cli.options import FiniteRange
from heatline.edge.cli.output import json_option
from heatline.edge.errors import BenchError
from heatline.edge.inference import Precision
from heatline.edge.util.extras import require_extra

if TYPE_CHECKING:
    from heatline.bench.end_to_end.end_to_end import EndToEnd


@click.command("end-to-end", epilog="Example: heatline bench end-to-end boards.bundle --find-max --saturate")
@bundle_argument
@precision_option
@click.option(
    "--fps",
    "rate_fps",
    type=FiniteRange(0.01, 10_000),
    help="Of each camera; default: 80 % of the highest rate, with --find-max.",
)
@click.option(
    "--size",
    "frame_hw",
    type=FrameSize(),
    default="2448x2048",
    show_default=True,
    help="Of frames that are made.",
)
@click.option("--pictures", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Show these instead.")
@click.option("--cameras", type=click.IntRange(1, 16), default=1, show_default=True, help="All alike.")
@click.option("--seconds", type=FiniteRange(1, 86_400), default=60.0, show_default=True, help="At that rate.")
@click.option("--find-max", is_flag=True, help="Find the highest rate without drops.")
@click.option(
    "--saturate",
    "saturated",
    is_flag=True,
    help="Compare the always busy service with the bare engine.",
)
@click.option("--idle", is_flag=True, help="Compare one frame at a time with the bare engine's time for its tiles.")
@click.option("--beside", is_flag=True, help="Measure what stored pictures and two viewers of the page cost.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Of --saturate, --idle, --beside."
)
@click.option("--batch", type=click.IntRange(1, 64), help="Tiles a request, as in the line's file.")
@out_option
@json_option
def end_to_end(
    bundle_path: Path,
    precision: Precision,
    rate_fps: float | None,
    frame_hw: tuple[int, int],
    pictures: Path | None,
    cameras: int,
    seconds: float,
    find_max: bool,
    saturated: bool,
    idle: bool,
    beside: bool,
    rounds: int,
    batch: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show pictures to the real service at a rate, and follow every frame to a subscriber in another process.

    Every event is compared with what the same bundle finds in its picture without a line, so a service that skips work
    fails. Prints the time from when a frame was due to the receipt of its event, the outcome of every frame, processor
    time and memory. Run nothing else on the machine.
    """
    from heatline.bench.end_to_end.end_to_end import Plan, measure_end_to_end, to_facts

    if rate_fps is None and not (find_max or saturated or idle or beside):
        raise click.UsageError("nothing is to be measured; give --fps, --find-max, --saturate, --idle or --beside")

    def is_given(option: str) -> bool:
        return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT

    if is_given("rounds") and not (saturated or idle or beside):
        raise click.UsageError("--rounds counts for --saturate, --idle and --beside; give one of them, or leave it out")
    if is_given("seconds") and rate_fps is None and not find_max:
        raise click.UsageError("--seconds counts for --fps and --find-max; give one of them, or leave it out")
    if pictures is not None and is_given("frame_hw"):
        raise click.UsageError("--size is for frames that are made; leave it out where --pictures are shown")
    if beside:
        require_extra("view")
    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    plan = Plan(
        rate_fps=rate_fps,
        seconds=seconds,
        find_max=find_max,
        saturate=saturated,
        idle=idle,
        beside=beside,
        rounds=rounds,
    )
    parts: list[EndToEnd] = []

    def keep_part(part: "EndToEnd") -> None:
        parts.append(part)
        if out is not None:
            with contextlib.suppress(BenchError):  # raised at the end, should there still be no room
                keep(out, new_report("end-to-end", now, part))

    try:
        found = measure_end_to_end(
            bundle,
            precision,
            plan,
            pictures=pictures,
            frame_hw=frame_hw,
            cameras=cameras,
            engine={} if batch is None else {"batch": batch},
            report_line=report_line,
            keep=keep_part,
        )
    except Exception as error:
        if parts:  # the file must not pass for a result
            keep_part(msgspec.structs.replace(parts[-1], ended=str(error) or type(error).__name__))
        raise
    title = f"{found.bundle} ({found.model}) in {found.precision}"
    deliver(title, new_report("end-to-end", now, found), to_facts(found), out, as_json)
