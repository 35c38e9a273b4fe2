"""Options and output that the subcommands of `heatline bench` share."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from heatline.bench.result_file import keep, keep_text
from heatline.edge.cli.output import json_option, print_facts, print_json, progress_console
from heatline.edge.errors import BenchError

SHIPPED_BUNDLE = Path(__file__).resolve().parents[2] / "examples" / "drawn_boards" / "bundle"
TABLE = ".md"
MOST_PX = 8192


class FrameSize(click.ParamType[tuple[int, int]]):
    """A size in px as `2448x2048`, width by height; converted to (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        width, height = map(int, sides.groups()) if sides else (0, 0)
        if not (0 < width <= MOST_PX and 0 < height <= MOST_PX):
            self.fail(f"{value} is not a size; expected width and height in px, each up to {MOST_PX}, as 2448x2048")
        return height, width


def _require_demo(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    if path == SHIPPED_BUNDLE and not path.is_dir():
        raise BenchError("only a checkout of heatline has the demo's bundle; name a bundle")
    return path


bundle_argument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
optional_bundle_argument = click.argument(
    "bundle_path",
    metavar="[BUNDLE]",
    type=click.Path(path_type=Path),
    default=SHIPPED_BUNDLE,
    callback=_require_demo,
)
"""The demo's bundle if none is named."""
precision_option = click.option(
    "--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the result there, as JSON."
)


def _no_table(context: click.Context, parameter: click.Parameter, out: Path | None) -> Path | None:
    if out is not None and out.suffix == TABLE:
        raise click.BadParameter(f"{out} is where the table goes; name a file that ends in .json")
    return out


out_with_table_option = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_no_table,
    help=f"Write the figures there, as JSON, and their table into the file of that name that ends in {TABLE}.",
)
_SETS_OPTIONS = (
    click.option(
        "--data",
        envvar="HEATLINE_DATA",
        required=True,
        type=click.Path(path_type=Path),
        help="Folder of all data sets.",
    ),
    click.option(
        "--sets", type=click.Path(path_type=Path), help="YAML: the data sets.  [default: bench/recipes/sets.yaml]"
    ),
    click.option("--set", "names", multiple=True, help="One of them; may be repeated. Default: all."),
    click.option(
        "--work",
        type=click.Path(path_type=Path),
        default="runs/recipes",
        show_default=True,
        help="Folder of links, decoded frames, runs and bundles.",
    ),
    json_option,
)


def data_sets_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a bench that reads data sets: which sets, the working folder, and JSON."""
    for option in reversed(_SETS_OPTIONS):
        command = option(command)
    return command


def number_option(name: str, plural: str, default: Sequence[int], help_: str) -> Callable[..., Any]:
    """Return an option for numbers from 0 on, as of seeds and folds, that may be repeated."""
    return click.option(
        name,
        plural,
        type=click.IntRange(min=0),
        multiple=True,
        default=default,
        show_default=bool(default),
        help=f"{help_}; may be repeated.",
    )


@contextmanager
def counting(what: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Show a bar of progress on a terminal.

    The bar is drawn only after each step: a thread that draws it would be measured too.

    Yields:
        A function that prints a line above the bar, and one to call after each step.
    """
    columns, console = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()), progress_console()
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield (
            lambda line: progress.console.print(line, markup=False, highlight=False, soft_wrap=True),
            lambda: progress.update(task, advance=1, refresh=True),
        )


def report_line(line: str) -> None:
    """Print a line of progress on standard error."""
    click.echo(line, err=True)


def deliver(
    title: str,
    report: Mapping[str, Any],
    facts: Mapping[str, object],
    out: Path | None,
    as_json: bool,
    faults: Sequence[str] = (),
) -> None:
    """Write and print a result whose text for people is a list of facts.

    Args:
        report: of `new_report`.
        facts: names and values, for people.
        faults: what must not be, one sentence each.
    Raises:
        BenchError: there are faults, or the file cannot be written.
    """
    write_and_print(report, lambda: print_facts(title, facts), out, as_json)
    if faults:
        raise BenchError("; ".join(faults))


def write_and_print(
    report: Mapping[str, Any],
    print_text: Callable[[], None],
    out: Path | None,
    as_json: bool,
    *,
    table: str | None = None,
) -> None:
    """Write a result, and print it in any case: a full disk loses no measurement.

    Args:
        report: of `new_report`.
        print_text: prints the result for people.
        table: of the result, written into the file of the name of `out` that ends in .md.
    Raises:
        BenchError: a file cannot be written.
    """
    try:
        if out is not None:  # first, as standard output may be closed or full
            keep(out, report)
            if table is not None:
                keep_text(out.with_suffix(TABLE), table)
    finally:
        if as_json:
            print_json(report)
        else:
            print_text()
