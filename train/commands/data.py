"""`heatline data`."""

import os
import re
from pathlib import Path

import click
from rich.progress import Progress

from edge.cli.output import json_option, print_json, progress_console
from train.boards import check_size, write_boards


@click.group(epilog="Example: heatline data draw-boards boards --count 60 --seed 1")
def data() -> None:
    """Pictures to train and test with."""


@data.command(epilog="Example: heatline data draw-boards boards --count 60 --seed 1")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many boards; every third is flawless.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed draws the same boards."
)
@click.option("--size", default="1600x1250", show_default=True, help="Width and height of each picture, px.")
@json_option
def draw_boards(folder: Path, count: int, seed: int, size: str, as_json: bool) -> None:
    """Draw circuit boards with and without defects into DIR: images/, masks/ and labels.csv.

    Boards that are there already are kept, so a run that was interrupted can be started again.
    """
    with Progress(console=progress_console()) as progress:
        task = progress.add_task("drawing boards", total=count)
        labels = write_boards(
            folder,
            count,
            seed,
            size_hw=_height_and_width(size),
            workers=len(os.sched_getaffinity(0)),
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"folder": str(folder), "labels": str(labels), "boards": count, "seed": seed})
    else:
        click.echo(f"{count} boards of seed {seed} are in {folder}; next: heatline train data={folder}")


def _height_and_width(size: str) -> tuple[int, int]:
    """From WIDTHxHEIGHT.

    Raises:
        click.BadParameter: it is not of that form, or smaller than boards can be drawn.
    """
    found = re.fullmatch(r"(\d{3,5})x(\d{3,5})", size)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    try:
        check_size((height, width))
    except ValueError as error:
        raise click.BadParameter(f"{size!r} cannot be drawn ({error}); expected e.g. 1600x1250") from error
    return height, width
