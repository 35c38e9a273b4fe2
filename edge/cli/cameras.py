"""`heatline cameras`: finds cameras, and saves and measures what a line's cameras send."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import click

from heatline.edge.cameras.discovery import Found, list_all
from heatline.edge.cameras.grab import Grab, Grabbed, Loss, writers
from heatline.edge.cli.calibrate import calibrate_camera
from heatline.edge.cli.output import (
    CommandGroup,
    FiniteRange,
    Rows,
    json_option,
    print_facts,
    print_json,
    print_report,
    print_warnings,
    progress_bar,
)
from heatline.edge.config import load_config
from heatline.edge.errors import CameraError
from heatline.edge.geometry import TileGrid
from heatline.edge.util.text import format_count, is_are

POLL_SECONDS = 0.05
NONE_FOUND = (
    "no camera was found; check power and cable, that this PC has an address in the camera's network, and that the "
    "firewall accepts UDP from the camera. A camera in another network does not answer, but can be opened by its "
    "address"
)
ALWAYS_SHOWN = "lost_by_camera", "incomplete"


@click.group(cls=CommandGroup, epilog="Example: heatline cameras list && heatline cameras grab line.toml -n 10")
def cameras() -> None:
    """Find cameras, grab frames, and set what frames must look like."""


cameras.add_command(calibrate_camera)


@cameras.command("list", epilog="Example: heatline cameras list --interface enp3s0")
@click.option("--interface", metavar="NAME", help="Network interface to ask. Default: all of them, and USB.")
@json_option
def list_(interface: str | None, as_json: bool) -> None:
    """List the connected cameras, each with its keys for line.toml.

    Finds GigE Vision cameras that answer a broadcast within a second, USB3 Vision cameras, and V4L2 devices. The exit
    code is 0 also if there are none.
    """
    listed = list_all(interface)
    print_warnings([] if listed.missing is None else [listed.missing])
    rows = Rows(("camera", "serial", "in line.toml"), [_cells(each) for each in listed.cameras])
    print_report(listed, as_json, "" if listed.cameras else NONE_FOUND, rows=rows)


def _cells(one: Found) -> tuple[str, str, str]:
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in one.keys.items())
    return f"{one.model}\n{one.protocol}", f"{one.serial}\n{one.physical}", keys


@cameras.command(epilog="Example: heatline cameras grab line.toml -n 100 --camera top --out first-look")
@click.argument("line", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(1, 99_999), default=10, show_default=True, help="Frames per camera.")
@click.option("--camera", "name", help="The only camera to grab from. Default: all at the same time.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("grabbed"),
    show_default=True,
    help="Folder for the pictures. Its files stay: the numbers of new pictures follow those that are there.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=0, max=86400, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds per camera, from when it is open, until the command stops waiting for its frames.",
)
@json_option
def grab(line: Path, count: int, name: str | None, out: Path, timeout_s: float, as_json: bool) -> None:
    """Take frames from the cameras of LINE, save them, and print rate, jitter and losses. Needs no bundle.

    Saves CAMERA-NUMBER-FRAMEID.png as the line sees it: grey for Mono formats, else RGB. Bayer is saved demosaiced, and
    deeper formats keep their highest 8 bits. CAMERA-area.png shows the region of interest, if the camera has one.
    Fires software triggers, and waits for hardware triggers.
    """
    settings = load_config(line).cameras
    chosen = [one for one in settings if name in (None, one.name)]
    if not chosen:
        raise click.UsageError(f"{line} has no camera {name}; it has {', '.join(one.name for one in settings)}")
    stopping = threading.Event()
    with writers() as pool, progress_bar() as progress:
        grabs = [Grab(one, count, timeout_s, out, pool, stopping) for one in chosen]
        for one in grabs:
            if one.trigger_line is not None:
                click.echo(f"camera {one.name} waits for edges on its {one.trigger_line}", err=True)
        bars = [partial(progress.advance, progress.add_task(one.name, total=count)) for one in grabs]
        interrupted = _run(grabs, bars, stopping)
    reports = {one.name: one.report() for one in grabs}
    for camera, grabbed in reports.items():
        print_warnings(f"camera {camera}: {warning}" for warning in grabbed.warnings)
    if as_json:
        print_json({"out": str(out), "cameras": reports})
    for camera, grabbed in {} if as_json else reports.items():
        print_facts(f"\ncamera {camera}: {grabbed.frames} of {format_count(count, 'frame')}", _facts(grabbed, out))
    for one in grabs:
        if (error := one.disk_error()) is not None:
            raise error
    if interrupted:
        raise KeyboardInterrupt
    errors = [one.failure for one in grabs if one.failure is not None]
    if errors:
        raise errors[0] if len(errors) == 1 else CameraError("; ".join(map(str, errors)))


def _run(grabs: Sequence[Grab], bars: Sequence[Callable[[], None]], stopping: threading.Event) -> bool:
    """Grab from all cameras at the same time, until all have ended, the disk is full or Ctrl-C; return whether it was
    Ctrl-C. A second Ctrl-C ends the command at once.
    """
    interrupted = False
    with ThreadPoolExecutor(len(grabs)) as executor:
        running = list(map(executor.submit, [one.run for one in grabs], bars))
        try:
            while wait(running, POLL_SECONDS).not_done and not any(one.disk_error() for one in grabs):
                pass
        except KeyboardInterrupt:
            interrupted = True
        finally:
            stopping.set()
    for one in running:
        one.result()
    return interrupted


def _facts(grabbed: Grabbed, out: Path) -> dict[str, object]:
    """Return the known facts about a camera's frames.

    Args:
        out: the folder of the pictures.
    """
    if grabbed.found is None:
        return {"problem": grabbed.problem}
    formats = [f"{frames} of {kind}" for kind, frames in grabbed.formats.items()]
    area = grabbed.area
    return {
        "problem": grabbed.problem,
        "found": grabbed.found,
        "frames": ", ".join(formats) or "none",
        "rate": _describe_rate(grabbed),
        "jitter": None
        if grabbed.jitter_ms is None
        else f"{grabbed.jitter_ms:.3f} ms standard deviation, {grabbed.worst_jitter_ms:.3f} ms at worst, by arrival",
        "losses": _describe_losses(grabbed),
        "died": "; ".join(grabbed.died) or None,
        "counters": ", ".join(f"{name} {count}" for name, count in grabbed.counters.items()) or None,
        "saved": _describe_saved(grabbed, out),
        "area": area
        and f"{out / area.file}: {area.tiles_looked_at} of {format_count(area.tiles, 'tile')} "
        f"{is_are(area.tiles_looked_at)} inspected, for tiles of {TileGrid.tile_px} px",
    }


def _describe_rate(grabbed: Grabbed) -> str:
    rate = "unknown" if grabbed.rate_fps is None else f"{grabbed.rate_fps:.4g} frames/s"
    if grabbed.trigger != "free":
        return f"{rate}, by {grabbed.trigger} trigger"
    return f"{rate}, set to {'no rate' if grabbed.rate_set_fps is None else f'{grabbed.rate_set_fps:.4g}'}"


def _describe_losses(grabbed: Grabbed) -> str:
    none = {reason: Loss(0, "") for reason in ALWAYS_SHOWN if grabbed.ids_show_gaps}
    parts = [
        f"{reason} {one.frames}" + f": {one.detail}" * bool(one.frames)
        for reason, one in (none | grabbed.losses).items()
    ]
    if not grabbed.ids_show_gaps:
        parts.append("its frame ids show no gaps, so frames that the camera itself loses are not counted")
    return "; ".join(parts)


def _describe_saved(grabbed: Grabbed, out: Path) -> str:
    if not grabbed.saved:
        return "none"
    first, last = grabbed.saved[0], grabbed.saved[-1]
    return f"{len(grabbed.saved)}: {out / first}" + (f" to {last}" if last != first else "")
