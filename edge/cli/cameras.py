"""`heatline cameras`: finds cameras, and saves what a line's cameras send."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import cv2
import msgspec

from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.discovery import list_all
from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.cameras.triggering import TriggerRequest
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
from heatline.edge.errors import CameraError, HeatlineError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.util.files import writing
from heatline.edge.util.text import format_count

STEP_SECONDS = 0.25
"""Longest wait for a frame, or after a trigger that brought none."""
WAITING_FRAMES = 64
"""Frames of a camera that may wait to be written; what comes then is lost as `overload`."""
OR_ELSE = ", or name another folder with --out"
NONE_FOUND = (
    "no camera was found; check power and cable, that this PC has an address in the camera's network, and that the "
    "firewall accepts UDP from the camera. A camera in another network does not answer, but can be opened by its "
    "address"
)


@click.group(cls=CommandGroup, epilog="Example: heatline cameras list && heatline cameras grab line.toml -n 10")
def cameras() -> None:
    """Find cameras, grab frames, and set what frames must look like."""


cameras.add_command(calibrate_camera)


@cameras.command("list", epilog="Example: heatline cameras list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the connected cameras, each with its keys for line.toml.

    Finds GigE Vision cameras that answer a broadcast within a second, USB3 Vision cameras, and V4L2 devices. The exit
    code is 0 also if there are none.
    """
    listed = list_all()
    print_warnings([] if listed.missing is None else [listed.missing])
    cells = []
    for each in listed.cameras:
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in each.keys.items())
        cells.append((f"{each.model}\n{each.protocol}", each.serial, keys))
    rows = Rows(("camera", "serial", "in line.toml"), cells)
    print_report(listed, as_json, "" if listed.cameras else NONE_FOUND, rows=rows)


class Loss(msgspec.Struct):
    """Frames that did not come, or cannot be used, for one reason."""

    detail: str
    """Detail of the first one."""
    frames: int = 0


class Grabbed(msgspec.Struct, kw_only=True):
    """Frames that one camera sent."""

    problem: str | None = None
    """Why fewer frames came than requested; None: all came."""
    found: str | None = None
    """Description of the camera; None: it could not be opened."""
    formats: dict[str, int] = {}
    """Number of frames by size and pixel format as the camera sent them."""
    rate_fps: float | None = None
    """Rate of the frames that came, by their arrival at the host; None: fewer than two came."""
    losses: dict[str, Loss] = {}
    """Losses by reason."""
    ids_show_gaps: bool = False
    """Whether frame ids show what the camera lost; otherwise such losses are not noticed."""
    counters: dict[str, int] = {}
    """Counters of the transport since the camera was opened, read at most a second before the end."""
    saved: list[str] = []
    """Names of the pictures."""


