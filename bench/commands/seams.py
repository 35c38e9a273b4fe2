"""`heatline bench seams`."""

from pathlib import Path
from typing import Any

import click

from bench.commands.common import bundle_argument
from bench.machine import machine
from edge.bundle import open_bundle
from edge.cli.output import json_option, print_facts, print_json, progress_console


@click.command(epilog="Example: heatline bench seams examples/drawn_boards/bundle --count 12 --json")
@bundle_argument
@click.option("--count", type=click.IntRange(min=1), default=12, show_default=True, help="How many defects to slide.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the boards they lie on.")
@json_option
def seams(bundle_path: Path, count: int, seed: int, as_json: bool) -> None:
    """Slide drawn defects across a seam between tiles, pixel by pixel, at the bundle's overlap and at the defect's
    size.

    Shows how far the heatmap's peak strays from the defect, and how much the highest logit changes.
    """
    from rich.progress import track

    from bench.seams import slide_defects, summarise

    now = machine()
    slides = list(
        track(
            slide_defects(open_bundle(bundle_path), count, seed),
            "defects",
            total=count,
            console=progress_console(),
            disable=not progress_console().is_terminal,
        )
    )
    pairs = [{"at_bundle_overlap": narrow, "at_defect_overlap": wide} for narrow, wide in slides]
    summary: dict[str, Any] = {
        "defects": count,
        "at_bundle_overlap": summarise([narrow for narrow, _ in slides]),
        "at_defect_overlap": summarise([wide for _, wide in slides]),
    }
    if as_json:
        print_json(
            {"bench": "seams", "machine": now, "bundle": bundle_path.name, "seed": seed, **summary, "slides": pairs}
        )
        return
    for overlap in ("at_bundle_overlap", "at_defect_overlap"):
        print_facts(overlap.replace("_", " "), {name: f"{value:.2f}" for name, value in summary[overlap].items()})
