"""`heatline cameras`: which cameras there are, and what a line's cameras really send."""

import json
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from edge.cameras.listing import Found, list_all
from edge.cli.calibrate_camera import calibrate_camera
from edge.cli.finite_range import FiniteRange
from edge.cli.grab_words import grab_facts
from edge.cli.output import json_option, print_facts, print_json, progress_console, visible
from edge.config import load_config
from edge.errors import CameraError
from edge.grab.grab import Grab
from edge.grab.picture_saver import Saver
from edge.grab.report import Report
from edge.util.text import format_count

POLL_SECONDS = 0.05


@click.group(epilog="Example: heatline cameras list && heatline cameras grab line.toml -n 10")
def cameras() -> None:
    """Look for cameras, look at what they send, and calibrate what it must look like."""


cameras.add_command(calibrate_camera)


@cameras.command("list", epilog="Example: heatline cameras list --interface enp3s0")
@click.option("--interface", metavar="NAME", help="Network interface to ask. Default: all of them, and USB.")
@json_option
def list_(interface: str | None, as_json: bool) -> None:
    """List the cameras that are there, each with its keys for line.toml.

    GigE Vision cameras that answer a broadcast within a second, USB3 Vision cameras, and V4L2 devices. Finding none is
    no error.
    """
    listed = list_all(interface)
    if listed.missing is not None:
        click.echo(f"warning: {visible(listed.missing)}", err=True)
    if as_json:
        print_json(listed)
    elif listed.cameras:
        _print_found(listed.cameras)
    else:
        click.echo(
            "no camera was found; check power and cable, that this PC has an address in the camera's network, and that "
            "the firewall lets UDP from the camera in. One in another network does not answer, and can still be opened "
            "by its address"
        )


def _print_found(found: Sequence[Found]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("camera", "serial", "in line.toml"):
        table.add_column(heading, overflow="fold")
    for one in found:
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in one.keys.items())
        cells = f"{one.model}\n{one.protocol}", f"{one.serial}\n{one.physical}", keys
        table.add_row(*(escape(visible(cell)) for cell in cells))
    Console().print(table)


@cameras.command(epilog="Example: heatline cameras grab line.toml -n 100 --camera top --out first-look")
@click.argument("line", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(1, 99_999), default=10, show_default=True, help="Frames per camera.")
@click.option("--camera", "name", help="The only camera to grab from. Default: all, side by side.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("grabbed"),
    show_default=True,
    help="Folder for the pictures. What is in it stays.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, max=86400, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds from when a camera is open until it is given up.",
)
@json_option
def grab(line: Path, count: int, name: str | None, out: Path, timeout_s: float, as_json: bool) -> None:
    """Take frames from the cameras of LINE, save them, and print rate, jitter and losses. Needs no bundle.

    Saves CAMERA-NUMBER-FRAMEID.png as the line sees it: grey for Mono formats, else RGB. Bayer is saved demosaiced, and
    deeper formats keep their highest 8 bits. Where the line says where to look, CAMERA-area.png shows it. Software
    triggers are fired, hardware triggers are waited for.
    """
    settings = load_config(line).cameras
    chosen = [one for one in settings if name in (None, one.name)]
    if not chosen:
        raise click.UsageError(f"{line} has no camera {name}; it has {', '.join(one.name for one in settings)}")
    console = progress_console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        _Interruption() as interruption,
        Saver(out) as saver,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        grabs = [
            Grab(
                one,
                count,
                timeout_s,
                saver,
                counted=partial(progress.advance, progress.add_task(one.name, total=count)),
                say=partial(click.echo, err=True),
            )
            for one in chosen
        ]
        _run(grabs, lambda: interruption.came or saver.failed)
    report = Report(str(out), {one.name: one.report() for one in grabs})
    for camera, grabbed in report.cameras.items():
        for words in grabbed.warnings:
            click.echo(f"warning: camera {camera}: {visible(words)}", err=True)
    if as_json:
        print_json(report)
    else:
        for camera, grabbed in report.cameras.items():
            click.echo()
            print_facts(
                f"camera {camera}: {grabbed.frames} of {format_count(count, 'frame')}", grab_facts(grabbed, out)
            )
    saver.check()
    if interruption.came:
        raise KeyboardInterrupt
    errors = [error for one in grabs if (error := one.error()) is not None]
    if errors:
        raise errors[0] if len(errors) == 1 else CameraError("; ".join(map(str, errors)))


def _run(grabs: Sequence[Grab], stop: Callable[[], bool]) -> None:
    """Grab from all side by side, until they have ended or are to stop."""
    with ThreadPoolExecutor(len(grabs)) as side_by_side:
        left = running = {side_by_side.submit(one.run) for one in grabs}
        while left:
            done, left = wait(left, POLL_SECONDS, FIRST_EXCEPTION)
            if stop() or any(one.exception() for one in done):
                for one in grabs:
                    one.stop()
                break
    for future in running:
        future.result()


class _Interruption:
    """Ctrl-C ends a grab in order, with what it has; a second one ends the command there and then."""

    came = False

    def __enter__(self) -> "_Interruption":
        self._before = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _first(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
