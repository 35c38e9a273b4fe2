"""Grabs frames from one camera as the line does, and saves them, to show what the camera really sends."""

import contextlib
import os
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import EndOfFrames, Opened
from heatline.edge.cameras.settings import CameraSettings, GenicamSettings, Trigger
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.cameras.triggering import TriggerAnswer, TriggerRequest
from heatline.edge.colour import PixelFormat
from heatline.edge.errors import CameraError, GeometryError, HeatlineError, InputError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame, FrameRule
from heatline.edge.geometry import WHOLE_FRAME, TileGrid
from heatline.edge.util.files import writing
from heatline.edge.util.text import format_count

STEP_SECONDS = 0.25
"""Longest wait for a frame, or after a trigger that brought none."""
COUNTERS_WITHIN_SECONDS = 2.0
"""Time limit for counters, which the camera's process sends every second."""
MAX_WAITING_PICTURES = 64
"""Limit of the pictures that wait to be written. With more, the grab waits for the disk, and frames are lost."""
WRITERS = 4
REGION_RGB, TILE_RGB = (255, 220, 0), (0, 200, 255)
SHADE = 3
"""Factor by which pixels outside all tiles are darkened."""


class Loss(msgspec.Struct, frozen=True):
    """Frames that did not come, or cannot be used, for one reason."""

    frames: int
    detail: str
    """Detail of the first one."""


class Format(msgspec.Struct, frozen=True):
    """Size and pixel format of frames as the camera sent them."""

    width: int
    height: int
    pixel_format: PixelFormat
    frames: int


class Area(msgspec.Struct, frozen=True):
    """The picture of the region of interest."""

    file: str
    tiles_looked_at: int
    tiles: int


class Grabbed(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that one camera sent."""

    found: str | None
    """Description of the camera; None: it could not be opened."""
    problem: str | None
    """Why fewer frames came than requested; None: all came."""
    asked: int
    frames: int
    saved: list[str]
    formats: list[Format]
    trigger: Trigger
    rate_fps: float | None
    """Rate of the frames that came, by their arrival at the host; None: fewer than two came."""
    rate_set_fps: float | None
    """Rate that the camera states."""
    jitter_ms: float | None
    """Standard deviation of the intervals between frames, without intervals in which a frame was lost."""
    worst_jitter_ms: float | None
    """Largest deviation of such an interval from their mean."""
    losses: dict[str, Loss]
    """Losses by reason."""
    ids_show_gaps: bool
    """Whether frame ids show what the camera lost; otherwise such losses are not noticed."""
    died: list[str]
    """Reason of each death of the camera."""
    counters: dict[str, int]
    """Counters of the transport since the camera was opened, read shortly after the last frame."""
    area: Area | None
    warnings: list[str]


class PictureWriter:
    """Writes pictures, grey [H, W] or RGB [H, W, 3], on threads of the lowest priority; after an error, no more.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._room = threading.Semaphore(MAX_WAITING_PICTURES)
        self.written: set[str] = set()
        """Names of the files that were written."""
        self.error: InputError | None = None
        """Why a picture was not written."""
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            self.existing = [path.name for path in folder.iterdir() if path.is_file()]
            """Names of the files that existed before."""
        # Frames that wait for the processor are lost. On Linux a thread has a priority of its own.
        self._threads = ThreadPoolExecutor(WRITERS, initializer=lambda: os.setpriority(os.PRIO_PROCESS, 0, 19))

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def queue(self, name: str, picture: NDArray[np.uint8]) -> None:
        """Write a picture soon; wait while too many wait."""
        self._room.acquire()
        self._threads.submit(self._write_queued, name, picture)

    def write(self, name: str, picture: NDArray[np.uint8]) -> None:
        """Write a picture."""
        if self.error is not None:
            return
        data = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        try:
            with self._writing():
                (self._folder / name).write_bytes(cv2.imencode(".png", data)[1].tobytes())
            self.written.add(name)
        except InputError as error:
            self.error = error
            with contextlib.suppress(OSError):  # leave no incomplete picture
                (self._folder / name).unlink()

    def _write_queued(self, name: str, picture: NDArray[np.uint8]) -> None:
        self.write(name, picture)
        self._room.release()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._folder, or_else=", or name another folder with --out")


