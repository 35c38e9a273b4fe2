"""`heatline archive`: many pictures, with many processes."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.group import CommandGroup
from edge.cli.options import engine_option, precision_option
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import InputError
from edge.inference import EngineKind, Precision
from edge.util.text import format_count, on_one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

    from edge.archive.run import Inspected


@click.group(cls=CommandGroup, epilog="Example: heatline archive inspect boards.bundle photos/ --out judged/")
def archive() -> None:
    """Inspect archives of pictures on all cores of this machine, or of many."""


@archive.command(
    epilog="Example: heatline archive inspect new.bundle 'photos/**/*.png' --out judged/ --against old.bundle"
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
def inspect(
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
    require_extra("cluster", "ray", "pyarrow", "jinja2")
    bundles = [open_bundle(path) for path in (bundle_path, against) if path is not None]
    if len({bundle.digest for bundle in bundles}) < len(bundles):
        raise InputError(f"{against} is the same bundle as {bundle_path}; name another one with --against")
    from edge.archive.run import inspect_archive  # imported here, as it needs the extra

    with _Progress() as progress:
        found = inspect_archive(
            bundles,
            source,
            out,
            progress,
            address=address,
            workers=workers,
            engine=kind,
            precision=precision,
            worst=worst,
        )
    if as_json:
        print_json(found)
    else:
        print_facts(f"{found.dest} holds {format_count(found.pictures, 'picture')}", _facts(found))
    unjudged = sum(counts.no_verdict for counts in found.bundles.values())
    if unjudged:
        raise InputError(
            f"{format_count(unjudged, 'row')} of {found.dest} got no verdict; the columns reason and detail say why"
        )


def _facts(found: "Inspected") -> dict[str, object]:
    facts: dict[str, object] = {"inspected now": format_count(found.inspected, "picture")}
    return facts | {
        f"{counts.name} {counts.version}": f"{counts.defect} DEFECT, {counts.good} GOOD, {counts.no_verdict} NO_VERDICT"
        for counts in found.bundles.values()
    }


class _Progress:
    """Shows on standard error what happens: sentences, and a bar if it is a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = progress_console()
        self._bar = Progress(
            *(TextColumn("pictures"), BarColumn(), MofNCompleteColumn()),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[unjudged]} without verdict, {task.fields[workers]} at work"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def say(self, sentence: str) -> None:
        click.echo(on_one_line(sentence), err=True)

    def progress(self, pictures: int, of: int, unjudged: int, workers: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=of, rate="", unjudged=0, workers="")
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=pictures,
            rate="" if speed is None else f"{speed:.1f} pictures/s",
            unjudged=unjudged,
            workers=format_count(workers, "worker"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
