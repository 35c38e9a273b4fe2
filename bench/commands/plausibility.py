"""`heatline bench plausibility`."""

from pathlib import Path

import click

from bench.commands.common import data_sets_options, number_option, say
from bench.machine import machine
from bench.result_file import claim, keep, keep_text, new_report
from edge.cli.extras import require_extra
from edge.cli.output import print_json

EXAMPLE = "heatline bench plausibility --data data --set bsdata --set kolektorsdd --seed 0"


@click.command(epilog=f"Example: {EXAMPLE}")
@data_sets_options
@number_option("--seed", "seeds", (0, 1, 2), "Of the folds")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="bench/results/plausibility.json",
    show_default=True,
    help="Write what came of it there, and a table beside it.",
)
def plausibility(
    data: Path,
    sets: Path | None,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    work: Path,
    out: Path,
    as_json: bool,
) -> None:
    """Count how many pictures that do not show the product are refused, and how many that do.

    Frames of each data set are spoilt: dark, overexposed, covered, defocused, at half scale; those of the other sets
    are another product. Each is held against what the frames of the other groups look like, as a bundle does it.
    """
    require_extra("export", "torch", "timm", "hydra", "onnx", "onnxscript")
    from bench.plausibility import FRAMES, measure, table
    from bench.recipes.sets import SHIPPED, read_sets

    beside = out.with_suffix(".md")
    claim(out, beside)
    described = machine()
    result = measure(read_sets(sets or SHIPPED, names), data, work, seeds, FRAMES, say)
    report = new_report("plausibility", described, result)
    keep(out, report)
    keep_text(beside, table(result))
    if as_json:
        print_json(report)
    else:
        click.echo(table(result), nl=False)
