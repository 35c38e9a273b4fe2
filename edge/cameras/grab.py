"""Grabs frames from one camera as the line does, and saves them, to show what the camera really sends."""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.settings import CameraSettings, GenicamSettings, Trigger
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.cameras.triggering import TriggerAnswer, TriggerRequest
from heatline.edge.errors import CameraError, HeatlineError, InputError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame, FrameRule
from heatline.edge.geometry import WHOLE_FRAME, TileGrid
from heatline.edge.util.files import writing
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import CameraState

STEP_SECONDS = 0.25
"""Longest wait for a frame, or after a trigger that brought none."""
MAX_WAITING_PICTURES = 64
"""Limit of a camera's pictures that wait to be written. With more, the grab waits for the disk, and loses frames."""
WRITERS = 4
OR_ELSE = ", or name another folder with --out"
REGION_RGB, TILE_RGB = (255, 220, 0), (0, 200, 255)
SHADE = 3
"""Factor by which pixels outside all tiles are darkened."""


class Loss(msgspec.Struct, frozen=True):
    """Frames that did not come, or cannot be used, for one reason."""

    frames: int
    detail: str
    """Detail of the first one."""


class Area(msgspec.Struct, frozen=True):
    """The picture of the region of interest."""

    file: str
    tiles_looked_at: int
    tiles: int


class Grabbed(msgspec.Struct, kw_only=True):
    """Frames that one camera sent."""

    found: str | None = None
    """Description of the camera; None: it could not be opened."""
    problem: str | None = None
    """Why fewer frames came than requested; None: all came."""
    asked: int
    frames: int = 0
    saved: list[str] = []
    formats: dict[str, int] = {}
    """Number of frames by size and pixel format as the camera sent them."""
    trigger: Trigger
    rate_fps: float | None = None
    """Rate of the frames that came, by their arrival at the host; None: fewer than two came."""
    rate_set_fps: float | None = None
    """Rate that the camera states."""
    jitter_ms: float | None = None
    """Standard deviation of the intervals between frames, without intervals in which a frame was lost."""
    worst_jitter_ms: float | None = None
    """Largest deviation of such an interval from their mean."""
    losses: dict[str, Loss] = {}
    """Losses by reason."""
    ids_show_gaps: bool = False
    """Whether frame ids show what the camera lost; otherwise such losses are not noticed."""
    died: list[str] = []
    """Reason of each death of the camera."""
    counters: dict[str, int] = {}
    """Counters of the transport since the camera was opened, read at most a second before the end."""
    area: Area | None = None
    warnings: list[str] = []


def writers() -> ThreadPoolExecutor:
    """Return threads of the lowest priority that write pictures: frames that wait for the processor are lost."""
    # On Linux a thread has a priority of its own.
    return ThreadPoolExecutor(WRITERS, initializer=lambda: os.setpriority(os.PRIO_PROCESS, 0, 19))


def existing_files(folder: Path) -> list[str]:
    """Make a folder for pictures if it is missing; return the names of the files in it.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(folder, or_else=OR_ELSE):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return [path.name for path in folder.iterdir() if path.is_file()]


def save(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture, grey [H, W] or RGB [H, W, 3].

    Raises:
        InputError: it cannot be written.
    """
    data = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    try:
        with writing(path.parent, or_else=OR_ELSE):
            path.write_bytes(cv2.imencode(".png", data)[1].tobytes())
    except InputError:
        with contextlib.suppress(OSError):  # leave no incomplete picture
            path.unlink()
        raise


