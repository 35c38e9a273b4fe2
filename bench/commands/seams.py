"""`heatline bench seams`."""

from pathlib import Path

import click

from bench.commands.common import bundle_argument, claim, deliver, out_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.output import json_option, progress_console


@click.command(epilog="Example: heatline bench seams examples/drawn_boards/bundle --count 12 --out seams.json")
@bundle_argument
@click.option("--count", type=click.IntRange(min=1), default=12, show_default=True, help="How many defects to slide.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the boards they lie on.")
@out_option
@json_option
def seams(bundle_path: Path, count: int, seed: int, out: Path | None, as_json: bool) -> None:
    """Slide drawn defects across a seam between tiles, pixel by pixel, at the bundle's overlap and at the defect's
    size.

    Shows how far the heatmap's peak strays from the defect, and how much the highest logit changes.
    """
    from rich.progress import track

    from bench.seams import slide_defects
    from bench.seams_rows import seams_bench, to_facts

    claim(out)
    bundle, now, console = open_bundle(bundle_path), machine(), progress_console()
    slides = track(
        slide_defects(bundle, count, seed), "defects", total=count, console=console, disable=not console.is_terminal
    )
    found = seams_bench(bundle.path.name, seed, list(slides))
    deliver(f"{count} defects, {found.bundle}", new_report("seams", now, found), to_facts(found), out, as_json)
