"""`heatline bench cameras`."""

from pathlib import Path

import click

from bench.commands.common import bundle_argument, claim, keep, precision_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_json, progress_console
from edge.inference import Precision


@click.command(epilog="Example: heatline bench cameras boards.bundle --out cameras.json")
@bundle_argument
@precision_option
@click.option(
    "--seconds", type=FiniteRange(0.1, 600), default=4.0, show_default=True, help="For which a rate must be held."
)
@click.option("--repeats", type=click.IntRange(1, 100), default=5, show_default=True, help="Of every fault.")
@click.option(
    "--quick", is_flag=True, help="Small frames, one short try each: whether all of it runs, however --seconds is set."
)
@click.option(
    "--gige-address",
    default="127.0.0.1",
    show_default=True,
    help="Address of this machine at which GigE Vision devices are made.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write all samples there, as JSON.")
@json_option
def cameras(
    bundle_path: Path,
    precision: Precision,
    seconds: float,
    repeats: int,
    quick: bool,
    gige_address: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast cameras may be for `heatline run` with BUNDLE, and how soon it gets over their deaths.

    Prints Markdown tables. Wants the machine for itself for minutes. Without the system's Aravis library, what needs
    GigE Vision is left out.
    """
    from bench.cameras import full_plan, measure_cameras, quick_plan, to_markdown

    now, console = machine(), progress_console()
    plan = quick_plan() if quick else full_plan(seconds, repeats)
    claim(out)
    with console.status("measuring"):
        found = measure_cameras(
            open_bundle(bundle_path),
            precision,
            plan,
            gige_address=gige_address,
            say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    report = new_report("cameras", now, found)
    if out is not None:
        keep(out, report)
    if as_json:
        print_json(report)
    else:
        click.echo(to_markdown(found))
