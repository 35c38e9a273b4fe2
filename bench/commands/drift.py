"""`heatline bench drift`."""

from pathlib import Path

import click

from heatline.bench.commands.common import TABLE, out_with_table_option, report_line, write_and_print
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.bundle import open_bundle
from heatline.edge.calibration.recalibration import GoodPictures
from heatline.edge.cli.output import json_option


@click.command(epilog="Example: heatline bench drift boards.bundle good/late --out drift.json")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("good", metavar="GOOD_FRAMES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order of the frames.")
@out_with_table_option
@json_option
def drift(bundle_path: Path, good: tuple[Path, ...], seed: int, out: Path | None, as_json: bool) -> None:
    """Measure when a line with BUNDLE warns of dimmed light, lost focus and a shifted part.

    GOOD_FRAMES are pictures of good parts, or folders of them, that BUNDLE was not calibrated on. They are changed more
    and more: prints the change at the first warning, and at the first false reject. If they are larger than the frames
    that BUNDLE was calibrated on, a shift moves the frame over them; otherwise it mirrors the border.
    """
    from heatline.bench.drift import measure, table

    if out is not None:
        claim(out, out.with_suffix(TABLE))
    now = machine()
    found = measure(open_bundle(bundle_path), GoodPictures(good).files, seed, report_line)
    text = table(found)
    summary = (
        f"{found.good} of {found.frames} frames are GOOD unchanged; {found.orders_with_warning} of {found.orders} "
        "orders of the unchanged frames gave a warning\n"
    )
    write_and_print(
        new_report("drift", now, found), lambda: click.echo(f"{summary}\n{text}", nl=False), out, as_json, table=text
    )
