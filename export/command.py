"""`heatline export`."""

from functools import partial
from pathlib import Path
from typing import Literal

import click

from heatline.edge.bundle.store import require_new_folder
from heatline.edge.cli.bundle_formatting import bundle_facts
from heatline.edge.cli.output import FiniteRange, json_option, print_report, progress_console
from heatline.edge.inference import Precision
from heatline.edge.util.extras import require_extra
from heatline.train.progress import tracked

FAST: tuple[Precision, ...] = ("f32", "bf16")


@click.command(epilog="Example: heatline export runs/boards --to boards.bundle")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="The new bundle's folder.")
@click.option("--name", help="The bundle's name; default: the folder's.")
@click.option("--version", default="1", show_default=True, help="The bundle's version.")
@click.option(
    "--false-reject",
    type=FiniteRange(min=0, max=1, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of good frames that the thresholds may reject.",
)
@click.option(
    "--smoothing",
    "smoothing_cells",
    type=FiniteRange(min=0, max=16),
    help="Standard deviation of the heatmap's smoothing, in map cells; 0: none.  [default: 1.5 for maps of up to 14x14 "
    "cells, else 0]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["f32", "bf16", "int8"]),
    help="A precision to make; may be repeated. f32 is always made.  [default: all]",
)
@click.option("--fast", is_flag=True, help="Make f32 and bf16 only, without the attempts at int8.")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["bf16", "int8", "map"]),
    help="bf16 or int8: put this precision into the bundle although its verdicts or maps differ too much from the "
    "model's, except by more than half the scale. map: export although the map fails its checks. May be repeated.",
)
@click.option(
    "--reference",
    "design",
    metavar="DESIGN",
    help="The design whose reference the bundle gets, if the run has several.  [default: the only one]",
)
@click.option(
    "--screen",
    is_flag=True,
    help="Add a screening stage, which clears tiles that are surely good, so that a line runs only the others in full; "
    "left out, with its figures, if it would not pay.",
)
@json_option
def export(
    run: Path,
    target: Path,
    name: str | None,
    version: str,
    false_reject: float,
    smoothing_cells: float | None,
    precisions: tuple[Precision, ...],
    fast: bool,
    allow: tuple[Precision | Literal["map"], ...],
    design: str | None,
    screen: bool,
    as_json: bool,
) -> None:
    """Export RUN, the folder of a training, as a bundle for a line.

    A bundle is one graph with classifier and map, verified and calibrated.
    Each precision is compared with the model itself on tiles of the validation groups, or of half of the training
    groups if there are no validation groups (recipe heatline): verdicts, maps and regions. A precision that fails is
    left out of the bundle, with the reason. The export fails if ONNX Runtime or OpenVINO in f32 answers differently
    from PyTorch, if the logit is not the pooling of the map that the bundle states, or if the map of good tiles is
    stuck to one place or drawn to the border.
    """
    require_extra("export")
    if fast and precisions:
        raise click.UsageError("--fast and --precision both choose the precisions; give one of them")
    precisions = FAST if fast else precisions
    allowed = [each for each in allow if each != "map"]
    if precisions and not set(allowed) <= set(precisions):
        raise click.UsageError("--allow names a precision that --precision leaves out; name it there too")
    from heatline.train.run import RunFolder, load_run

    RunFolder(run).read_summary()  # before torch is imported, so that errors are reported at once
    require_new_folder(target)
    from heatline.export.precisions import PRECISIONS
    from heatline.export.run_to_bundle import export_run

    say = partial(progress_console().print, style="dim", highlight=False, markup=False)
    if fast:
        say("--fast: the bundle gets f32 and bf16, and int8 is not tried")
    bundle = export_run(
        load_run(run),
        target,
        name=name or target.stem,
        version=version,
        false_reject=false_reject,
        smoothing_cells=smoothing_cells,
        precisions=precisions or PRECISIONS,
        allow=allowed,
        allow_map="map" in allow,
        design=design,
        screen=screen,
        track=tracked("validation frames"),
        say=say,
    )
    report = {"bundle": str(bundle.path), "digest": bundle.digest, "manifest": bundle.manifest}
    size = f"{sum(file.stat().st_size for file in bundle.path.iterdir()) / 1e6:.1f} MB"
    print_report(report, as_json, f"{bundle.path} is written", bundle_facts(bundle) | {"size": size})
