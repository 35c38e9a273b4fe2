"""`heatline bench precisions`."""

from pathlib import Path

import click

from bench.commands.common import bundle_argument, claim, deliver, out_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.output import json_option
from edge.cli.precision_words import precision_facts


@click.command(epilog="Example: heatline bench precisions boards.bundle --out precisions.json")
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
@out_option
@json_option
def precisions(
    bundle_path: Path, batches: tuple[int, ...], rounds: int, tiles: int, out: Path | None, as_json: bool
) -> None:
    """Time BUNDLE's precisions in turns, on all cores, beside what its gate says of their verdicts and maps."""
    from bench.precisions import measure_precisions, to_facts

    claim(out)
    bundle, now = open_bundle(bundle_path), machine()
    found = measure_precisions(
        bundle, batches=batches, rounds=rounds, tiles_per_round=tiles, say=lambda line: click.echo(line, err=True)
    )
    facts = to_facts(found) | precision_facts(bundle.manifest)
    title = f"{found.bundle}: {found.model}, {found.method}"
    deliver(title, new_report("precisions", now, found), facts, out, as_json)
