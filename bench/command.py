"""`heatline bench`: a command for each measurement, which imports what it needs when it runs."""

import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from heatline.bench.machine import machine
from heatline.bench.result_file import claim, deliver, new_report
from heatline.bench.tables import print_tables
from heatline.edge.bundle import open_bundle
from heatline.edge.cli.output import CommandGroup, FiniteRange, json_option, print_json, visible
from heatline.edge.errors import BenchError, ConfigError
from heatline.edge.geometry.tiling import OVERLAP_PX, TILE_PX
from heatline.edge.inference import Precision
from heatline.edge.util.extras import require_extra

CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED_BUNDLE = CHECKOUT / "examples" / "drawn_boards" / "bundle"
RESULTS = CHECKOUT / "bench" / "results"
PEERS_PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"
SIZES = ("640x480", "1920x1080", "2448x2048")
PEERS = ("anomalib", "grad-cam")
PRECISIONS = click.Choice(["f32", "bf16", "int8"])
MOST_PX = 8192


class FrameSize(click.ParamType[tuple[int, int]]):
    """A size in px as `2448x2048`, width by height; converted to (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        width, height = map(int, sides.groups()) if sides else (0, 0)
        if not (0 < width <= MOST_PX and 0 < height <= MOST_PX):
            self.fail(f"{value} is not a size; expected width and height in px, each up to {MOST_PX}, as 2448x2048")
        return height, width


@click.group(cls=CommandGroup, epilog="Example: heatline bench end-to-end boards.bundle --find-max --saturate")
def bench() -> None:
    """Measure speed and accuracy on this machine."""
    # A bench that `kill`, `timeout` or a closed terminal ends must leave no process and no folder.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def report_line(line: str) -> None:
    """Print a line of progress on standard error."""
    click.echo(line, err=True)


bundle_argument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
optional_bundle_argument = click.argument(
    "bundle_path", metavar="[BUNDLE]", type=click.Path(path_type=Path), default=SHIPPED_BUNDLE
)
"""The demo's bundle if none is named."""
precision_option = click.option(
    "--precision", type=PRECISIONS, default="f32", show_default=True, help="Precision to compute in."
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result there, as JSON."
)
size_option = click.option(
    "--size", "frame_hw", type=FrameSize(), default="2448x2048", show_default=True, help="Of the frames."
)
models_option = click.option(
    "--model",
    "names",
    multiple=True,
    help="As `heatline models` shows them, or any of timm; may be repeated. Default: all with a name here.",
)
peers_python_option = click.option(
    "--peers-python",
    type=click.Path(path_type=Path),
    default=PEERS_PYTHON,
    help="Python of the peers' environment. Default: that of `make peers-env`.",
)


def several(name: str, variable: str, kind: Any, default: Sequence[Any] = (), help_: str = "") -> Callable[..., Any]:
    """Return an option that may be repeated."""
    return click.option(
        name,
        variable,
        type=kind,
        multiple=True,
        default=default,
        show_default=bool(default),
        help=f"{help_} May be repeated.".lstrip(),
    )


