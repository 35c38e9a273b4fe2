"""`heatline bench delivery`."""

from pathlib import Path

import click

from bench.commands.common import bundle_option, claim, deliver, out_option, precision_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, progress_console
from edge.inference import Precision


@click.command(epilog="Example: heatline bench delivery --out delivery.json")
@bundle_option
@precision_option
@click.option("--events", type=FiniteRange(1, 10_000), default=500.0, show_default=True, help="A second, at the least.")
@click.option("--seconds", type=FiniteRange(1, 3600), default=20.0, show_default=True, help="Of each window.")
@click.option(
    "--repetitions", type=click.IntRange(1, 100), default=3, show_default=True, help="With a journal and without."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="To keep journals in meanwhile; default: that of temporary files.",
)
@out_option
@json_option
def delivery(
    bundle_path: Path,
    precision: Precision,
    events: float,
    seconds: float,
    repetitions: int,
    folder: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Send many events through journal, live and a durable consumer, beside inspection at 80 % of its highest rate.

    Shows how late events are, and what the journal adds to that. Wants the machine for itself. Ends with exit code 14
    where the rate is not sustained.
    """
    from bench.delivery.rate import faults, measure_delivery, to_facts

    now, bundle, console = machine(), open_bundle(bundle_path), progress_console()
    claim(out)
    found = measure_delivery(
        bundle,
        precision,
        events_per_s=events,
        seconds=seconds,
        repetitions=repetitions,
        folder=folder,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    deliver("delivery", new_report("delivery", now, found), to_facts(found), out, as_json, faults(found))
