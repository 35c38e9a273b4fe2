"""`heatline bench robustness`."""

from pathlib import Path

import click

from bench.commands.common import data_sets_options, number_option, say
from bench.machine import machine
from bench.result_file import claim, keep, keep_text, new_report
from edge.cli.extras import require_extra
from edge.cli.output import print_json

EXAMPLE = "heatline bench robustness --data data --set bsdata --set kolektorsdd"
OUT = "bench/results/robustness.json"


@click.command(epilog=f"Example: {EXAMPLE}")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_sets_options
@number_option("--seed", "seeds", (0,), "Of folds and training")
@number_option("--fold", "folds", (0,), "Of five, to be inspected")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=OUT,
    show_default=True,
    help="For figures, and a table beside it.",
)
def robustness(
    overrides: tuple[str, ...],
    data: Path,
    sets: Path | None,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    folds: tuple[int, ...],
    work: Path,
    out: Path,
    as_json: bool,
) -> None:
    """Compare verdicts and regions of frames with those of the same frames brighter, darker, defocused and moved.

    The default recipe is trained and exported without a fold of each data set, and the bundle inspects the frames of
    the fold as a line does. KEY=VALUE... are those of `heatline train`. A set that --out has with the same settings is
    not measured again.
    """
    require_extra("export", "torch", "timm", "hydra", "onnx", "onnxscript")
    from bench.recipes.sets import SHIPPED, read_sets, that_change_figures
    from bench.robustness import FRAMES, RobustnessResult, Settings, measure, read_robustness, table

    beside = out.with_suffix(".md")
    claim(out, beside)
    asked = that_change_figures(overrides)
    settings = Settings(seeds=sorted({*seeds}), folds=sorted({*folds}), frames=FRAMES, overrides=asked)
    found, now = {one.set: one for one in read_robustness(out)}, machine()
    report = new_report("robustness", now, RobustnessResult([*found.values()]))
    for one in read_sets(sets or SHIPPED, names):
        known = found.get(one.name)
        if known is not None and known.is_of(one.truth, settings):
            say(f"{one.name} is there")
            continue
        found[one.name] = measure(one, data, work, settings, overrides, say)
        report = new_report("robustness", now, RobustnessResult([*found.values()]))
        keep(out, report)
        keep_text(beside, table([*found.values()]))
    if as_json:
        print_json(report)
    else:
        click.echo(table([*found.values()]), nl=False)
