"""`heatline data`."""

import os
import re
from pathlib import Path

import click
from rich.progress import Progress

from edge.cli.output import json_option, print_json, progress_console
from edge.errors import InputError
from train.boards import check_size, write_boards

LARGEST_SIDE_PX = 8192


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
    size_hw = _height_and_width(size)
    try:
        with Progress(console=progress_console()) as progress:
            task = progress.add_task("drawing boards", total=count)
            labels = write_boards(
                folder,
                count,
                seed,
                size_hw=size_hw,
                workers=len(os.sched_getaffinity(0)),
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except ValueError as error:
        raise InputError(f"{error}; name another folder, or the same --seed and --size") from error
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); check the disk and the permissions"
        ) from error
    if as_json:
        print_json({"folder": str(folder), "labels": str(labels), "boards": count, "seed": seed})
    else:
        click.echo(f"{count} boards of seed {seed} are in {folder}; next: heatline train data={folder}")


def _height_and_width(size: str) -> tuple[int, int]:
    """From WIDTHxHEIGHT.

    Raises:
        click.BadParameter: it is not of that form, or smaller than boards can be drawn.
    """
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if found is None or max(int(found[1]), int(found[2])) > LARGEST_SIDE_PX:
        raise click.BadParameter(
            f"{size!r} is no WIDTHxHEIGHT up to {LARGEST_SIDE_PX} px a side; expected e.g. 1600x1250"
        )
    width, height = int(found[1]), int(found[2])
    try:
        check_size((height, width))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return height, width
