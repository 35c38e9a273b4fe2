"""Prints the result of a retraining: both bundles side by side, and the commands that deploy one."""

import shlex
from pathlib import Path

import click
from rich import box
from rich.table import Table

from heatline.edge.cli.output import table_console, visible
from heatline.edge.describe import describe_bundle
from heatline.export.retrain.judge import Comparison, Rate
from heatline.export.retrain.retrain import Retrained

FIGURES = {"val_picture_auroc": "picture AUROC, cross-validated", "val_ap": "tile AP, cross-validated"}


def print_result(result: Retrained, commands: list[tuple[str, str]]) -> None:
    """Print figures, times, reasons and commands.

    Args:
        commands: descriptions and commands that are offered if the new bundle is better.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", f"old: {describe_bundle(result.old)}", f"new: {describe_bundle(result.new)}"):
        table.add_column(visible(heading))
    for row in side_by_side(result.comparison):
        table.add_row(*row)
    for key, name in FIGURES.items():
        if key in result.val_old and key in result.val_new:
            table.add_row(name, f"{result.val_old[key]:.3f}", f"{result.val_new[key]:.3f}")
    table_console(markup=False).print(table)
    click.echo(f"time  {', '.join(f'{name} {seconds:.0f} s' for name, seconds in result.seconds.items())}")
    click.echo(visible(f"bundle  {result.bundle}"))
    if not result.better:
        click.echo(visible(f"not better, and not offered: {'; '.join(result.comparison.reasons)}"))
        return
    for description, command in commands:
        click.echo(visible(f"{description}\n  {command}"))


def side_by_side(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return the rows of the table: a name, the old bundle's figure, the new one's."""
    old, new = comparison.old, comparison.new
    return [
        ("false alarms, held out", format_rate(old.false_alarms), format_rate(new.false_alarms)),
        ("missed, held out", format_rate(old.missed), format_rate(new.missed)),
        ("no verdict, held out", format_rate(old.no_verdict), format_rate(new.no_verdict)),
        ("finds kept, all reviewed", format_rate(old.finds), format_rate(new.finds)),
    ]


def format_rate(rate: Rate) -> str:
    """Return a count with its interval."""
    if rate.interval is None:
        return "no such frame"
    low, high = rate.interval
    return f"{rate.count} of {rate.of} ({100 * low:.0f} to {100 * high:.0f} %)"


def commands_of_line(line: str, product: str | None, old: Path, new: Path, *, sign: bool) -> list[tuple[str, str]]:
    """Return the commands that deploy the new bundle on a line, and the old one again.

    Args:
        sign: whether the line accepts only signed bundles.
    """
    of_product = "" if product is None else f" --product {shlex.quote(product)}"

    def reload(bundle: Path) -> str:
        return f"heatline reload {shlex.quote(line)} --bundle {shlex.quote(str(bundle.absolute()))}{of_product}"

    signing = [("the line accepts only signed bundles; sign it first:", sign_command(new))] if sign else []
    return [*signing, ("to deploy it:", reload(new)), ("to go back:", reload(old))]


def sign_command(bundle: Path) -> str:
    """Return the command that signs a bundle."""
    return f"heatline bundle sign {shlex.quote(str(bundle.absolute()))} --key KEY"


def commands_of_folder(old: Path, new: Path) -> list[tuple[str, str]]:
    """Return what to do with a bundle that was not trained on its line PC."""
    return [
        (
            "copy it to the line PC, and deploy it there:",
            f"heatline reload LINE --bundle {shlex.quote(new.name)}",
        ),
        ("to go back:", f"heatline reload LINE --bundle {shlex.quote(old.resolve().name)}"),
    ]
