"""`heatline bench micro`."""

from pathlib import Path

import click

from bench.commands.common import claim, deliver, optional_bundle_argument, out_option
from bench.machine import machine
from bench.result_file import new_report
from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.output import json_option


@click.command(epilog="Example: heatline bench micro boards.bundle --compare")
@optional_bundle_argument
@click.option(
    "--compare",
    "saved",
    metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    is_flag=False,
    flag_value="",
    help="With a run on this machine that --out wrote; default: bench/results/micro.json of a checkout.",
)
@out_option
@json_option
def micro(bundle_path: Path, saved: Path | None, out: Path | None, as_json: bool) -> None:
    """Time every stage of a 5 MP frame's way, the engines and the messages by themselves, with BUNDLE, or the demo's.

    Runs pytest-benchmark. A comparison with a run on another machine is refused.
    """
    require_extra("bench", "pytest", "pytest_benchmark")
    from bench.micro import SAVED, compare, read_saved, run_micro, to_facts

    now = machine()
    open_bundle(bundle_path)  # what is wrong with it is said here, in one sentence
    claim(out)
    path = SAVED if saved == Path() else saved
    before = None if path is None else read_saved(path)
    found = run_micro(bundle_path, quiet=as_json)
    if path is not None and before is not None:
        found = compare(found, before, path)
    title = "median (middle half of the rounds)" + ("" if path is None else f", and over {path}, of the same machine")
    deliver(title, new_report("micro", now, found), to_facts(found), out, as_json)
