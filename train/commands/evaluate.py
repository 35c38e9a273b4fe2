"""`heatline evaluate`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.bundle import Bundle, open_bundle
from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import InputError
from edge.inference import EngineKind
from train.readers import LabelledFolder, LabelledImage, read_folder
from train.readers.folder import LABELS_ONLY, TRUTHS

EXAMPLES = """
Example:

\b
  heatline evaluate pcb.bundle --data pcb/ --group board --part test
  heatline evaluate pcb.bundle --data pcb/ --group board --groups 10,12 --truth boxes
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of labelled pictures.")
@click.option("--truth", type=click.Choice([*TRUTHS, LABELS_ONLY]), help="Default: the first there is.")
@click.option("--group", "column", help="Column of labels.csv that names groups.  [default: as BUNDLE was taught]")
@click.option("--pattern", help="Instead, a regular expression on file names, its first parenthesis the group.")
@click.option("--groups", help="Only these groups, with commas between them; default: all.")
@click.option(
    "--part",
    type=click.Choice(["test", "val", "train"]),
    help="Only the groups that tested, validated or taught, as BUNDLE itself says.",
)
@click.option("--engine", "kind", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True)
@json_option
def evaluate(
    bundle_path: Path,
    data: Path,
    truth: str | None,
    column: str | None,
    pattern: str | None,
    groups: str | None,
    part: str | None,
    kind: EngineKind,
    as_json: bool,
) -> None:
    """Hold what BUNDLE finds against known defects: tiles by the 1 % rule, pixels by the study's rule for maps, and
    frames as the line judges them.
    """
    require_extra("train", "torch", "torchmetrics")
    from rich.progress import track

    from train.evaluate import evaluate_bundle

    def show(images: Sequence[LabelledImage]) -> Iterable[LabelledImage]:
        return track(images, "frames", console=progress_console(), disable=not progress_console().is_terminal)

    if groups is not None and part is not None:
        raise click.UsageError("--groups and --part both say which groups; leave one away")
    if pattern is not None and column is not None:
        raise click.UsageError("--group and --pattern both say where groups are told; leave one away")

    bundle = open_bundle(bundle_path)
    labelled = _read(data, truth, column, pattern, _told(bundle).get("read", {}))
    images = list(labelled.images)
    if part is not None:
        images = _of_part(part, bundle, labelled)
    elif groups is not None:
        images = _of_groups(set(groups.split(",")), labelled)
    elif column is not None:
        labelled.groups()  # a column that was named must be there, though no group of it was
    known = sum(image.group in _groups(bundle, "train") for image in images)
    if known and part != "train" and _told(bundle).get("data") == labelled.name:
        click.echo(
            f"{known} of the {len(images)} pictures are of groups that taught this bundle: leave them out with "
            "--groups, or take --part test",
            err=True,
        )
    evaluation = evaluate_bundle(bundle, labelled.truth, images, engine=kind, track=show)
    if evaluation.frame.unplaced:
        click.echo(
            f"{evaluation.frame.unplaced} of the {len(images)} pictures do not say where they are defective: they "
            "count as frames only",
            err=True,
        )
    if as_json:
        print_json(evaluation)
        return
    for title, figures in (
        ("tiles, by the 1 % rule", evaluation.tile),
        ("pixels, by the study's rule", evaluation.study),
        ("frames", evaluation.frame),
    ):
        if figures is not None:
            facts = msgspec.structs.asdict(figures)
            print_facts(f"{title}, by {evaluation.truth}", {name: _shown(value) for name, value in facts.items()})


def _read(
    data: Path, truth: str | None, column: str | None, pattern: str | None, taught: dict[str, Any]
) -> LabelledFolder:
    """The folder, read as the bundle's own data was where nothing else is said."""
    if column is None and pattern is None:
        column, pattern = taught.get("group"), taught.get("pattern")
    read = read_folder(data, truth, column or "group", pattern)
    classes = taught.get("classes")
    if classes is None or read.truth != taught.get("truth"):
        return read
    return read_folder(data, read.truth, column or "group", pattern, classes)


def _told(bundle: Bundle) -> dict[str, Any]:
    """What a bundle says of the data that it was made from."""
    told: dict[str, Any] = bundle.manifest.provenance.get("data", {})
    return told


def _groups(bundle: Bundle, part: str) -> set[str]:
    return set(_told(bundle).get("groups", {}).get(part, []))


def _of_part(part: str, bundle: Bundle, labelled: LabelledFolder) -> list[LabelledImage]:
    """The pictures of all groups that the bundle names for a part."""
    wanted = _groups(bundle, part)
    if not wanted:
        raise InputError(f"{bundle.path} names no groups as {part} in its provenance; name groups with --groups")
    images = [image for image in labelled.images if image.group in wanted]
    if missing := wanted - {str(image.group) for image in images}:
        raise InputError(
            f"{labelled.folder} has {len(wanted) - len(missing)} of the {len(wanted)} {part} groups of {bundle.path}, "
            f"{min(missing)!r} is missing; groups were looked for in {labelled.groups_are}: name the folder that was "
            "trained on, and where groups are told with --group or --pattern"
        )
    return images


def _of_groups(wanted: set[str], labelled: LabelledFolder) -> list[LabelledImage]:
    images = [image for image in labelled.images if image.group in wanted]
    if missing := wanted - {str(image.group) for image in images}:
        raise InputError(
            f"{labelled.folder} has no picture of the group {min(missing)!r}; it has {', '.join(labelled.groups())}"
        )
    return images


def _shown(value: float | None) -> str:
    if value is None:
        return "not known"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
