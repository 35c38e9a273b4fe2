"""`heatline bench soak`."""

from pathlib import Path

import click

from bench.commands.common import bundle_option, claim, keep, precision_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import BenchError
from edge.inference import Precision


@click.command(epilog="Example: heatline bench soak --minutes 30 --out soak.json")
@bundle_option
@precision_option
@click.option(
    "--frames", type=click.IntRange(0), default=100_000, show_default=True, help="As fast as it goes; 0: leave it out."
)
@click.option(
    "--minutes",
    type=FiniteRange(0, 10_000),
    default=30.0,
    show_default=True,
    help="At 90 % of the highest rate; 0: leave it out.",
)
@click.option("--quick", is_flag=True, help="Whether all of it runs, however --frames and --minutes are set.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all samples there, as JSON.",
)
@json_option
def soak(
    bundle_path: Path,
    precision: Precision,
    frames: int,
    minutes: float,
    quick: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run the service for long and see whether it holds out: memory, descriptors, threads, latency, ledger, events.

    Wants the machine for itself. Ctrl-C ends it in order, with what was seen until then. Ends with exit code 14 where
    the service does not hold out.
    """
    from bench.soak.soak import (
        faults,
        full_plan,
        measure_soak,
        quick_plan,
        run_in_words,
        to_facts,
    )
    from bench.soak.watch import SoakWatch

    if not (quick or frames or minutes):
        raise click.UsageError("nothing is left to run; give --frames or --minutes")
    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    with SoakWatch(progress_console()) as watch:
        plan = quick_plan() if quick else full_plan(frames, minutes)
        found = measure_soak(bundle, precision, plan, show=watch.show)
    report = new_report("soak", now, found)
    if out is not None:
        keep(out, report)
    if as_json:
        print_json(report)
    else:
        for run in found.runs:
            print_facts(run_in_words(run.rate_fps), to_facts(run))
    if wrong := faults(found):
        raise BenchError("; ".join(wrong))
    if found.cut_short_by is not None:
        raise KeyboardInterrupt
