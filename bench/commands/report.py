"""`heatline bench report`."""

from pathlib import Path

import click

from heatline.edge.cli.output import json_option, print_json, visible
from heatline.edge.util.extras import require_extra
from heatline.edge.util.text import format_count, is_are

RESULTS = Path(__file__).parents[1] / "results"


@click.command(epilog="Example: heatline bench report bench/results --to bench-report")
@click.argument("paths", nargs=-1, metavar="[FILE|FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-report"),
    show_default=True,
    help="Folder for report.html and report.md; created if needed.",
)
@json_option
def report(paths: tuple[Path, ...], folder: Path, as_json: bool) -> None:
    """Turn result files into one page with plots, and into Markdown. Needs the extra `bench`.

    FILE is the --out of a bench, or an evaluation.json of `heatline evaluate`; a FOLDER is searched for such files.
    Default: the results of a checkout. Files that cannot be used are named and left out.
    """
    require_extra("bench")
    from heatline.bench.report.write import make_report, write_report

    made = make_report(paths or (RESULTS,))
    page, tables = write_report(made, folder)
    for sentence in made.unusable if paths else ():
        click.echo(visible(f"left out: {sentence}"), err=True)
    if as_json:
        print_json({"page": str(page), "tables": str(tables), "files": made.files, "left_out": made.unusable})
        return
    files = f"{made.files} file{'s' * (made.files != 1)}"
    click.echo(f"the report of {files} is in {page}, its tables in {tables}", err=True)
    if made.unusable and not paths:  # of benches that this version does not have
        others = format_count(len(made.unusable), "other file")
        click.echo(
            f"{others} of {RESULTS} {is_are(len(made.unusable))} not for this report; the page says why", err=True
        )