class Grab:
    """Grabs frames from one camera.

    Args:
        frame_count: number of frames to grab.
        timeout_s: time limit from when the camera is open.
        stopping: ends the grab early, with the frames so far.
        on_frame: called after every frame.
        print_line: prints a message for the user during the grab.
    """

    def __init__(
        self,
        settings: CameraSettings,
        frame_count: int,
        timeout_s: float,
        writer: PictureWriter,
        stopping: threading.Event,
        *,
        on_frame: Callable[[], None],
        print_line: Callable[[str], None],
    ) -> None:
        self.name, self._settings = settings.name, settings
        self._frame_count, self._timeout_s, self._writer, self._stopping = frame_count, timeout_s, writer, stopping
        self._on_frame, self._print_line = on_frame, print_line
        self._camera = SupervisedCamera(settings, self._on_alarm)
        self._awaits_answer = False  # of a trigger
        self._opened: Opened | None = None
        self._rule = FrameRule(settings.size, settings.pixel_format)
        self._first_number = _next_number(settings.name, writer.existing)
        self._names: list[str] = []
        self._first: NDArray[np.uint8] | None = None
        self._formats: Counter[tuple[int, int, PixelFormat]] = Counter()
        self._losses: dict[str, Loss] = {}
        self._refused: dict[str, Loss] = {}
        self._died: list[str] = []
        self._arrived_ns: list[int] = []
        self._intervals_ms: list[float] = []
        """Between consecutive frames."""
        self._consecutive = False
        self.failure: HeatlineError | None = None
        """Why fewer frames came than requested; None: all came."""

    def run(self) -> None:
        """Open the camera, grab frames, and close it."""
        try:
            while self._opened is None and not self._stopping.is_set():
                self._opened = self._camera.open(STEP_SECONDS)
            self._grab_frames()
            self._await_counters()
            self.failure = None if len(self._names) == self._frame_count else self._shortage()
        except EndOfFrames:
            remedy = "ask for fewer with -n, or set loop for this camera"
            self.failure = CameraError(f"{self._came()}, then it had no more; {remedy}")
        except (CameraError, MissingExtraError) as error:
            self.failure = error
        finally:
            self._camera.close()

    def report(self) -> Grabbed:
        """Return what the camera sent, and save a picture of the region of interest."""
        opened, frames = self._opened, len(self._names)
        warnings = [
            f"the line would refuse {refused.frames} of these frames ({reason}): {refused.detail}; see size and "
            "pixel_format"
            for reason, refused in self._refused.items()
        ]
        area = None
        try:
            area = self._draw_region()
        except GeometryError as error:
            warnings.append(str(error))
        took_ns = self._arrived_ns[-1] - self._arrived_ns[0] if frames > 1 else 0
        jitter = len(self._intervals_ms) > 1
        mean = statistics.fmean(self._intervals_ms) if jitter else 0.0
        return Grabbed(
            found=None if opened is None else opened.found,
            problem=None if self.failure is None else str(self.failure),
            asked=self._frame_count,
            frames=frames,
            saved=[name for name in self._names if name in self._writer.written],
            formats=[Format(*key, count) for key, count in self._formats.items()],
            trigger=self._settings.triggered,
            rate_fps=(frames - 1) * 1e9 / took_ns if took_ns > 0 else None,
            rate_set_fps=None if opened is None or opened.period_s is None else 1 / opened.period_s,
            jitter_ms=statistics.pstdev(self._intervals_ms) if jitter else None,
            worst_jitter_ms=max(abs(interval - mean) for interval in self._intervals_ms) if jitter else None,
            losses=self._losses,
            ids_show_gaps=opened is not None and opened.ids_show_gaps,
            died=self._died,
            counters=self._camera.state().counters,
            area=area,
            warnings=warnings,
        )

    # Steps of the thread that grabs.

    def _grab_frames(self) -> None:
        if self._trigger_line is not None:
            self._print_line(f"camera {self.name} waits for edges on its {self._trigger_line}")
        give_up = time.monotonic() + self._timeout_s
        item: Frame | BadFrame | None = None
        while len(self._names) < self._frame_count and (left_s := give_up - time.monotonic()) > 0:
            # After a loss, wait a moment: a dead camera would refuse one trigger after the other. A trigger that is
            # sent before the last one was answered would be refused as busy.
            if self._settings.triggered == "software" and not isinstance(item, BadFrame) and not self._awaits_answer:
                self._awaits_answer = True
                self._camera.trigger(TriggerRequest(None, self._on_answer))
            item = self._camera.grab(min(left_s, STEP_SECONDS))
            if self._stopping.is_set():
                return
            if isinstance(item, Frame):
                self._take(item)
            elif item is not None:
                self._consecutive = False
                _count(self._losses, item)

    def _take(self, frame: Frame) -> None:
        """Count a frame, release its memory, and queue its picture for writing, grey [H, W] or RGB [H, W, 3]."""
        grey = frame.camera_format.startswith("Mono")
        picture = np.asarray(cv2.extractChannel(frame.image, 0) if grey else frame.image.copy(), np.uint8)
        checked = self._rule.check(frame)
        frame.release()
        if isinstance(checked, BadFrame):
            _count(self._refused, checked)
        self._formats[picture.shape[1], picture.shape[0], frame.camera_format] += 1
        if self._consecutive:
            self._intervals_ms.append((frame.stamp.captured_monotonic_ns - self._arrived_ns[-1]) / 1e6)
        self._arrived_ns.append(frame.stamp.captured_monotonic_ns)
        self._consecutive = True
        if self._first is None:
            self._first = picture
        frame_id = "none" if frame.stamp.frame_id is None else frame.stamp.frame_id
        self._names.append(f"{self.name}-{self._first_number + len(self._names):05d}-{frame_id}.png")
        self._writer.queue(self._names[-1], picture)
        self._on_frame()

    def _on_answer(self, _answer: TriggerAnswer) -> None:
        self._awaits_answer = False

    def _on_alarm(self, alarm: CameraAlarm) -> None:
        if alarm.active and self._opened is not None:
            self._died.append(f"{alarm.reason}: {alarm.detail}")
            self._consecutive = False

    def _await_counters(self) -> None:
        """Wait for one reply with counters, since a short grab may end before the first."""
        before, give_up = self._camera.state().counters, time.monotonic() + COUNTERS_WITHIN_SECONDS
        while isinstance(self._settings, GenicamSettings) and time.monotonic() < give_up:
            if isinstance(item := self._camera.grab(STEP_SECONDS), Frame):
                item.release()
            if self._camera.state().counters is not before or self._stopping.is_set():
                break

    # The result.

    @property
    def _trigger_line(self) -> str | None:
        """The line of the hardware trigger; None: there is no hardware trigger."""
        settings = self._settings
        if isinstance(settings, GenicamSettings) and settings.trigger == "hardware":
            return settings.trigger_line
        return None

    def _came(self) -> str:
        return f"camera {self.name}: {len(self._names)} of {format_count(self._frame_count, 'frame')} came"

    def _shortage(self) -> CameraError:
        """Return why fewer frames came than requested."""
        if self._stopping.is_set():
            return CameraError(f"{self._came()} until it was stopped")
        state = self._camera.state()
        remedy = "; raise --timeout, or check the losses"
        if state.state == "DEAD":
            remedy = f"; it is dead ({state.reason}): {state.detail}"
        elif self._trigger_line is not None:
            remedy = f"; check that the trigger's edges reach its {self._trigger_line}"
        return CameraError(f"{self._came()} within {self._timeout_s:g} s{remedy}")

    def _draw_region(self) -> Area | None:
        region = self._settings.region_of_interest
        if self._first is None or region == WHOLE_FRAME:
            return None
        # Tiles of the default size, since the bundle, which may have others, need not exist yet.
        grid = TileGrid(self._first.shape[:2], region_of_interest=region)
        name = f"{self.name}-area.png"
        self._writer.write(name, draw_region(self._first, grid))
        if name not in self._writer.written:
            return None
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
