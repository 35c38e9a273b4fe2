"""What the subcommands of `heatline bench` share: what is measured, and what becomes of a result."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.result_file import require_writable, write_result, write_whole
from edge.cli.output import print_facts, print_json
from edge.errors import BenchError

SHIPPED_BUNDLE = Path(__file__).parents[2] / "examples" / "drawn_boards" / "bundle"


def _named(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    if path == SHIPPED_BUNDLE and not path.is_dir():
        raise BenchError("the demo's bundle comes with a checkout of heatline alone; name a bundle")
    return path


bundle_argument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
optional_bundle_argument = click.argument(
    "bundle_path", metavar="[BUNDLE]", type=click.Path(path_type=Path), default=SHIPPED_BUNDLE, callback=_named
)
"""The demo's where none is named."""
precision_option = click.option(
    "--precision", type=click.Choice(["f32", "bf16", "int8"]), default="f32", show_default=True
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what came of it there, as JSON."
)
data_option = click.option(
    "--data", envvar="HEATLINE_DATA", required=True, type=click.Path(path_type=Path), help="Folder of all data sets."
)
sets_option = click.option(
    "--sets", type=click.Path(path_type=Path), help="YAML: the data sets.  [default: bench/recipes/sets.yaml]"
)
set_option = click.option("--set", "names", multiple=True, help="One of them; may be repeated. Default: all.")


def claim(*paths: Path | None) -> None:
    """See now that results can be written there, and not after minutes. What is there stays.

    Raises:
        BenchError: one cannot.
    """
    for path in filter(None, paths):
        try:
            require_writable(path)
        except OSError as error:
            raise _unwritable(path, error) from error


def keep(path: Path, report: Mapping[str, Any]) -> None:
    """Write a result.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        write_result(path, report)
    except OSError as error:
        raise _unwritable(path, error) from error


def keep_picture(path: Path, picture: str) -> None:
    """Write what was drawn of a result.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        write_whole(path, picture.encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def deliver(
    title: str,
    report: Mapping[str, Any],
    facts: Mapping[str, object],
    out: Path | None,
    as_json: bool,
    faults: Sequence[str] = (),
) -> None:
    """Say what came of a bench, and keep it where that is wanted.

    Args:
        report: of `new_report`.
        facts: the same for people.
        faults: what is not as it must be.
    Raises:
        BenchError: there are faults, or the file cannot be written.
    """
    try:
        if out is not None:  # first: whoever reads what is said may have gone, or have no room
            keep(out, report)
    finally:  # a full disk loses no measurement either
        if as_json:
            print_json(report)
        else:
            print_facts(title, facts)
    if faults:
        raise BenchError("; ".join(faults))


def _unwritable(path: Path, error: OSError) -> BenchError:
    return BenchError(f"{path} cannot be written ({error.strerror}); name another file with --out")
