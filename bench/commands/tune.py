"""`heatline bench tune`."""

from pathlib import Path

import click

from heatline.bench.commands.common import FrameSize, bundle_argument, deliver, out_option, report_line
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.cli.options import FiniteRange
from heatline.edge.cli.output import json_option
from heatline.edge.inference import Precision


@click.command(epilog="Example: heatline bench tune boards.bundle /etc/heatline/line1.toml --precision f32")
@bundle_argument
@click.argument("line", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "bf16", "int8"]),
    help="To choose among; may be repeated. Default: all that passed the bundle's gate, unless LINE sets one.",
)
@click.option("--size", "frame_hw", type=FrameSize(), help="Of the frames; default: as in LINE, or of its cameras.")
@click.option("--fps", "rate_fps", type=FiniteRange(0.01, 10_000), help="Of each camera; default: as in LINE.")
@click.option(
    "--seconds",
    type=FiniteRange(0.01, 600),
    default=1.0,
    show_default=True,
    help="Length of a setting's run in the first round.",
)
@click.option("--dry-run", is_flag=True, help="Measure, and write nothing beside LINE.")
@out_option
@json_option
def tune(
    bundle_path: Path,
    line: Path,
    precisions: tuple[Precision, ...],
    frame_hw: tuple[int, int] | None,
    rate_fps: float | None,
    seconds: float,
    dry_run: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Choose engine, device, precision, batch, streams and threads for BUNDLE on this machine, by the latency of LINE's
    frames.

    Writes them to a file beside LINE, which the line reads; keys that LINE sets under [engine] stay. Prints the gain,
    and leaves the present settings where it is no more than chance. Takes some minutes: stop the line, and run nothing
    else on the machine.
    """
    from heatline.bench.tune.tune import measure_tune, to_facts

    now = machine()
    claim(out)
    found = measure_tune(
        bundle_path,
        line,
        precisions=precisions,
        frame_hw=frame_hw,
        rate_fps=rate_fps,
        seconds=seconds,
        dry_run=dry_run,
        report_line=report_line,
    )
    deliver(f"engine of {line.stem}", new_report("tune", now, found), to_facts(found), out, as_json)
