"""`heatline bench`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from bench.machine import machine
from bench.seams import slide_defects, summarise
from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import BenchError


@click.group(epilog="Example: heatline bench micro boards.bundle")
def bench() -> None:
    """Measure what the parts cost on this machine."""


@bench.command(epilog="Example: heatline bench micro boards.bundle --json")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@json_option
def micro(bundle_path: Path, as_json: bool) -> None:
    """Time tiler, engines, stitcher and message encoding by themselves, the engines with BUNDLE."""
    require_extra("bench", "pytest", "pytest_benchmark")
    import pytest

    open_bundle(bundle_path)  # what is wrong with it is said here, in one sentence
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "micro.json"
        arguments = [
            *(str(file) for file in sorted(Path(__file__).parent.glob("bench_*.py"))),
            "--benchmark-only",
            f"--benchmark-json={results}",
            f"--bundle={bundle_path.resolve()}",
            "--override-ini=python_files=bench_*.py",
            "--override-ini=python_functions=bench_*",
            "--import-mode=importlib",
            "-q",
        ]
        standard_output = sys.stdout
        if as_json:
            sys.stdout = sys.stderr  # pytest's own report; ours is the JSON
        try:
            code = pytest.main(arguments)
        finally:
            sys.stdout = standard_output
        if code != pytest.ExitCode.OK:
            raise BenchError(f"the benches ended with pytest's code {int(code)}; see its report above")
        if as_json:
            print_json(json.loads(results.read_text()))


@bench.command(epilog="Example: heatline bench seams examples/drawn_boards/bundle --count 12 --json")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), default=12, show_default=True, help="How many defects to slide.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the boards they lie on.")
@json_option
def seams(bundle_path: Path, count: int, seed: int, as_json: bool) -> None:
    """Slide drawn defects across a seam between tiles, pixel by pixel, at the bundle's overlap and at the defect's
    size.

    Shows how far the heatmap's peak strays from the defect, and how much the highest logit changes.
    """
    from rich.progress import track

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
        print_json({"bundle": bundle_path.name, "seed": seed, "machine": machine(), **summary, "slides": pairs})
        return
    for overlap in ("at_bundle_overlap", "at_defect_overlap"):
        print_facts(overlap.replace("_", " "), {name: f"{value:.2f}" for name, value in summary[overlap].items()})
