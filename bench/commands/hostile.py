"""`heatline bench hostile`."""

from pathlib import Path

import click

from bench.commands.common import bundle_option, claim, deliver, out_option, precision_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, progress_console
from edge.inference import Precision


@click.command(epilog="Example: heatline bench hostile --out hostile.json")
@bundle_option
@precision_option
@click.option(
    "--rate",
    "rate_fps",
    type=FiniteRange(1, 10_000),
    default=150.0,
    show_default=True,
    help="Frames a second; fewer than it could inspect.",
)
@click.option(
    "--messages", type=FiniteRange(1, 100_000), default=300.0, show_default=True, help="A second, on each socket."
)
@click.option("--seconds", type=FiniteRange(1, 3600), default=10.0, show_default=True, help="Of each window.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=8, show_default=True, help="Of all kinds in turns.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the malformed messages.")
@out_option
@json_option
def hostile(
    bundle_path: Path,
    precision: Precision,
    rate_fps: float,
    messages: float,
    seconds: float,
    rounds: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Send malformed messages to every socket of a line that reads, in turns with valid ones and none.

    Shows what a frame costs the service meanwhile, in CPU time. Wants the machine for itself. Ends with exit code 14
    where malformed messages cost more than 5 % beside as many valid ones.
    """
    from bench.delivery.hostile import faults, measure_hostile, to_facts

    now, bundle, console = machine(), open_bundle(bundle_path), progress_console()
    claim(out)
    found = measure_hostile(
        bundle,
        precision,
        rate_fps=rate_fps,
        messages_per_s=messages,
        seconds=seconds,
        rounds=rounds,
        seed=seed,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    deliver("hostile messages", new_report("hostile", now, found), to_facts(found), out, as_json, faults(found))
