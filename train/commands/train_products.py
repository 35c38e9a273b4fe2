"""`heatline train --products`: trains one product per folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from heatline.edge.cli.output import print_json, table_console, visible
from heatline.edge.errors import TrainingError
from heatline.edge.util.extras import require_extra
from heatline.edge.util.text import format_count

if TYPE_CHECKING:
    from heatline.train.products.result import ProductsReport


def train_all(
    folder: Path, overrides: Sequence[str], address: str | None, processors: int | None, as_json: bool
) -> None:
    """Train the products of a folder, and print their table.

    Raises:
        HeatlineError: products failed; of their kind if they all failed in one way, else a `TrainingError`.
    """
    require_extra("cluster")
    if folders := [item for item in overrides if "=" not in item]:
        raise click.UsageError(f"--products names the folder of all products, so {folders[0]!r} has no meaning")
    from heatline.train.products.train import train_products

    report, errors = train_products(
        folder, overrides, lambda line: click.echo(visible(line), err=True), address, processors
    )
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        _print_table(report)
    if errors:
        name, first = next(iter(errors.items()))
        kinds = {type(error) for error in errors.values()}
        kind = kinds.pop() if len(kinds) == 1 else TrainingError
        others = f", and {format_count(len(errors) - 1, 'other product')}" if len(errors) > 1 else ""
        raise kind(f"{name} failed ({first}){others}; correct that, then give the same command again")


def _print_table(report: "ProductsReport") -> None:
    from rich.markup import escape
    from rich.table import Table

    from heatline.train.products.page import COLUMNS, TEXTS, cells_of

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number in TEXTS else "right", overflow="fold")
    for result in report.products:
        style = "red" if result.failed else None
        table.add_row(*(escape(visible(cell)) for cell in cells_of(result)), style=style)
    table_console().print(table)
    click.echo(visible(f"page: {report.page}"))
