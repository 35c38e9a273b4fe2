"""`heatline bench reference`."""

from pathlib import Path

import click

from heatline.bench.commands.common import FrameSize, out_with_table_option, report_line, write_and_print
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.cli.output import json_option
from heatline.edge.inference import Precision
from heatline.edge.util.extras import require_extra


@click.command(epilog="Example: taskset -c 1 heatline bench reference --size 2448x2048 --out reference.json")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=FrameSize(),
    default=("2448x2048", "640x640"),
    show_default=True,
    help="Of frames; repeatable.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["f32", "bf16", "int8"]),
    multiple=True,
    default=("f32", "bf16", "int8"),
    show_default=True,
    help="Of the graph; repeatable.",
)
@out_with_table_option
@json_option
def reference(
    overrides: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    precisions: tuple[Precision, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Time what a reference costs: alignment and differences of a frame, and the second input of the graph.

    All of it runs on one core: name one with taskset, and run nothing else there. Frames are drawn, and the model is
    the default one with an untrained head; KEY=VALUE... are those of `heatline train`, for another model or other
    tiles.
    """
    require_extra("export")
    from heatline.bench.reference_cost import measure, table
    from heatline.train.compose import compose

    if out is not None:
        claim(out, out.with_suffix(".md"))
    now = machine()
    found = measure(compose(["data=.", "recipe=heatline", *overrides]), precisions, sizes, report_line)
    text = table(found)
    write_and_print(new_report("reference", now, found), lambda: click.echo(text, nl=False), out, as_json, table=text)
