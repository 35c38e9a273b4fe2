"""`heatline bench precisions`."""

from pathlib import Path

import click

from bench.commands.common import bundle_argument
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.output import json_option, print_facts, print_json
from edge.cli.precision_words import precision_facts


@click.command(epilog="Example: heatline bench precisions boards.bundle --json")
@bundle_argument
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1, 64),
    default=(1, 8),
    show_default=True,
    help="Tiles per request; may be repeated.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of all precisions in turns.")
@click.option("--tiles", type=click.IntRange(min=1), default=96, show_default=True, help="Per precision and round.")
@json_option
def precisions(bundle_path: Path, batches: tuple[int, ...], rounds: int, tiles: int, as_json: bool) -> None:
    """Time BUNDLE's precisions in turns, on all cores, beside what its gate says of their verdicts and maps."""
    from bench.precisions import measure_precisions

    now = machine()
    found = measure_precisions(
        open_bundle(bundle_path),
        batches=batches,
        rounds=rounds,
        tiles_per_round=tiles,
        say=lambda line: click.echo(line, err=True),
    )
    if as_json:
        print_json(new_report("precisions", now, found))
        return
    print_facts(
        f"{found.bundle}: {found.model}, {found.method}",
        {
            "figures": f"median (lowest to highest) of {found.rounds} rounds of about {tiles} tiles",
            **{
                f"{one.precision}, batches of {one.batch}": f"{one.tiles_per_s:.0f} tiles/s, "
                f"{one.to_f32:.2f} of f32; its graph {found.bytes_of_graph[one.precision] / 1e6:.1f} MB"
                for one in found.speeds
            },
            **precision_facts(open_bundle(bundle_path).manifest),
        },
    )
