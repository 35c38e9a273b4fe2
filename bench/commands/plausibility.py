"""`heatline bench plausibility`."""

from pathlib import Path

import click

from heatline.bench.commands.common import (
    TABLE,
    data_sets_options,
    number_option,
    out_with_table_option,
    report_line,
    write_and_print,
)
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.util.extras import require_extra

EXAMPLE = "heatline bench plausibility --data data --set bsdata --set kolektorsdd --out plausibility.json"


@click.command(epilog=f"Example: {EXAMPLE}")
@data_sets_options
@number_option("--seed", "seeds", (0, 1, 2), "Of the folds")
@out_with_table_option
def plausibility(
    data: Path,
    sets: Path | None,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    work: Path,
    out: Path | None,
    as_json: bool,
) -> None:
    """Count how many pictures that do not show the product are refused, and how many that do.

    Frames of each data set are made dark, overexposed, covered, defocused or smaller; frames of the other sets are
    another product. Others lose a band of pixels, or show a hand, a label or a part of another product. Each is
    compared with frames of the other groups, as a bundle does.
    """
    require_extra("export")
    from heatline.bench.plausibility import FRAMES, measure, table
    from heatline.bench.recipes.sets import SHIPPED, read_sets

    if out is not None:
        claim(out, out.with_suffix(TABLE))
    now = machine()
    result = measure(read_sets(sets or SHIPPED, names), data, work, seeds, FRAMES, report_line)
    text = table(result)
    report = new_report("plausibility", now, result)
    write_and_print(report, lambda: click.echo(text, nl=False), out, as_json, table=text)
