"""`heatline inspect`: pictures without a line."""

import os
from pathlib import Path

import click
import msgspec

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.cli.output import engine_option, json_option, make_empty, precision_option, print_json
from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import png
from heatline.edge.images import list_images
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import format_count


@click.command(epilog="Example: heatline inspect boards.bundle photos/ --out found/")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New folder for pictures and verdicts.jsonl."
)
@engine_option
@precision_option
@json_option
def inspect(
    bundle_path: Path, images: tuple[Path, ...], out: Path, kind: EngineKind, precision: Precision, as_json: bool
) -> None:
    """Inspect IMAGES, files or folders of them, without a line.

    Writes one picture per image with its heatmap and regions, and one event per image to verdicts.jsonl, as JSON.
    An image that cannot be inspected gets NO_VERDICT, and the exit code is then 9.
    """
    files = [file for path in images for file in (list_images(path) if os.path.isdir(path) else [path])]
    bundle = open_bundle(bundle_path)
    inspector = BundleInspector(bundle, open_verified_engine(bundle, kind, precision))
    unjudged = 0
    with inspector, writing(out):
        make_empty(out, "--out")
        with (out / "verdicts.jsonl").open("wb") as lines:
            for result in inspector.inspect_all(files):
                event = result.event
                lines.write(msgspec.json.encode(event) + b"\n")
                lines.flush()
                unjudged += result.verdict == "NO_VERDICT"
                if result.judgement is not None or event.foreign_areas:
                    name = f"{event.frame_id:05d}_{Path(str(event.source)).stem}.png"
                    with replacing(out / name) as new:
                        new.write_bytes(png(result.overlay()))
                print_json(event) if as_json else click.echo(str(result))
    if unjudged:
        raise InputError(f"{unjudged} of {format_count(len(files), 'image')} got no verdict; the reasons are above")
