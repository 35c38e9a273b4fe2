"""`heatline bench`."""

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from bench.machine import machine
from bench.seams import slide_defects, summarise
from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.cli.precision_words import precision_facts
from edge.errors import BenchError, ConfigError
from edge.geometry.tiling import TILE_PX
from edge.inference import EngineKind, Precision

SHIPPED_BUNDLE = Path(__file__).parents[1] / "examples" / "drawn_boards" / "bundle"


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


@bench.command(
    "map-cost", epilog="Example: heatline bench map-cost --model vit_tiny_patch16_224 --discard-ratio 0.9 --json"
)
@click.option("--model", "name", required=True, help="As `heatline models` shows them, or any of timm.")
@click.option("--fusion", type=click.Choice(["min", "mean", "max"]), help="Of a ViT's heads; default: the model's.")
@click.option("--discard-ratio", type=FiniteRange(0, 1, max_open=True), help="Of a ViT; default: the model's.")
@click.option("--engine", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True)
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Tiles per request.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of all graphs in turns.")
@click.option("--tiles", type=click.IntRange(min=1), default=48, show_default=True, help="Per graph and round.")
@json_option
def map_cost(
    name: str,
    fusion: str | None,
    discard_ratio: float | None,
    engine: EngineKind,
    precision: Precision,
    batch: int,
    tile_px: int,
    rounds: int,
    tiles: int,
    as_json: bool,
) -> None:
    """Time the graph with classifier and map beside the same classifier alone, on all cores.

    The model has random weights, which cost what trained ones do. Of a ViT, the classifier alone is the faster of two
    exports: attention as one node per layer, or as the products and the softmax that it stands for.
    """
    require_extra("export", "torch", "timm", "onnx", "onnxscript", "nncf")
    from bench.map_cost import measure_map_cost
    from train.config import VitConfig, read_model

    now, config = machine(), read_model(name)
    asked = {"fusion": fusion, "discard_ratio": discard_ratio}
    chosen: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if chosen and not isinstance(config, VitConfig):
        raise ConfigError(
            f"{name} is a {config.family}, and --fusion and --discard-ratio are a ViT's; leave them out, or name a ViT"
        )
    found = measure_map_cost(
        msgspec.structs.replace(config, **chosen),
        engine=engine,
        precision=precision,
        batch=batch,
        tile_px=tile_px,
        threads=len(os.sched_getaffinity(0)),
        rounds=rounds,
        tiles_per_round=tiles,
        say=lambda line: click.echo(line, err=True),
    )
    if as_json:
        print_json({"machine": now, **msgspec.structs.asdict(found)})
        return
    print_facts(
        f"{found.model}, {found.method}, on {found.engine} in {found.precision}, batches of {found.batch}",
        {
            "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.tiles_per_round} tiles",
            "ratio": f"{found.ratio:.3f} of medians; by rounds {found.ratio_spread:.3f}",
            "classifier and map": f"{found.fused_ms_per_tile:.2f} ms per tile",
            "classifier alone": f"{found.bare_ms_per_tile:.2f} ms per tile, with {found.bare}",
            "threads": found.threads,
        },
    )


@bench.command(epilog="Example: heatline bench precisions boards.bundle --json")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
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
        print_json({"machine": now, **msgspec.structs.asdict(found)})
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


@bench.command(epilog="Example: heatline bench cameras boards.bundle --out cameras.json")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
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
    if out is not None:
        _write(out, b"")  # that it cannot be written is said now, and not after minutes
    with console.status("measuring"):
        found = measure_cameras(
            open_bundle(bundle_path),
            precision,
            plan,
            gige_address=gige_address,
            say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    report = {"machine": now, **msgspec.structs.asdict(found)}
    if out is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if as_json:
        print_json(report)
    else:
        click.echo(to_markdown(found))


@bench.command(epilog="Example: heatline bench soak --minutes 30 --out soak.json")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    default=SHIPPED_BUNDLE,
    help="Default: the demo's, of a checkout.",
)
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
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
    help="Write all samples there, as JSON, and a picture of them beside it, as SVG.",
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
    from bench.soak.picture import draw
    from bench.soak.soak import (
        TARGET_BYTES_PER_FRAME,
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
    now, bundle, picture = machine(), open_bundle(bundle_path), None if out is None else out.with_suffix(".svg")
    for path in filter(None, (out, picture)):
        _write(path, b"")  # that it cannot be written is said now, and not after an hour
    with SoakWatch(progress_console()) as watch:
        plan = quick_plan() if quick else full_plan(frames, minutes)
        found = measure_soak(bundle, precision, plan, show=watch.show)
    report = {"machine": now, **msgspec.structs.asdict(found)}
    if out is not None and picture is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        names = [run_in_words(run.rate_fps) for run in found.runs]
        _write(picture, draw(found.runs, names, TARGET_BYTES_PER_FRAME).encode())
    if as_json:
        print_json(report)
    else:
        for run in found.runs:
            print_facts(run_in_words(run.rate_fps), to_facts(run))
    if wrong := faults(found):
        raise BenchError("; ".join(wrong))
    if found.cut_short_by is not None:
        raise KeyboardInterrupt


@bench.command(epilog="Example: heatline bench chaos --seed 7 --out chaos.json")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    default=SHIPPED_BUNDLE,
    help="Default: the demo's, of a checkout.",
)
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what came of it there, as JSON.")
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
    if out is not None:
        _write(out, b"")  # that it cannot be written is said now, and not after minutes
    found = measure_chaos(
        bundle,
        precision,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        seconds=seconds,
        rate_fps=rate_fps,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        keep=keep,
    )
    report = {"machine": now, **msgspec.structs.asdict(found)}
    if out is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if as_json:
        print_json(report)
    else:
        print_facts("delivery under faults", to_facts(found))
    if wrong := faults(found):
        raise BenchError("; ".join(wrong))


@bench.command(epilog="Example: heatline bench delivery --out delivery.json")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    default=SHIPPED_BUNDLE,
    help="Default: the demo's, of a checkout.",
)
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what came of it there, as JSON.")
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
    if out is not None:
        _write(out, b"")  # that it cannot be written is said now, and not after minutes
    found = measure_delivery(
        bundle,
        precision,
        events_per_s=events,
        seconds=seconds,
        repetitions=repetitions,
        folder=folder,
        say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    report = {"machine": now, **msgspec.structs.asdict(found)}
    _report("delivery", report, to_facts(found), faults(found), out, as_json)


@bench.command(epilog="Example: heatline bench hostile --out hostile.json")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    default=SHIPPED_BUNDLE,
    help="Default: the demo's, of a checkout.",
)
@click.option("--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True)
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what came of it there, as JSON.")
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
    if out is not None:
        _write(out, b"")  # that it cannot be written is said now, and not after minutes
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
    _report(
        "hostile messages",
        {"machine": now, **msgspec.structs.asdict(found)},
        to_facts(found),
        faults(found),
        out,
        as_json,
    )


def _report(
    title: str,
    report: Mapping[str, Any],
    facts: Mapping[str, object],
    faults: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """Say what came of a bench, and keep it where that is wanted.

    Raises:
        BenchError: something is not as it must be, or the file cannot be written.
    """
    if out is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if as_json:
        print_json(report)
    else:
        print_facts(title, facts)
    if faults:
        raise BenchError("; ".join(faults))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); name another file with --out") from error
