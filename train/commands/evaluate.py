"""`heatline evaluate`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import InputError
from edge.inference import EngineKind
from train.readers import LabelledImage, read_folder


@click.command(epilog="Example: heatline evaluate pcb.bundle --data pcb/ --group board --groups 10,12 --truth boxes")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of labelled pictures.")
@click.option("--truth", type=click.Choice(["masks", "derived_masks", "boxes"]), help="Default: the first there is.")
@click.option("--group", "column", default="group", show_default=True, help="Column of labels.csv that names groups.")
@click.option("--groups", help="Only these groups, with commas between them; default: all.")
@click.option("--engine", "kind", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True)
@json_option
@click.pass_context
def evaluate(
    context: click.Context,
    bundle_path: Path,
    data: Path,
    truth: str | None,
    column: str,
    groups: str | None,
    kind: EngineKind,
    as_json: bool,
) -> None:
    """Hold what BUNDLE finds against known defects: tiles by the 1 % rule, and frames as the line judges them."""
    require_extra("train", "torch", "torchmetrics")
    from rich.progress import track

    from train.evaluate import evaluate_bundle

    def show(images: Sequence[LabelledImage]) -> Iterable[LabelledImage]:
        return track(images, "frames", console=progress_console(), disable=not progress_console().is_terminal)

    labelled = read_folder(data, truth, column)
    wanted = None if groups is None else set(groups.split(","))
    images = [image for image in labelled.images if wanted is None or image.group in wanted]
    if not images:
        raise InputError(f"{data} has no picture of the groups {groups}; it has {', '.join(labelled.groups())}")
    if groups is None and context.get_parameter_source("column") is ParameterSource.COMMANDLINE:
        labelled.groups()  # a column that was named must be there, though no group of it was
    bundle = open_bundle(bundle_path)
    taught = set(bundle.manifest.provenance.get("data", {}).get("groups", {}).get("train", []))
    known = sum(image.group in taught for image in images)
    if known and bundle.manifest.provenance["data"].get("data") == labelled.name:
        click.echo(
            f"{known} of the {len(images)} pictures are of groups that taught this bundle: name others", err=True
        )
    evaluation = evaluate_bundle(bundle, labelled.truth, images, engine=kind, track=show)
    if as_json:
        print_json(evaluation)
        return
    for title, figures in (("tiles, by the 1 % rule", evaluation.tile), ("frames", evaluation.frame)):
        names = figures.__struct_fields__
        print_facts(f"{title}, by {evaluation.truth}", {name: _shown(getattr(figures, name)) for name in names})


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
