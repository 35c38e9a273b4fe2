"""`heatline bench recipes`."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatline.bench.commands.common import data_sets_options, number_option, report_line
from heatline.bench.commands.peers import PEERS_PYTHON
from heatline.bench.result_file import RESULTS, claim, keep_text
from heatline.edge.cli.output import print_json
from heatline.edge.errors import BenchError
from heatline.edge.util.extras import require_extra

if TYPE_CHECKING:
    from heatline.bench.recipes.recipes import Recipe

TABLES, CURVES = "tables.md", "few-pictures.svg"
OURS = ("heatline", "good-only", "finetune", "study", "bank", "difference")
EXAMPLE = "heatline bench recipes --data data --set kolektorsdd --recipe heatline --recipe bank --seed 0"


@click.command(epilog=f"Example: {EXAMPLE}")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_sets_options
@click.option(
    "--recipe",
    "recipes_",
    type=click.Choice([*OURS, "patchcore", "padim", "supersimplenet"]),
    multiple=True,
    default=("heatline",),
    show_default=True,
    help="May be repeated.",
)
@number_option("--seed", "seeds", (0, 1, 2), "Of folds and training")
@number_option("--fold", "folds", (), "Evaluate these folds only")
@click.option(
    "--annotated",
    type=click.IntRange(min=1),
    help="Number of defective pictures that train by their masks, drawn by the seed; the others have a label only.  "
    "[default: all]",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=1),
    multiple=True,
    help="Number of pictures that train heatline, drawn by the seed from all folds but one, which tests; may be "
    "repeated.",
)
@click.option(
    "--peers-python",
    type=click.Path(path_type=Path),
    default=PEERS_PYTHON,
    help="Python that has anomalib. Default: that of `make peers-env`.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    help="Longest training of supersimplenet, per fold.",
)
@click.option(
    "--timed",
    is_flag=True,
    help="Compare the speed of anomalib's graphs with heatline's; run nothing else on the machine.",
)
@click.option(
    RESULTS,
    type=click.Path(path_type=Path),
    default="bench/results/recipes",
    show_default=True,
    help="Folder of results, a file for each set, recipe and overrides, and of tables.md.",
)
def recipes(
    overrides: tuple[str, ...],
    data: Path,
    sets: Path | None,
    names: tuple[str, ...],
    recipes_: "tuple[Recipe, ...]",
    seeds: tuple[int, ...],
    folds: tuple[int, ...],
    annotated: int | None,
    pictures: tuple[int, ...],
    peers_python: Path,
    minutes: float,
    timed: bool,
    work: Path,
    results: Path,
    as_json: bool,
) -> None:
    """Evaluate recipes by grouped cross-validation on data sets with masks, and write tables of all figures.

    heatline is cross-validated as by `heatline train`; finetune, study, and heatline by good pictures only (good-only),
    are trained once without each of the same folds. bank is a memory bank of good features; difference is the plain
    difference to the reference; patchcore, padim and supersimplenet are anomalib's, on the same trunk. KEY=VALUE... are
    those of `heatline train`, for every recipe; truth=labels trains by the labels of whole pictures, and is evaluated
    by masks too. With --pictures, heatline is trained on so many pictures of the other folds, sets its threshold by
    them as a user's training does, and few-pictures.svg shows what it finds and rejects of the fold.

    The same command continues after an interruption; further seeds, folds and recipes are added to the results.
    """
    if pictures and (set(recipes_) != {"heatline"} or annotated is not None):
        raise click.UsageError("--pictures is for the recipe heatline, without --annotated")
    require_extra("train")
    if timed:
        require_extra("export")
    from heatline.bench.recipes.anomalib_models import Peers
    from heatline.bench.recipes.few_pictures import draw_few_pictures, few_pictures_tables, points_of
    from heatline.bench.recipes.recipes import Measurement, read_all
    from heatline.bench.recipes.rows import tables
    from heatline.bench.recipes.sets import SHIPPED, read_sets

    known = read_sets(sets or SHIPPED)
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{results} cannot be made ({error.strerror}); name another folder with {RESULTS}") from error
    claim(results / TABLES, option=RESULTS)
    for one in read_sets(sets or SHIPPED, names):
        for recipe, count in product(recipes_, pictures or (None,)):
            peers = Peers(peers_python, minutes, timed)
            Measurement(
                one, recipe, overrides, data, work, results, folds, annotated, count, peers, report_line
            ).measure(seeds)
    found = read_all(results)
    text = tables(found, {one.name: one.targets for one in known})
    if points := points_of(found):
        text += "\n\n".join(["\n## Few pictures", *few_pictures_tables(points)]) + "\n"
        draw_few_pictures(points, results / CURVES)
    keep_text(results / TABLES, text, option=RESULTS)
    if as_json:
        print_json({"tables": str(results / TABLES), "results": [f"{one.set}: {one.name}" for one in found]})
    else:
        click.echo(f"the tables of {len(found)} results are in {results / TABLES}")
