"""`heatline bench chaos`."""

import secrets
from pathlib import Path

import click

from bench.commands.common import (
    bundle_option,
    claim,
    deliver,
    out_option,
    precision_option,
)
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, progress_console
from edge.inference import Precision


@click.command(epilog="Example: heatline bench chaos --seed 7 --out chaos.json")
@bundle_option
@precision_option
@click.option(
    "--seconds",
    type=FiniteRange(1, 86400),
    default=60.0,
    show_default=True,
    help="For which faults go on, while the line is there.",
)
@click.option(
    "--rate", "rate_fps", type=FiniteRange(1, 10_000), default=200.0, show_default=True, help="Frames a second."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the faults; default: another one each time.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder to copy all that was written to."
)
@out_option
@json_option
def chaos(
    bundle_path: Path,
    precision: Precision,
    seconds: float,
    rate_fps: float,
    seed: int | None,
    keep: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Kill the service and its clients, cut their links and fill its disk, and see whether any event is lost.

    Wants the machine for itself, and root to mount a small disk; without, no disk is filled. Ends with exit code 14
    where a promise is broken.
    """
    from bench.chaos.chaos import faults, measure_chaos, to_facts

    now, bundle, console = machine(), open_bundle(bundle_path), progress_console()
    claim(out)
    found = measure_chaos(
        bundle,
        precision,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        seconds=seconds,
        rate_fps=rate_fps,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        keep=keep,
    )
    deliver("delivery under faults", new_report("chaos", now, found), to_facts(found), out, as_json, faults(found))