class Grab:
    """Grabs frames from one camera.

    Args:
        frame_count: number of frames to grab.
        timeout_s: time limit from when the camera is open.
        pool: see `writers`.
        stopping: ends the grab early, with the frames so far.
    """

    def __init__(
        self,
        settings: CameraSettings,
        frame_count: int,
        timeout_s: float,
        folder: Path,
        pool: ThreadPoolExecutor,
        stopping: threading.Event,
    ) -> None:
        self.name, self._settings, self._timeout_s = settings.name, settings, timeout_s
        self._folder, self._pool, self._stopping = folder, pool, stopping
        self._room = threading.Semaphore(MAX_WAITING_PICTURES)
        self._grabbed = Grabbed(asked=frame_count, trigger=settings.triggered)
        self.failure: HeatlineError | None = None
        """Why fewer frames came than requested; None: all came."""
        self._rule = FrameRule(settings.size, settings.pixel_format)
        self._refused: dict[str, Loss] = {}
        self._arrived_ns: list[int | None] = []
        """Of each frame; None: frames were lost."""
        self._first: NDArray[np.uint8] | None = None
        self._pictures: dict[str, Future[None]] = {}
        """By the name of the file."""
        self._first_number = _next_number(settings.name, existing_files(folder))
        self._awaits_answer = False  # of a trigger

    @property
    def trigger_line(self) -> str | None:
        """The line of the hardware trigger; None: there is no hardware trigger."""
        settings = self._settings
        if isinstance(settings, GenicamSettings) and settings.trigger == "hardware":
            return settings.trigger_line
        return None

    def run(self, on_frame: Callable[[], None]) -> None:
        """Open the camera, grab frames, and close it.

        Args:
            on_frame: called after every frame.
        """
        camera, grabbed = SupervisedCamera(self._settings, self._on_alarm), self._grabbed
        try:
            opened = None
            while opened is None and not self._stopping.is_set():
                opened = camera.open(STEP_SECONDS)
            if opened is not None:
                grabbed.found, grabbed.ids_show_gaps = opened.found, opened.ids_show_gaps
                grabbed.rate_set_fps = None if opened.period_s is None else 1 / opened.period_s
            self._grab_frames(camera, on_frame)
            self._check(camera.state())
        except EndOfFrames:
            self._fail(", then it had no more; ask for fewer with -n, or set loop for this camera")
        except (CameraError, MissingExtraError) as error:
            self.failure = error
        finally:
            grabbed.counters = camera.state().counters
            camera.close()

    def disk_error(self) -> BaseException | None:
        """Return why a picture was not written."""
        ended = (picture.exception() for picture in list(self._pictures.values()) if picture.done())
        return next((error for error in ended if error is not None), None)

    def report(self) -> Grabbed:
        """Return what the camera sent, and save a picture of the region of interest. All pictures are written."""
        grabbed = self._grabbed
        grabbed.problem = None if self.failure is None else str(self.failure)
        grabbed.saved = [name for name, picture in self._pictures.items() if picture.exception() is None]
        grabbed.warnings = [
            f"the line would refuse {refused.frames} of these frames ({reason}): {refused.detail}; see size and "
            "pixel_format"
            for reason, refused in self._refused.items()
        ]
        arrived_ns = [at_ns for at_ns in self._arrived_ns if at_ns is not None]
        if arrived_ns and arrived_ns[-1] > arrived_ns[0]:
            grabbed.rate_fps = (len(arrived_ns) - 1) * 1e9 / (arrived_ns[-1] - arrived_ns[0])
        between = [(b - a) / 1e6 for a, b in pairwise(self._arrived_ns) if a is not None and b is not None]
        if len(between) > 1:
            grabbed.jitter_ms = pstdev(between)
            grabbed.worst_jitter_ms = max(abs(interval - fmean(between)) for interval in between)
        try:
            grabbed.area = self._draw_region()
        except InputError as error:
            grabbed.warnings.append(str(error))
        return grabbed

    # Steps of the thread that grabs.

    def _grab_frames(self, camera: SupervisedCamera, on_frame: Callable[[], None]) -> None:
        give_up = time.monotonic() + self._timeout_s
        item: Frame | BadFrame | None = None
        while self._grabbed.frames < self._grabbed.asked and (left_s := give_up - time.monotonic()) > 0:
            # After a loss, wait a moment: a dead camera would refuse one trigger after the other. A trigger that is
            # sent before the last one was answered would be refused as busy.
            if self._settings.triggered == "software" and not isinstance(item, BadFrame) and not self._awaits_answer:
                self._awaits_answer = True
                camera.trigger(TriggerRequest(None, self._on_answer))
            item = camera.grab(min(left_s, STEP_SECONDS))
            if self._stopping.is_set():
                return
            if isinstance(item, Frame):
                self._take(item)
                on_frame()
            elif item is not None:
                self._arrived_ns.append(None)
                _count(self._grabbed.losses, item)

    def _take(self, frame: Frame) -> None:
        """Count a frame, release its memory, and queue its picture for writing, grey [H, W] or RGB [H, W, 3]."""
        grey, frame_id = frame.camera_format.startswith("Mono"), frame.stamp.frame_id
        picture = np.asarray(cv2.extractChannel(frame.image, 0) if grey else frame.image.copy(), np.uint8)
        checked = self._rule.check(frame)
        frame.release()
        if isinstance(checked, BadFrame):
            _count(self._refused, checked)
        kind = f"{picture.shape[1]}x{picture.shape[0]} px {frame.camera_format}"
        self._grabbed.formats[kind] = self._grabbed.formats.get(kind, 0) + 1
        self._arrived_ns.append(frame.stamp.captured_monotonic_ns)
        self._first = picture if self._first is None else self._first
        number = self._first_number + self._grabbed.frames
        name = f"{self.name}-{number:05d}-{'none' if frame_id is None else frame_id}.png"
        self._room.acquire()
        self._pictures[name] = self._pool.submit(save, self._folder / name, picture)
        self._pictures[name].add_done_callback(lambda _: self._room.release())
        self._grabbed.frames += 1

    def _on_answer(self, _answer: TriggerAnswer) -> None:
        self._awaits_answer = False

    def _on_alarm(self, alarm: CameraAlarm) -> None:
        if alarm.active and self._grabbed.found is not None:
            self._grabbed.died.append(f"{alarm.reason}: {alarm.detail}")
            self._arrived_ns.append(None)

    def _check(self, state: CameraState) -> None:
        """Find out why fewer frames came than requested, if so."""
        if self._grabbed.frames == self._grabbed.asked:
            return
        remedy = "raise --timeout, or check the losses"
        if state.state == "DEAD":
            remedy = f"it is dead ({state.reason}): {state.detail}"
        elif self.trigger_line is not None:
            remedy = f"check that the trigger's edges reach its {self.trigger_line}"
        self._fail(" until it was stopped" if self._stopping.is_set() else f" within {self._timeout_s:g} s; {remedy}")

    def _fail(self, end: str) -> None:
        frames = format_count(self._grabbed.asked, "frame")
        self.failure = CameraError(f"camera {self.name}: {self._grabbed.frames} of {frames} came{end}")

    def _draw_region(self) -> Area | None:
        region = self._settings.region_of_interest
        if self._first is None or region == WHOLE_FRAME:
            return None
        # Tiles of the default size, since the bundle, which may have others, need not exist yet.
        grid = TileGrid(self._first.shape[:2], region_of_interest=region)
        name = f"{self.name}-area.png"
        save(self._folder / name, draw_region(self._first, grid))
        return Area(name, len(grid), len(grid.rows_y) * len(grid.columns_x))