@cameras.command(epilog="Example: heatline cameras grab line.toml -n 100 --camera top --out first-look")
@click.argument("line", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(1, 99_999), default=10, show_default=True, help="Frames per camera.")
@click.option("--camera", "name", help="The only camera to grab from. Default: all at the same time.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("grabbed"),
    show_default=True,
    help="Folder for the pictures.",
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
    """Take frames from the cameras of LINE, save them, and print rate and losses. Needs no bundle.

    Saves CAMERA-TIME-FRAMEID.png as the line sees it: grey for Mono formats, else RGB. Bayer is saved demosaiced, and
    deeper formats keep their highest 8 bits. TIME is the capture, UTC. Fires software triggers, and waits for hardware
    triggers.
    """
    settings = load_config(line).cameras
    chosen = [one for one in settings if name in (None, one.name)]
    if not chosen:
        raise click.UsageError(f"{line} has no camera {name}; it has {', '.join(one.name for one in settings)}")
    with writing(out, or_else=OR_ELSE):
        out.mkdir(parents=True, exist_ok=True)
    opened = [
        SupervisedCamera(msgspec.structs.replace(one, waiting_frames=WAITING_FRAMES), lambda _: None) for one in chosen
    ]
    reports = {one.name: Grabbed() for one in chosen}
    try:
        with progress_bar() as progress, ThreadPoolExecutor(len(opened)) as threads:
            running = []
            for camera in opened:
                on_frame = partial(progress.advance, progress.add_task(camera.name, total=count))
                running.append(threads.submit(_grab, camera, count, timeout_s, out, reports[camera.name], on_frame))
            try:
                wait(running)
            finally:  # also after Ctrl-C
                for camera in opened:
                    camera.interrupt()
    finally:
        for camera in opened:
            camera.close()
    if as_json:
        print_json({"out": str(out), "cameras": reports})
    for camera_name, grabbed in {} if as_json else reports.items():
        title = f"\ncamera {camera_name}: {len(grabbed.saved)} of {format_count(count, 'frame')}"
        print_facts(title, _facts(grabbed, out))
    errors = [error for each in running if (error := each.result()) is not None]
    if errors:
        raise errors[0] if len(errors) == 1 else CameraError("; ".join(map(str, errors)))


def _grab(
    camera: SupervisedCamera, count: int, timeout_s: float, out: Path, grabbed: Grabbed, on_frame: Callable[[], None]
) -> HeatlineError | None:
    """Open a camera and save its frames; return why fewer came than requested."""
    failure: HeatlineError | None = None
    end = None
    arrived_ns = list[int]()
    try:
        opened = camera.open()
        if opened is not None:
            grabbed.found, grabbed.ids_show_gaps = opened.found, opened.ids_show_gaps
        for item in _items(camera, timeout_s):
            if isinstance(item, BadFrame):
                grabbed.losses.setdefault(item.reason, Loss(item.detail)).frames += item.stamp.frames
                continue
            arrived_ns.append(item.stamp.captured_monotonic_ns)
            kind = "{1}x{0} px {2}".format(*item.image.shape[:2], item.camera_format)
            grabbed.formats[kind] = grabbed.formats.get(kind, 0) + 1
            grabbed.saved.append(_save(item, out))
            on_frame()
            if len(grabbed.saved) == count:
                break
        else:
            end = f" within {timeout_s:g} s; raise --timeout, or check losses and trigger"
    except EndOfFrames:
        end = ", then it had no more; ask for fewer with -n, or set loop for this camera"
    except HeatlineError as error:
        failure = error
    state = camera.state()
    if end is not None:
        end = f", then it was dead ({state.reason}): {state.detail}" if state.state == "DEAD" else end
        frames = format_count(count, "frame")
        failure = CameraError(f"camera {camera.name}: {len(grabbed.saved)} of {frames} came{end}")
    if len(arrived_ns) > 1:
        grabbed.rate_fps = (len(arrived_ns) - 1) * 1e9 / (arrived_ns[-1] - arrived_ns[0])
    grabbed.problem = None if failure is None else str(failure)
    grabbed.counters = state.counters
    return failure


def _items(camera: SupervisedCamera, timeout_s: float) -> Iterator[Frame | BadFrame]:
    """Yield what a camera sends until the time limit. Software triggers are sent one by one."""
    answered = threading.Event()
    answered.set()
    item: Frame | BadFrame | None = None
    give_up = time.monotonic() + timeout_s
    while (left_s := give_up - time.monotonic()) > 0:
        # Not at once after a loss: a dead camera would refuse one trigger after the other.
        if camera.settings.triggered == "software" and answered.is_set() and not isinstance(item, BadFrame):
            answered.clear()
            camera.trigger(TriggerRequest(None, lambda _: answered.set()))
        item = camera.grab(min(left_s, STEP_SECONDS))
        if item is not None:
            yield item


def _save(frame: Frame, out: Path) -> str:
    """Save a frame, and release it; return the name of its file."""
    grey, stamp = frame.camera_format.startswith("Mono"), frame.stamp
    picture = cv2.extractChannel(frame.image, 0) if grey else cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    frame.release()
    taken = datetime.fromtimestamp(stamp.captured_at_ns / 1e9, UTC)
    name = f"{stamp.camera}-{taken:%Y%m%dT%H%M%S.%f}-{stamp.frame_id}.png"
    with writing(out, or_else=OR_ELSE):
        (out / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return name


def _facts(grabbed: Grabbed, out: Path) -> dict[str, object]:
    losses = [f"{reason} {loss.frames}: {loss.detail}" for reason, loss in grabbed.losses.items()]
    if not grabbed.ids_show_gaps:
        losses.append("its frame ids show no gaps, so frames that the camera itself loses are not counted")
    saved = grabbed.saved
    return {
        "problem": grabbed.problem,
        "found": grabbed.found,
        "frames": ", ".join(f"{frames} of {kind}" for kind, frames in grabbed.formats.items()) or None,
        "rate": None if grabbed.rate_fps is None else f"{grabbed.rate_fps:.4g} frames/s",
        "losses": "; ".join(losses) or "none",
        "counters": ", ".join(f"{name} {count}" for name, count in grabbed.counters.items()) or None,
        "saved": f"{out / saved[0]} to {saved[-1]}" if saved else None,
    }
