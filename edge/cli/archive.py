"""`heatline inspect` and `heatline archive`: pictures without a line, in this process or with many."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.cli.output import (
    CommandGroup,
    engine_option,
    json_option,
    make_empty,
    precision_option,
    print_json,
    print_report,
    progress_bar,
    say,
)
from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import png
from heatline.edge.images import list_images
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import replacing, writing
from heatline.edge.util.text import format_count, on_one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from heatline.edge.archive.results import Inspected

LINE_SECONDS = 30.0
"""How often a line is printed if standard error is not a terminal."""


@click.command(epilog="Example: heatline inspect boards.bundle photos/ --out found/")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New folder for pictures and verdicts.jsonl."
)
@engine_option
@precision_option
@json_option
def inspect(
    bundle_path: Path, images: tuple[Path, ...], out: Path, kind: EngineKind, precision: Precision, as_json: bool
) -> None:
    """Inspect IMAGES, files or folders of them, without a line.

    Writes one picture per image with its heatmap and regions, and one event per image to verdicts.jsonl, as JSON.
    An image that cannot be inspected gets NO_VERDICT, and the exit code is then 9.
    """
    files = [file for path in images for file in (list_images(path) if os.path.isdir(path) else [path])]
    bundle = open_bundle(bundle_path)
    inspector = BundleInspector(bundle, open_verified_engine(bundle, kind, precision))
    unjudged = 0
    with inspector, writing(out):
        make_empty(out, "--out")
        with (out / "verdicts.jsonl").open("wb") as lines:
            for result in inspector.inspect_all(files):
                event = result.event
                lines.write(msgspec.json.encode(event) + b"\n")
                lines.flush()
                unjudged += result.verdict == "NO_VERDICT"
                if result.has_overlay:
                    name = f"{event.frame_id:05d}_{Path(str(event.source)).stem}.png"
                    with replacing(out / name) as new:
                        new.write_bytes(png(result.overlay()))
                print_json(event) if as_json else click.echo(str(result))
    if unjudged:
        raise InputError(f"{unjudged} of {format_count(len(files), 'image')} got no verdict; the reasons are above")


@click.group(cls=CommandGroup, epilog="Example: heatline archive inspect boards.bundle photos/ --out judged/")
def archive() -> None:
    """Inspect archives of pictures on all cores of this machine, or of many."""


@archive.command(
    "inspect",
    epilog="Example: heatline archive inspect new.bundle 'photos/**/*.png' --out judged/ --against old.bundle",
)
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("source", metavar="SOURCE")
@click.option("--out", required=True, metavar="DEST", help="Folder or URI for verdicts, plan and report.")
@click.option(
    "--against", metavar="OLD", type=click.Path(path_type=Path), help="Also inspect with the bundle OLD, and compare."
)
@click.option(
    "--address", metavar="ADDRESS", help="Ray cluster: ray://HOST:PORT, or HOST:PORT of one with this machine."
)
@click.option("--workers", type=click.IntRange(min=1), help="Largest number of processes. Default: one per processor.")
@click.option(
    "--worst", type=click.IntRange(min=0), default=50, show_default=True, help="Number of pictures in the report."
)
@engine_option
@precision_option
@json_option
def inspect_archive(
    bundle_path: Path,
    source: str,
    out: str,
    against: Path | None,
    address: str | None,
    workers: int | None,
    worst: int,
    kind: EngineKind,
    precision: Precision,
    as_json: bool,
) -> None:
    """Inspect the pictures of SOURCE with one process per core, and write the verdicts to DEST as Parquet.

    SOURCE is a folder, a quoted glob, a .txt file of paths, or a Parquet table with a column picture; on this machine
    or at a URI such as s3://bucket/photos. The same command continues what was interrupted. A picture that cannot be
    inspected gets NO_VERDICT, and the exit code is then 9.
    """
    require_extra("cluster")
    bundles = [open_bundle(path) for path in (bundle_path, against) if path is not None]
    if len({bundle.digest for bundle in bundles}) < len(bundles):
        raise InputError(f"{against} is the same bundle as {bundle_path}; name another one with --against")
    from heatline.edge.archive import run  # imported here, as it needs the extra

    with progress_bar() as bars:
        found = run.inspect_archive(
            bundles,
            source,
            out,
            ArchiveProgress(bars),
            address=address,
            workers=workers,
            engine=kind,
            precision=precision,
            worst=worst,
        )
    print_report(found, as_json, f"{found.dest} holds {format_count(found.pictures, 'picture')}", _facts(found))
    unjudged = sum(counts["no_verdict"] for counts in found.bundles.values())
    if unjudged:
        raise InputError(
            f"{format_count(unjudged, 'row')} of {found.dest} got no verdict; the columns reason and detail say why"
        )


class ArchiveProgress:
    """Shows on standard error how far an inspection is: bars on a terminal, else a line now and then."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._printed_s = 0.0

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        say(on_one_line(sentence), err=True)

    def progress(self, what: str, done: int, of: int, more: str) -> None:
        """Show how many are done."""
        is_first = what not in self._tasks
        if is_first:
            self._tasks[what] = self._bars.add_task(what, total=of)
        self._bars.update(self._tasks[what], description=f"{what}, {more}", completed=done)
        is_due = is_first or done == of or time.monotonic() - self._printed_s >= LINE_SECONDS
        if is_due and not self._bars.console.is_terminal:
            self._printed_s = time.monotonic()
            self.say(f"{what}: {done} of {of}, {more}")


def _facts(found: "Inspected") -> dict[str, object]:
    facts: dict[str, object] = {"inspected now": format_count(found.inspected, "picture")}
    for counts in found.bundles.values():
        name = "{name} {version}".format(**counts) + " ({path})".format(**counts) * (found.against is not None)
        facts[name] = "{defect} DEFECT, {good} GOOD, {no_verdict} NO_VERDICT".format(**counts)
    return facts | ({} if found.against is None else _changes(found.against)) | {"report": found.report}


def _changes(changes: dict[str, Any]) -> dict[str, object]:
    """Return what a changeover would change."""
    facts: dict[str, object] = {
        "other verdict": f"{changes['flips']} of {format_count(changes['compared'], 'picture')}",
        "DEFECT to GOOD": changes["defect_to_good"],
        "GOOD to DEFECT": changes["good_to_defect"],
        "verdict lost": changes["lost"],
        "verdict gained": changes["gained"],
    }
    for key, name, label in (
        ("escapes", "new escapes", "defective"),
        ("false_rejects", "new false rejects", "good"),
    ):
        if mistakes := changes[key]:
            pictures = format_count(mistakes["pictures"], f"{label} picture")
            facts[name] = f"{mistakes['added']} of {pictures}; in all {mistakes['new']} instead of {mistakes['old']}"
        else:
            facts[name] = f"not known: no picture with the label {label} has a verdict"
    if others := changes["other_files"]:
        facts["not compared"] = f"{format_count(others, 'picture')}, whose content changed between the runs"
    return facts
