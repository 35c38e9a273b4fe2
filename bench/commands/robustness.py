"""`heatline bench robustness`."""

import contextlib
from pathlib import Path

import click
import msgspec

from heatline.bench.commands.common import (
    TABLE,
    data_sets_options,
    number_option,
    out_with_table_option,
    report_line,
    write_and_print,
)
from heatline.bench.machine import machine, without_flags
from heatline.bench.result_file import claim, keep, new_report, read_result
from heatline.edge.cli.options import FiniteRange
from heatline.edge.errors import BenchError
from heatline.edge.util.extras import require_extra

EXAMPLE = "heatline bench robustness --data data --set bsdata --set kolektorsdd --out robustness.json"


@click.command(epilog=f"Example: {EXAMPLE}")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_sets_options
@number_option("--seed", "seeds", (0,), "Of folds and training")
@number_option("--fold", "folds", (0,), "Of five, to be inspected")
@click.option(
    "--false-reject",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Wanted share of rejected good frames, as of heatline export.",
)
@out_with_table_option
def robustness(
    overrides: tuple[str, ...],
    data: Path,
    sets: Path | None,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    folds: tuple[int, ...],
    false_reject: float,
    work: Path,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare verdicts and regions of frames with those of the same frames brighter, darker, defocused, shifted and
    turned.

    The default recipe is trained and exported without a fold of each data set, and the bundle inspects the frames of
    the fold as a line does. If the model compares frames with a reference, each is compared with one that was not made
    of it. KEY=VALUE... are those of `heatline train`. A set that --out has with the same settings is
    not measured again, and what --out has by other settings stays there; the table shows one kind of settings.
    """
    require_extra("export")
    from heatline.bench.recipes.sets import SHIPPED, read_sets, that_change_figures
    from heatline.bench.robustness import FRAMES, RobustnessResult, Settings, measure, read_robustness, table

    if out is not None:
        claim(out, out.with_suffix(TABLE))
    settings = Settings(
        seeds=sorted({*seeds}),
        folds=sorted({*folds}),
        frames=FRAMES,
        overrides=that_change_figures(overrides),
        false_reject=false_reject,
    )
    now = machine()
    before = {} if out is None or not out.exists() else read_result(out)
    found = stored = RobustnessResult([] if out is None else read_robustness(out))
    for one in read_sets(sets or SHIPPED, names):
        if found.has(one.name, one.truth, settings):
            report_line(f"{one.name} is done")
            continue
        result = measure(one, data, work, settings, overrides, report_line)
        found = found.plus(msgspec.structs.replace(result, machine=without_flags(now)))
        if out is not None:
            with contextlib.suppress(BenchError):  # raised at the end, should there still be no room
                keep(out, new_report("robustness", now, found))
    text = table(found.by(settings))
    report = before if found == stored and before else new_report("robustness", now, found)
    write_and_print(report, lambda: click.echo(text, nl=False), out, as_json, table=text)
