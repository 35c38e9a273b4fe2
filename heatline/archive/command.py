"""`heatline archive`: pictures without a line, with many processes."""

import time
from pathlib import Path
from typing import Any

import click

from heatline.edge.bundle import open_bundle
from heatline.edge.cli.output import (
    CommandGroup,
    engine_option,
    facts_of,
    json_option,
    precision_option,
    print_report,
    progress_bar,
    say,
)
from heatline.edge.errors import InputError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.util.extras import require_extra
from heatline.edge.util.text import format_count, on_one_line

LINE_SECONDS = 30.0
"""How often a line is printed if standard error is not a terminal."""


@click.group(cls=CommandGroup, epilog="Example: heatline archive inspect boards.bundle photos/ --out judged/")
def archive() -> None:
    """Inspect archives of pictures on all cores of this machine, or of many."""


@archive.command(
    "inspect",
    epilog="Example: heatline archive inspect new.bundle photos/ --out judged/ --against old.bundle",
)
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option(
    "--out", "dest", required=True, metavar="DEST", type=click.Path(path_type=Path), help="Folder of plan and verdicts."
)
@click.option(
    "--against", metavar="OLD", type=click.Path(path_type=Path), help="Also inspect with the bundle OLD, and compare."
)
@click.option(
    "--address", metavar="ADDRESS", help="Ray cluster: ray://HOST:PORT, or HOST:PORT of one with this machine."
)
@click.option("--workers", type=click.IntRange(min=1), help="Largest number of processes. Default: one per processor.")
@engine_option
@precision_option
@json_option
def inspect_archive(
    bundle_path: Path,
    source: Path,
    dest: Path,
    against: Path | None,
    address: str | None,
    workers: int | None,
    kind: EngineKind,
    precision: Precision,
    as_json: bool,
) -> None:
    """Inspect the pictures of SOURCE with one process per core, and write the verdicts to DEST as Parquet.

    SOURCE is a folder, a .txt file of paths, or a Parquet table with a column picture. The same command continues what
    was interrupted. A picture that cannot be inspected gets NO_VERDICT, and the exit code is then 9.
    """
    require_extra("cluster")
    bundles = [open_bundle(path) for path in (bundle_path, against) if path is not None]
    if len({bundle.digest for bundle in bundles}) < len(bundles):
        raise InputError(f"{against} is the same bundle as {bundle_path}; name another one with --against")
    from heatline.archive import run  # imported here, as it needs the extra

    due_s = 0.0
    with progress_bar() as bars:
        task = bars.add_task("", visible=False)

        def show(done: int, of: int, unjudged: int) -> None:
            """Show on standard error how many are inspected: a bar on a terminal, else a line now and then."""
            nonlocal due_s
            more = f"{unjudged} without verdict"
            bars.update(task, description=f"pictures, {more}", completed=done, total=of, visible=True)
            if not bars.console.is_terminal and (done == of or time.monotonic() >= due_s):
                due_s = time.monotonic() + LINE_SECONDS
                _say(f"pictures: {done} of {of}, {more}")

        found = run.inspect_archive(
            bundles,
            source,
            dest,
            _say,
            show,
            address=address,
            workers=workers,
            engine=kind,
            precision=precision,
        )
    title = f"{found['dest']} holds {format_count(found['pictures'], 'picture')}"
    flips = ["{was} to {verdict}: {picture}".format(**row) for row in found["worst"]]
    print_report(found, as_json, title, _facts(found), notes=flips)
    unjudged = sum(counts["no_verdict"] for counts in found["bundles"].values())
    if unjudged:
        raise InputError(
            f"{format_count(unjudged, 'row')} of {found['dest']} got no verdict; the columns reason and detail say why"
        )


def _say(sentence: str) -> None:
    say(on_one_line(sentence), err=True)


def _facts(found: dict[str, Any]) -> dict[str, object]:
    facts: dict[str, object] = {"inspected now": format_count(found["inspected"], "picture")}
    for counts in found["bundles"].values():
        name = "{name} {version}".format(**counts) + " ({path})".format(**counts) * (found["against"] is not None)
        facts[name] = "{defect} DEFECT, {good} GOOD, {no_verdict} NO_VERDICT".format(**counts)
    if (changes := found["against"]) is not None:
        escapes = _describe_mistakes(changes["escapes"], "defective")
        false_rejects = _describe_mistakes(changes["false_rejects"], "good")
        facts |= facts_of(changes, escapes=escapes, false_rejects=false_rejects)
    return facts


def _describe_mistakes(mistakes: dict[str, int] | None, label: str) -> str:
    if mistakes is None:
        return f"not known: no picture with the label {label} has a verdict"
    pictures = format_count(mistakes["pictures"], f"{label} picture")
    return "{added} new, {removed} gone; {new} instead of {old} of ".format(**mistakes) + pictures
