"""Taking frames from one camera as the line would, to see what it really sends."""

import re
import threading
import time
from collections.abc import Callable, Iterable

from edge.cameras.base import EndOfFrames, Opened
from edge.cameras.settings import CameraSettings, GenicamSettings
from edge.cameras.state import CameraAlarm
from edge.cameras.supervisor import SupervisedCamera
from edge.cameras.triggering import TriggerAnswer, TriggerRequest
from edge.errors import CameraError, GeometryError, HeatlineError, MissingExtraError
from edge.frames import BadFrame, Frame
from edge.geometry import WHOLE_FRAME, TileGrid
from edge.grab.pictures import PictureWriter, area_picture
from edge.grab.report import Area, Grabbed
from edge.grab.tally import FrameTally
from edge.util.text import format_count

TRIGGER_AGAIN_SECONDS = 0.25
"""After a trigger that brought no frame."""
COUNTERS_WITHIN_SECONDS = 2.0
"""A camera's process is asked for them every second."""
POLL_SECONDS = 0.05


class Grab:
    """One camera's grab. One thread runs it, another may stop it; once it has run, it tells of itself.

    Args:
        asked: frames.
        timeout_s: from when the camera is open until it is given up.
        counted: is called with every frame.
        say: takes what people are to know while it runs.
    """

    def __init__(
        self,
        settings: CameraSettings,
        asked: int,
        timeout_s: float,
        saver: PictureWriter,
        *,
        counted: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.name, self._settings = settings.name, settings
        self._asked, self._timeout_s, self._saver = asked, timeout_s, saver
        self._counted, self._say = counted, say
        self._camera = SupervisedCamera(settings, self._hear)
        self._ending = threading.Lock()  # held while it is closed: then it can be interrupted no more
        self._closed = False
        self._stopping = threading.Event()
        self._trigger_is_out = False  # and not answered
        self._opened: Opened | None = None
        self._refused: HeatlineError | None = None
        self._ended = False
        self._died: list[str] = []
        self._tally = FrameTally(settings)
        self._number = _next_number(settings.name, saver.earlier)
        self._handed_over: list[str] = []
        """Pictures that the saver took."""

    def run(self) -> None:
        """Open the camera, take frames, close it."""
        try:
            self._opened = self._camera.open()
            self._take()
            if isinstance(self._settings, GenicamSettings):
                self._await_counters()
        except (CameraError, MissingExtraError) as error:
            self._refused = None if self._stopping.is_set() else error
        except EndOfFrames:
            self._ended = not self._stopping.is_set()
        finally:
            with self._ending:
                self._closed = True
                self._camera.close()

    def stop(self) -> None:
        """Have it end soon, with what it has."""
        self._stopping.set()
        with self._ending:
            if not self._closed:
                self._camera.interrupt()

    def error(self) -> HeatlineError | None:
        """Why fewer frames came than were asked for."""
        frames, state = self._frames, self._camera.state()
        if frames == self._asked:
            return None
        if self._refused is not None:
            return self._refused
        came = f"camera {self.name}: {frames} of {format_count(self._asked, 'frame')} came"
        if self._stopping.is_set():
            return CameraError(f"{came} until it was stopped")
        if self._ended:
            return CameraError(f"{came}, then it had no more; ask for fewer with -n, or have it loop")
        came += f" within {self._timeout_s:g} s"
        if state.state == "DEAD":
            return CameraError(f"{came}; it is dead ({state.reason}): {state.detail}")
        if self._edges_on is not None:
            return CameraError(f"{came}; check that the trigger's edges reach its {self._edges_on}")
        return CameraError(f"{came}; give it longer with --timeout, or look at what was lost")

    def report(self) -> Grabbed:
        """What came. Draws the region of interest."""
        tally, opened = self._tally, self._opened
        not_saved = self._frames - len(self._handed_over)
        warnings = [
            f"the line would refuse {refused.frames} of these frames ({reason}): {refused.detail}; see size and "
            "pixel_format"
            for reason, refused in tally.line_would_refuse.items()
        ]
        if not_saved:
            warnings.append(
                f"{format_count(not_saved, 'frame')} {'was' if not_saved == 1 else 'were'} counted and not saved, as "
                "frames came faster than pictures can be "
                "written; ask for fewer with -n, or lower its rate"
            )
        try:
            area = self._draw_area()
        except GeometryError as error:
            area = None
            warnings.append(str(error))
        problem = self.error()
        jitter_ms, worst_jitter_ms = tally.arrivals.jitter_ms or (None, None)
        return Grabbed(
            found=None if opened is None else opened.found,
            problem=None if problem is None else str(problem),
            asked=self._asked,
            frames=self._frames,
            saved=[name for name in self._handed_over if name in self._saver.written],
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

    def _draw_area(self) -> Area | None:
        area, first = self._settings.region_of_interest, self._tally.first
        if first is None or area == WHOLE_FRAME:
            return None
        # Tiles of the usual size: the bundle, which may have others, need not be there yet.
        grid = TileGrid(first.shape[:2], area=area)
        name = f"{self.name}-area.png"
        if not self._saver.save_now(name, area_picture(first, grid)):
            return None
        return Area(name, len(grid), len(grid.rows_y) * len(grid.columns_x))

    @property
    def _frames(self) -> int:
        return self._tally.arrivals.frames

    @property
    def _edges_on(self) -> str | None:
        """The line on which its hardware trigger comes."""
        settings = self._settings
        if isinstance(settings, GenicamSettings) and settings.trigger == "hardware":
            return settings.trigger_line
        return None

    # On the thread that grabs.

    def _take(self) -> None:
        if self._edges_on is not None:
            self._say(f"camera {self.name} waits for edges on its {self._edges_on}")
        give_up = time.monotonic() + self._timeout_s
        item: Frame | BadFrame | None = None
        while self._frames < self._asked and (left_s := give_up - time.monotonic()) > 0:
            # After a loss it waits a moment: a dead camera would refuse one trigger after the other.
            if self._settings.triggered == "software" and not isinstance(item, BadFrame):
                self._trigger()
            item = self._camera.grab(min(left_s, TRIGGER_AGAIN_SECONDS))
            if self._stopping.is_set():
                return
            if isinstance(item, Frame):
                self._save(item)
            elif item is not None:
                self._tally.lost(item)

    def _save(self, frame: Frame) -> None:
        """Count a frame, and have its picture written."""
        number = self._number + self._frames
        picture = self._tally.frame(frame)
        frame_id = "none" if frame.stamp.frame_id is None else frame.stamp.frame_id
        name = f"{self.name}-{number:05d}-{frame_id}.png"
        # A camera that may wait for the line may wait for the disk.
        if self._saver.save(name, picture, waits=self._settings.on_overload == "block"):
            self._handed_over.append(name)
        self._counted()

    def _trigger(self) -> None:
        """Fire one if the one before has been answered: fired earlier, it would be refused as busy."""
        if not self._trigger_is_out:
            self._trigger_is_out = True
            self._camera.trigger(TriggerRequest(None, self._hear_answer))

    def _hear_answer(self, _answer: TriggerAnswer) -> None:
        self._trigger_is_out = False

    def _hear(self, alarm: CameraAlarm) -> None:
        if alarm.active and self._opened is not None:
            self._died.append(f"{alarm.reason}: {alarm.detail}")
            self._tally.arrivals.began_anew()

    def _await_counters(self) -> None:
        """A grab may be over before its camera has been asked once."""
        before, give_up = self._camera.state().counters, time.monotonic() + COUNTERS_WITHIN_SECONDS
        while self._camera.state().counters is before and time.monotonic() < give_up:
            if isinstance(item := self._camera.grab(POLL_SECONDS), Frame):
                item.release()


def _next_number(camera: str, earlier: Iterable[str]) -> int:
    """The number of its next picture: counts on where an earlier grab ended, so that its pictures stay."""
    named = re.compile(rf"{re.escape(camera)}-([0-9]+)-[^-]+\.png")
    return max((int(one[1]) for name in earlier if (one := named.fullmatch(name))), default=0) + 1
