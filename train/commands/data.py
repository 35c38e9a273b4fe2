"""`heatline data`."""

from pathlib import Path

import click

from heatline.edge.cli.output import CommandGroup, json_option, print_facts, print_json
from heatline.edge.errors import InputError
from heatline.edge.geometry.tiling import TILE_PX
from heatline.edge.util.text import format_count, list_some
from heatline.train.progress import tracked
from heatline.train.readers.folder import LABELS_ONLY, TRUTHS
from heatline.train.summary import FolderSummary, summarise_folder


@click.group(cls=CommandGroup, epilog="Example: heatline data show boards")
def data() -> None:
    """Inspect labelled pictures before a training."""


@data.command(epilog="Example: heatline data show pcb --group board --truth boxes")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--truth", type=click.Choice([*TRUTHS, LABELS_ONLY]), help="Default: the first that FOLDER has.")
@click.option(
    "--group", "column", help="Column of labels.csv that names groups; default: found, and printed as an assumption."
)
@click.option("--pattern", help="Instead, a regular expression on file names; its first parenthesis is the group.")
@json_option
def show(folder: Path, truth: str | None, column: str | None, pattern: str | None, as_json: bool) -> None:
    """Show what FOLDER holds and which files cannot be used.

    It prints the reasons, and what would make a model look better than it is.
    The options are those of a training: truth, split.group and split.pattern.
    """
    found = summarise_folder(folder, truth, column, pattern, tracked("pictures"))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found.good + found.defective:
        raise InputError(f"{folder} holds no labelled picture that can be used; mend what is listed")


def _print(found: FolderSummary) -> None:
    others = [truth for truth in found.truths if truth != found.truth]
    by_label = found.labels_only if found.truth != LABELS_ONLY else 0
    also = f" ({by_label} of them by their label only)" if by_label else ""
    facts = {
        "truth": f"{found.truth} (also found: {', '.join(others)})" if others else found.truth,
        "pictures": f"{found.good + found.defective}: {found.good} good, {found.defective} defective{also}",
        "sizes": list_some([f"{size} px ({count})" for size, count in found.sizes.items()], 5),
        "colours": ", ".join(f"{colour} ({count})" for colour, count in found.colours.items()),
    }
    if found.groups:
        fewest, most = min(found.groups.values()), format_count(max(found.groups.values()), "picture")
        facts["groups"] = f"{len(found.groups)} by {found.groups_are}, of {fewest} to {most}"
    facts["classes"] = ", ".join(f"{name} ({count})" for name, count in found.classes.items())
    if found.tiles:
        total = sum(found.tiles.values())
        clean, ambiguous, defective = (f"{100 * count / total:.1f} %" for count in found.tiles.values())
        facts[f"{TILE_PX} px tiles"] = f"{total}: {clean} clean, {ambiguous} up to 1 % defective, {defective} over 1 %"
    print_facts(found.folder, {name: fact for name, fact in facts.items() if fact})
    said = {
        "assumed": found.assumptions,
        "to expect": filter(None, [found.expectation]),
        "warning": found.warnings,
        "unusable": found.unusable,
    }
    for what, sentences in said.items():
        for sentence in sentences:
            click.echo(f"{what}: {sentence}")
    click.echo(
        f"{format_count(len(found.unusable), 'file')} cannot be used" if found.unusable else "all files can be used"
    )
