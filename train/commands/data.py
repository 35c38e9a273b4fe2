"""`heatline data`."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress, track

from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import InputError
from edge.geometry.tiling import OVERLAP_PX, TILE_PX
from edge.text import format_count, is_are
from train.readers.folder import LABELS_ONLY, TRUTHS

if TYPE_CHECKING:
    from train.readers import LabelledImage
    from train.survey import Survey

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
@click.option(
    "--defects",
    type=click.IntRange(min=0),
    help="How many each defective board has, where it has room; 0: all boards are flawless. Default: 1 to 5.",
)
@json_option
def draw_boards(folder: Path, count: int, seed: int, size: str, defects: int | None, as_json: bool) -> None:
    """Draw circuit boards with and without defects into DIR: images/, masks/ and labels.csv.

    Boards that are there already are kept, so a run that was interrupted can be started again.
    """
    from train.boards import write_boards

    size_hw = _height_and_width(size)
    try:
        with Progress(console=progress_console()) as progress:
            task = progress.add_task("drawing boards", total=count)
            labels = write_boards(
                folder,
                count,
                seed,
                size_hw=size_hw,
                defects=defects,
                workers=len(os.sched_getaffinity(0)),
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except ValueError as error:
        raise InputError(f"{error}; name another folder, or the same --seed, --size and --defects") from error
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); check the disk and the permissions"
        ) from error
    if as_json:
        print_json({"folder": str(folder), "labels": str(labels), "boards": count, "seed": seed})
    else:
        click.echo(
            f"{format_count(count, 'board')} of seed {seed} {is_are(count)} in {folder}; next: heatline train "
            f"data={folder}"
        )


@data.command(epilog="Example: heatline data show pcb --group board --truth boxes --val 08 --test 10,12")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--truth", type=click.Choice([*TRUTHS, LABELS_ONLY]), help="Default: the first there is.")
@click.option(
    "--group", "column", help="Column of labels.csv that names groups; default: found, and what is assumed said."
)
@click.option("--pattern", help="Instead, a regular expression on file names; its first parenthesis is the group.")
@click.option("--classes", help="Which annotated classes are defects, with commas between them; default: all.")
@click.option("--val", default="", help="Groups for validation, with commas between them.")
@click.option("--test", default="", help="Groups for the test, likewise.")
@click.option(
    "--fractions", default="0.7,0.1,0.2", show_default=True, help="Shares for train, val, test where none is named."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split by shares.")
@click.option("--tile-px", type=click.IntRange(32, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@click.option(
    "--overlap-px", type=click.IntRange(min=0), default=OVERLAP_PX, show_default=True, help="What neighbours share."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw some pictures and annotations, as a PNG.")
@json_option
def show(
    folder: Path,
    truth: str | None,
    column: str | None,
    pattern: str | None,
    classes: str | None,
    val: str,
    test: str,
    fractions: str,
    seed: int,
    tile_px: int,
    overlap_px: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Say what FOLDER is understood to hold, what cannot be used and why, and what would flatter a model.

    Options mean what they mean to a training: truth, split.group, split.pattern and so on.
    """
    from train.contact_sheet import write_contact_sheet
    from train.survey import Asked, survey

    asked = Asked(
        truth=truth,
        group_column=column,
        group_pattern=pattern,
        classes=None if classes is None else _names(classes),
        val=_names(val),
        test=_names(test),
        fractions=_shares(fractions),
        seed=seed,
        tile_px=tile_px,
        overlap_px=overlap_px,
    )
    found = survey(folder, asked, _track)
    if picture is not None:
        images = asked.read(folder, lambda file, error: None, None).images  # the survey names what cannot be used
        write_contact_sheet(picture, images)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _track(images: Sequence["LabelledImage"]) -> Iterable["LabelledImage"]:
    console = progress_console()
    return track(images, "pictures", console=console, disable=not console.is_terminal)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _shares(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are no shares; expected e.g. 0.7,0.1,0.2") from error


def _print(found: "Survey") -> None:
    """A survey, for people."""
    others = [truth for truth in found.truths if truth != found.truth]
    facts: dict[str, object] = {
        "truth": f"{found.truth} (also there: {', '.join(others)})" if others else found.truth,
        "pictures": f"{found.good + found.defective}: {found.good} good, {found.defective} defective"
        + (
            f" ({found.labels_only} of them by their label only)"
            if found.labels_only and found.truth != LABELS_ONLY
            else ""
        ),
    }
    if found.sizes:
        facts["sizes"] = _sizes_in_words(found)
        facts["colours"] = ", ".join(f"{colour} ({count})" for colour, count in found.colours.items())
    if found.groups:
        facts["groups"] = (
            f"{found.groups.count} by {found.groups_are}, of {found.groups.smallest} to "
            f"{format_count(found.groups.largest, 'picture')}"
        )
    if found.classes:
        facts["classes"] = ", ".join(f"{name} ({count})" for name, count in found.classes.items())
    if found.tiles:
        total = sum(found.tiles.values())
        clean, ambiguous, defective = (f"{100 * count / total:.1f} %" for count in found.tiles.values())
        facts[f"{found.tile_px} px tiles"] = (
            f"{total}: {clean} clean, {ambiguous} up to 1 % defective, {defective} over 1 %"
        )
    for name, part in (found.split or {}).items():
        facts[name] = (
            f"{format_count(part.groups, 'group')}: {part.good} good, "
            f"{format_count(part.defective, 'defective picture')}"
        )
    print_facts(found.folder, facts)
    for assumption in found.assumptions:
        click.echo(f"assumed: {assumption}")
    for warning in found.warnings:
        click.echo(f"warning: {warning}")
    for file in found.unusable:
        click.echo(f"unusable: {file.why}")
    click.echo(
        f"{format_count(len(found.unusable), 'file')} cannot be used" if found.unusable else "all files can be used"
    )


def _sizes_in_words(found: "Survey") -> str:
    widths, heights = [size.width for size in found.sizes], [size.height for size in found.sizes]
    common = ", ".join(f"{size.width}x{size.height} ({size.pictures})" for size in found.sizes[:3])
    if len(found.sizes) == 1:
        return f"{common} px"
    return (
        f"{len(found.sizes)} sizes from {min(widths)} to {max(widths)} px wide and {min(heights)} to {max(heights)} px "
        f"high, most often {common}"
    )


def _height_and_width(size: str) -> tuple[int, int]:
    """From WIDTHxHEIGHT.

    Raises:
        click.BadParameter: it is not of that form, or smaller than boards can be drawn.
    """
    from train.boards import check_size

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