def _count(losses: dict[str, Loss], bad: BadFrame) -> None:
    before = losses.get(bad.reason, Loss(0, bad.detail))
    losses[bad.reason] = Loss(before.frames + bad.stamp.frames, before.detail)


def _next_number(camera: str, existing: list[str]) -> int:
    """Return the number of the camera's next picture; it follows on an earlier grab, whose pictures stay."""
    pattern = re.compile(rf"{re.escape(camera)}-([0-9]+)-[^-]+\.png")
    return max((int(match[1]) for name in existing if (match := pattern.fullmatch(name))), default=0) + 1


def draw_region(frame: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """Draw the outline of the region of interest and the inspected tiles into a frame; darken the rest.

    Args:
        frame: grey [H, W] or RGB [H, W, 3], of the grid's size.
    Returns: RGB [H, W, 3].
    """
    picture = np.array(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) if frame.ndim == 2 else frame, np.uint8)
    side, thick = grid.tile_px, max(2, round(max(grid.frame_hw) / 600))
    outside = np.ones(grid.frame_hw, np.bool_)
    for y, x in grid.origins_yx:
        outside[y : y + side, x : x + side] = False
    picture[outside] //= SHADE
    for y, x in grid.origins_yx:
        cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), TILE_RGB, max(1, thick // 2))
    mask = grid.region_of_interest.mask(grid.frame_hw).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, REGION_RGB, thick)
    return picture
