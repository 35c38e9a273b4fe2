"""`heatline bench`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

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


@bench.command(epilog="Example: heatline bench training data=hripcb truth=derived_masks split.group=board --json")
@click.argument("overrides", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Timed per repetition, of each."
)
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Real and random in turns."
)
@json_option
def training(overrides: tuple[str, ...], steps: int, repetitions: int, as_json: bool) -> None:
    """Train on real batches and on random tensors that are in memory, in turns: what drawing batches costs.

    KEY=VALUE... are those of `heatline train`. Nothing of the training is kept.
    """
    require_extra("train", "torch", "timm", "lightning", "hydra", "torchmetrics")
    from bench.training import measure_training
    from train.config import compose

    now = machine()
    found = measure_training(
        compose(overrides), steps=steps, repetitions=repetitions, say=lambda line: click.echo(line, err=True)
    )
    if as_json:
        print_json({"machine": now, **msgspec.structs.asdict(found)})
        return
    print_facts(
        f"{found.model} on {found.data}",
        {
            "figures": f"median (lowest to highest) of {repetitions} repetitions of {steps} steps",
            "real batches": f"{found.real_tiles_per_s:.1f} tiles/s",
            "random tensors": f"{found.random_tiles_per_s:.1f} tiles/s",
            "real / random": f"{found.real_to_random:.3f}",
            "drawing a batch": f"{found.drawing_ms_per_batch:.1f} ms for {found.tiles_per_batch:.0f} tiles",
            "of that": ", ".join(f"{name} {share:.0%}" for name, share in found.drawing_shares.items()),
            "on": f"{found.device} in {found.precision}, {found.threads} threads, {found.workers} workers",
        },
    )