@bench.command("end-to-end", epilog="Example: heatline bench end-to-end boards.bundle --find-max --saturate")
@bundle_argument
@precision_option
@click.option(
    "--fps",
    "rate_fps",
    type=FiniteRange(0.01, 10_000),
    help="Of each camera; default: 80 % of the highest rate, with --find-max.",
)
@size_option
@click.option("--pictures", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Show these instead.")
@click.option("--cameras", type=click.IntRange(1, 16), default=1, show_default=True, help="All alike.")
@click.option("--seconds", type=FiniteRange(1, 86_400), default=60.0, show_default=True, help="At that rate.")
@click.option("--find-max", is_flag=True, help="Find the highest rate without drops.")
@click.option("--saturate", is_flag=True, help="Compare the always busy service with the bare engine.")
@click.option("--idle", is_flag=True, help="Compare one frame at a time with the bare engine's time for its tiles.")
@click.option("--beside", is_flag=True, help="Measure what stored pictures and two viewers of the page cost.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Of --saturate, --idle, --beside."
)
@click.option("--batch", type=click.IntRange(1, 64), help="Tiles a request, as in the line's file.")
@out_option
@json_option
def end_to_end(
    bundle_path: Path, precision: Precision, batch: int | None, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Show pictures to the real service at a rate, and follow every frame to a subscriber in another process.

    Every event is compared with what the same bundle finds in its picture without a line, so a service that skips work
    fails. Prints the time from when a frame was due to the receipt of its event, the outcome of every frame, processor
    time and memory. Run nothing else on the machine.
    """
    from heatline.bench.end_to_end.end_to_end import Plan, measure_end_to_end

    plan = Plan(**{name: options.pop(name) for name in Plan.__struct_fields__})
    if plan.rate_fps is None and not (plan.find_max or plan.saturate or plan.idle or plan.beside):
        raise click.UsageError("nothing is to be measured; give --fps, --find-max, --saturate, --idle or --beside")
    if plan.beside:
        require_extra("view")
    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    engine = {} if batch is None else {"batch": batch}
    found = measure_end_to_end(bundle, precision, plan, engine=engine, report_line=report_line, **options)
    deliver(new_report("end-to-end", now, found), out, as_json)


@bench.command(epilog="Example: heatline bench flops --model efficientnetv2_s --tile-px 384 --layers")
@models_option
@click.option("--layers", is_flag=True, help="Print the FLOPs of every module of the classifier too.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@out_option
@json_option
def flops(names: Sequence[str], layers: bool, tile_px: int, out: Path | None, as_json: bool) -> None:
    """Count parameters, multiply-adds (MACs) and FLOPs = 2 x MACs of each model, alone and with its map.

    Nothing is computed, and no weights are needed. The last column is the study's Table 1.1.
    """
    require_extra("train")
    from heatline.bench.flops import FlopsBench, count, layer_table
    from heatline.train.compose import model_names, read_model

    claim(out)
    now, configs = machine(), [read_model(name) for name in dict.fromkeys(names or model_names())]
    systems = [count(config, tile_px=tile_px) for config in configs]

    def show(report: Any) -> None:
        print_tables(report)
        for config in configs if layers else ():
            click.echo(f"\n{config.name}, FLOPs\n{layer_table(config, tile_px=tile_px)}")

    found = FlopsBench(tile_px=tile_px, systems=systems)
    deliver(new_report("flops", now, found), out, as_json, show)


@bench.command("map-cost", epilog="Example: heatline bench map-cost --model vit_tiny_patch16_224 --discard-ratio 0.9")
@models_option
@several("--fusion", "fusions", click.Choice(["min", "mean", "max"]), help_="Of a ViT's heads.")
@several("--discard-ratio", "discard_ratios", FiniteRange(0, 1, max_open=True), help_="Of a ViT.")
@several("--precision", "precisions", PRECISIONS, ("f32",))
@several("--batch", "batches", click.IntRange(1, 64), (1,), "Tiles per request.")
@out_option
@json_option
def map_cost(names: Sequence[str], out: Path | None, as_json: bool, **options: Any) -> None:
    """Compare the time of classifier and map, one graph as on the line, with the classifier alone, on all cores.

    Each model in each combination is a row. Networks have random weights, and are as fast as trained ones.
    """
    require_extra("export")
    from heatline.bench.map_cost import MapCosts, measured_rows, plan
    from heatline.train.compose import model_names, read_model
    from heatline.train.config import VitConfig

    claim(out)
    now, configs = machine(), {name: read_model(name) for name in names or model_names()}
    only_vit = options["fusions"] or options["discard_ratios"]
    if only_vit and not any(isinstance(config, VitConfig) for config in configs.values()):
        raise ConfigError(
            f"--fusion and --discard-ratio are for a ViT, and {', '.join(configs)} is none; leave them out"
        )
    settings = [setting for config in configs.values() for setting in plan(config, **options)]
    rows = list(measured_rows(settings, configs, report_line))
    if not any(row.ratio for row in rows):
        raise BenchError(f"none of {len(rows)} rows could be measured; the first: {rows[0].not_done}")
    deliver(new_report("map-cost", now, MapCosts(rows=rows)), out, as_json)


@bench.command(epilog="Example: heatline bench peers --model mobilenetv3_large_d --size 2448x2048 --out peers.json")
@click.option(
    "--model", "name", default="mobilenetv3_large_d", show_default=True, help="As `heatline models` shows them."
)
@precision_option
@size_option
@click.option("--frames", type=click.IntRange(1, 100), default=4, show_default=True, help="In each turn.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Of all systems.")
@several("--peer", "peers", click.Choice(PEERS), PEERS, "To compare with.")
@peers_python_option
@out_option
@json_option
def peers(name: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Compare heatline with anomalib and PyTorch with grad-cam: same frames, network and machine.

    Each runs as documented, at its best settings and warm, in interleaved rounds, and its answers are checked. Figures
    are shares of the engine alone. Run nothing else on the machine.
    """
    require_extra("peers")
    from heatline.bench.peers.peers import measure_peers
    from heatline.train.compose import read_model

    now, config = machine(), read_model(name)
    claim(out)
    found = measure_peers(config, report_line=report_line, tile_px=TILE_PX, overlap_px=OVERLAP_PX, **options)
    deliver(new_report("peers", now, found), out, as_json)


@bench.command(epilog="Example: heatline bench recipes --data data --set kolektorsdd --recipe heatline --seed 0")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data", envvar="HEATLINE_DATA", required=True, type=click.Path(path_type=Path), help="Folder of all data sets."
)
@click.option(
    "--sets",
    "sets_file",
    type=click.Path(path_type=Path),
    help="YAML: the data sets.  [default: bench/recipes/sets.yaml]",
)
@several("--set", "names", str, help_="One of them. Default: all.")
@several("--recipe", "recipes_", click.Choice(["heatline", "finetune", "study", "patchcore", "padim"]), ("heatline",))
@several("--seed", "seeds", click.IntRange(min=0), (0, 1, 2), "Of folds and training.")
@several("--fold", "folds", click.IntRange(min=0), help_="Evaluate these folds only.")
@peers_python_option
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default="runs/recipes",
    show_default=True,
    help="Folder of links, decoded frames and runs.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default="runs/recipes-results",
    show_default=True,
    help="Folder of results, a file for each set, recipe and overrides, and of tables.md.",
)
@json_option
def recipes(
    data: Path,
    sets_file: Path | None,
    names: Sequence[str],
    recipes_: Sequence[Any],
    seeds: Sequence[int],
    results: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate recipes by grouped cross-validation on data sets with masks, and write tables of all figures.

    heatline is cross-validated as by `heatline train`; finetune and study are trained once without each of the same
    folds; patchcore and padim are anomalib's, on the same trunk. KEY=VALUE... are those of `heatline train`, for every
    recipe; truth=labels trains by the labels of whole pictures, truth=good on good pictures only, once per fold. Both
    are evaluated by masks too.

    The same command continues after an interruption; further seeds, folds and recipes are added to the results.
    """
    require_extra("train")
    from heatline.bench.recipes.recipes import Measurement, write_tables
    from heatline.bench.recipes.sets import SHIPPED, read_sets

    known = read_sets(sets_file or SHIPPED)
    for one in read_sets(sets_file or SHIPPED, names):
        for recipe in recipes_:
            Measurement(of=one, recipe=recipe, data=data, results=results, report_line=report_line, **options).measure(
                seeds
            )
    file, found = write_tables(results, {one.name: one.targets for one in known})
    if as_json:
        print_json({"tables": str(file), "results": [f"{one.set}: {one.name}" for one in found]})
    else:
        click.echo(f"the tables of {len(found)} results are in {file}")


@bench.command(epilog="Example: heatline bench report bench/results --to bench-report")
@click.argument("paths", nargs=-1, metavar="[FILE|FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-report"),
    show_default=True,
    help="Folder for report.html and report.md; created if needed.",
)
@json_option
def report(paths: tuple[Path, ...], folder: Path, as_json: bool) -> None:
    """Turn result files into one page with plots, and into Markdown. Needs the extra `bench`.

    FILE is the --out of a bench; a FOLDER is searched for such files. Default: the results of a checkout. Files that
    cannot be used are named and left out.
    """
    require_extra("bench")
    from heatline.bench.report import make_report, write_report

    made = make_report(paths or (RESULTS,))
    page, tables = write_report(made, folder)
    if as_json:
        print_json({"page": str(page), "tables": str(tables), "files": made.files, "left_out": made.unusable})
        return
    for sentence in made.unusable if paths else ():
        click.echo(visible(f"left out: {sentence}"), err=True)
    click.echo(f"the report of {made.files} files is in {page}, its tables in {tables}", err=True)


@bench.command(epilog="Example: heatline bench stages boards.bundle --size 2448x2048 --out stages.json")
@optional_bundle_argument
@precision_option
@several("--size", "sizes", FrameSize(), SIZES, "Of frames.")
@out_option
@json_option
def stages(
    bundle_path: Path, precision: Precision, sizes: Sequence[tuple[int, int]], out: Path | None, as_json: bool
) -> None:
    """Time each stage of a frame, from the camera to a subscriber, with BUNDLE, or the demo's.

    Takes minutes; run nothing else on the machine.
    """
    from heatline.bench.stages import measure_stages

    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    found = measure_stages(bundle, precision, sizes=sizes, report_line=report_line)
    deliver(new_report("stages", now, found), out, as_json)


@bench.command(epilog="Example: heatline bench startup boards.bundle --repetitions 20 --out startup.json")
@optional_bundle_argument
@precision_option
@size_option
@click.option("--repetitions", type=click.IntRange(1, 1000), default=10, show_default=True, help="Of all conditions.")
@out_option
@json_option
def startup(bundle_path: Path, precision: Precision, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the time from the start of the service with BUNDLE, or the demo's, to READY and to the first verdict.

    Starts it with and without the compiled graph in the model cache, and prints the phases. Run nothing else on the
    machine.
    """
    from heatline.bench.startup import measure_startup

    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    found = measure_startup(bundle, precision, report_line=report_line, **options)
    deliver(new_report("startup", now, found), out, as_json)


@bench.command(epilog="Example: heatline bench tune boards.bundle /etc/heatline/line1.toml --precision f32")
@bundle_argument
@click.argument("line", type=click.Path(path_type=Path))
@several(
    "--precision",
    "precisions",
    PRECISIONS,
    help_="To choose among. Default: all that passed the bundle's gate, unless LINE sets one.",
)
@click.option("--size", "frame_hw", type=FrameSize(), help="Of the frames; default: as in LINE.")
@click.option("--fps", "rate_fps", type=FiniteRange(0.01, 10_000), help="Of each camera; default: as in LINE.")
@click.option(
    "--seconds",
    type=FiniteRange(0.01, 600),
    default=1.0,
    show_default=True,
    help="Length of a setting's run in the first round.",
)
@out_option
@json_option
def tune(bundle_path: Path, line: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Choose engine, device, precision, batch, streams and threads for BUNDLE on this machine, by the latency of LINE's
    frames.

    Prints them for LINE's table [engine], and the gain; keys that LINE sets there stay, and so do the present settings
    where the gain is no more than chance. Takes some minutes: stop the line, and run nothing else on the machine.
    """
    from heatline.bench.tune import measure_tune

    now = machine()
    claim(out)
    found = measure_tune(bundle_path, line, report_line=report_line, **options)
    deliver(new_report("tune", now, found), out, as_json)


@bench.command(epilog="Example: heatline bench screening boards.bundle runs/boards --out screening.json")
@bundle_argument
@click.argument("run", type=click.Path(path_type=Path))
@precision_option
@click.option("--size", type=FrameSize(), default="2448x2048", show_default=True, help="Of frames.")
@out_option
@json_option
def screening(
    bundle_path: Path,
    run: Path,
    precision: Precision,
    size: tuple[int, int],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what BUNDLE's screening stage gains, on frames of tiles of the pictures that RUN was trained on.

    With a reference, frames are these pictures. Some are defective. Takes minutes; run nothing else on the machine.
    """
    require_extra("train")
    from heatline.bench.screening import measure_screening
    from heatline.train.run import load_run

    now, bundle = machine(), open_bundle(bundle_path)
    claim(out)
    found = measure_screening(bundle, load_run(run), size, precision, report_line)
    deliver(new_report("screening", now, found), out, as_json)
