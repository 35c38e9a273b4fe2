"""Grabs frames from one camera as the line does, to show what the camera really sends."""

import re
import threading
import time
from collections.abc import Callable, Iterable

from heatline.edge.cameras.base import EndOfFrames, Opened
from heatline.edge.cameras.settings import CameraSettings, GenicamSettings
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.cameras.triggering import TriggerAnswer, TriggerRequest
from heatline.edge.errors import CameraError, GeometryError, HeatlineError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.geometry import WHOLE_FRAME, TileGrid
from heatline.edge.grab.pictures import PictureWriter, draw_region
from heatline.edge.grab.report import Area, Grabbed
from heatline.edge.grab.tally import FrameTally
from heatline.edge.util.text import format_count

TRIGGER_AGAIN_SECONDS = 0.25
"""Time to wait after a trigger that brought no frame."""
COUNTERS_WITHIN_SECONDS = 2.0
"""Time limit for counters, which the camera's process sends every second."""
POLL_SECONDS = 0.05


class Grab:
    """Grabs frames from one camera. One thread calls `run`, another may call `stop`; then come `error` and `report`.

    Args:
        frame_count: number of frames to grab.
        timeout_s: time limit from when the camera is open.
        on_frame: called after every frame.
        print_line: prints a message for the user during the grab.
    """

    def __init__(
        self,
        settings: CameraSettings,
        frame_count: int,
        timeout_s: float,
        writer: PictureWriter,
        *,
        on_frame: Callable[[], None],
        print_line: Callable[[str], None],
    ) -> None:
        self.name, self._settings = settings.name, settings
        self._frame_count, self._timeout_s, self._writer = frame_count, timeout_s, writer
        self._on_frame, self._print_line = on_frame, print_line
        self._camera = SupervisedCamera(settings, self._on_alarm)
        self._closing = threading.Lock()  # held while the camera is closed, which then cannot be interrupted
        self._closed = False
        self._stopping = threading.Event()
        self._awaits_answer = False  # of a trigger
        self._opened: Opened | None = None
        self._failure: HeatlineError | None = None
        self._ended = False
        self._died: list[str] = []
        self._tally = FrameTally(settings)
        self._number = _next_number(settings.name, writer.existing)
        self._accepted: list[str] = []
        """Pictures that the writer accepted."""

    def run(self) -> None:
        """Open the camera, grab frames, and close it."""
        try:
            self._opened = self._camera.open()
            self._grab_frames()
            if isinstance(self._settings, GenicamSettings):
                self._await_counters()
        except (CameraError, MissingExtraError) as error:
            self._failure = None if self._stopping.is_set() else error
        except EndOfFrames:
            self._ended = not self._stopping.is_set()
        finally:
            with self._closing:
                self._closed = True
                self._camera.close()

    def stop(self) -> None:
        """Make `run` end soon, with the frames so far."""
        self._stopping.set()
        with self._closing:
            if not self._closed:
                self._camera.interrupt()

    def error(self) -> HeatlineError | None:
        """Return why fewer frames came than requested; None: all came."""
        frames, state = self._frames, self._camera.state()
        if frames == self._frame_count:
            return None
        if self._failure is not None:
            return self._failure
        summary = f"camera {self.name}: {frames} of {format_count(self._frame_count, 'frame')} came"
        if self._stopping.is_set():
            return CameraError(f"{summary} until it was stopped")
        if self._ended:
            return CameraError(f"{summary}, then it had no more; ask for fewer with -n, or set loop for this camera")
        summary += f" within {self._timeout_s:g} s"
        if state.state == "DEAD":
            return CameraError(f"{summary}; it is dead ({state.reason}): {state.detail}")
        if self._trigger_line is not None:
            return CameraError(f"{summary}; check that the trigger's edges reach its {self._trigger_line}")
        return CameraError(f"{summary}; raise --timeout, or check the losses")

    def report(self) -> Grabbed:
        """Return what the camera sent, and save a picture of the region of interest."""
        tally, opened = self._tally, self._opened
        not_saved = self._frames - len(self._accepted)
        warnings = [
            f"the line would refuse {refused.frames} of these frames ({reason}): {refused.detail}; see size and "
            "pixel_format"
            for reason, refused in tally.line_would_refuse.items()
        ]
        if not_saved:
            warnings.append(
                f"{format_count(not_saved, 'frame')} {'was' if not_saved == 1 else 'were'} counted and not saved, as "
                "frames came faster than pictures can be written; ask for fewer with -n, or lower the camera's rate"
            )
        try:
            area = self._draw_region()
        except GeometryError as error:
            area = None
            warnings.append(str(error))
        problem = self.error()
        jitter_ms, worst_jitter_ms = tally.arrivals.jitter_ms or (None, None)
        return Grabbed(
            found=None if opened is None else opened.found,
            problem=None if problem is None else str(problem),
            asked=self._frame_count,
            frames=self._frames,
            saved=[name for name in self._accepted if name in self._writer.written],
            not_saved=not_saved,
            formats=tally.formats,
            trigger=self._settings.triggered,
            rate_fps=tally.arrivals.rate_fps,
            rate_set_fps=None if opened is None or opened.period_s is None else 1 / opened.period_s,
            jitter_ms=jitter_ms,
            worst_jitter_ms=worst_jitter_ms,
            losses=tally.losses,
            ids_show_gaps=opened is not None and opened.ids_show_gaps,
            identical=tally.identical,
            died=self._died,
            counters=self._camera.state().counters,
            clock=tally.arrivals.clock,
            area=area,
            warnings=warnings,
        )

    def _draw_region(self) -> Area | None:
        region, first = self._settings.region_of_interest, self._tally.first
        if first is None or region == WHOLE_FRAME:
            return None
        # Tiles of the default size, since the bundle, which may have others, need not exist yet.
        grid = TileGrid(first.shape[:2], region_of_interest=region)
        name = f"{self.name}-area.png"
        if not self._writer.write_now(name, draw_region(first, grid)):
            return None
        return Area(name, len(grid), len(grid.rows_y) * len(grid.columns_x))

    @property
    def _frames(self) -> int:
        return self._tally.arrivals.frames

    @property
    def _trigger_line(self) -> str | None:
        """The line of the hardware trigger; None: there is no hardware trigger."""
        settings = self._settings
        if isinstance(settings, GenicamSettings) and settings.trigger == "hardware":
            return settings.trigger_line
        return None

    # Steps of the thread that grabs.

    def _grab_frames(self) -> None:
        if self._trigger_line is not None:
            self._print_line(f"camera {self.name} waits for edges on its {self._trigger_line}")
        give_up = time.monotonic() + self._timeout_s
        item: Frame | BadFrame | None = None
        while self._frames < self._frame_count and (left_s := give_up - time.monotonic()) > 0:
            # After a loss, wait a moment: a dead camera would refuse one trigger after the other.
            if self._settings.triggered == "software" and not isinstance(item, BadFrame):
                self._trigger()
            item = self._camera.grab(min(left_s, TRIGGER_AGAIN_SECONDS))
            if self._stopping.is_set():
                return
            if isinstance(item, Frame):
                self._save(item)
            elif item is not None:
                self._tally.add_loss(item)

    def _save(self, frame: Frame) -> None:
        """Count a frame, and queue its picture for writing."""
        number = self._number + self._frames
        picture = self._tally.add(frame)
        frame_id = "none" if frame.stamp.frame_id is None else frame.stamp.frame_id
        name = f"{self.name}-{number:05d}-{frame_id}.png"
        # A camera that may block for the line may block for the disk.
        if self._writer.write(name, picture, block=self._settings.on_overload == "block"):
            self._accepted.append(name)
        self._on_frame()

    def _trigger(self) -> None:
        """Send a trigger if the last one was answered; sent earlier, it would be refused as busy."""
        if not self._awaits_answer:
            self._awaits_answer = True
            self._camera.trigger(TriggerRequest(None, self._on_answer))

    def _on_answer(self, _answer: TriggerAnswer) -> None:
        self._awaits_answer = False

    def _on_alarm(self, alarm: CameraAlarm) -> None:
        if alarm.active and self._opened is not None:
            self._died.append(f"{alarm.reason}: {alarm.detail}")
            self._tally.arrivals.restart()

    def _await_counters(self) -> None:
        """Wait for one reply with counters, since a short grab may end before the first."""
        before, give_up = self._camera.state().counters, time.monotonic() + COUNTERS_WITHIN_SECONDS
        while self._camera.state().counters is before and time.monotonic() < give_up:
            if isinstance(item := self._camera.grab(POLL_SECONDS), Frame):
                item.release()


def _next_number(camera: str, existing: Iterable[str]) -> int:
    """Return the number of the camera's next picture; it follows on an earlier grab, whose pictures stay."""
    pattern = re.compile(rf"{re.escape(camera)}-([0-9]+)-[^-]+\.png")
    return max((int(match[1]) for name in existing if (match := pattern.fullmatch(name))), default=0) + 1
