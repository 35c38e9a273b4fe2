"""Remembers what a line has sent, and describes the line as it is now: facts, and sentences for people."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice, pairwise
from statistics import median
from typing import Any

import msgspec
import numpy as np

from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.describe import describe_event
from heatline.edge.drift import describe_change, describe_limits
from heatline.edge.monitor.held_picture import HeldPicture, PictureMemory, picture_id
from heatline.edge.monitor.marks import Review, combine, merged
from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import (
    CameraState,
    Consumer,
    Handshake,
    JournalState,
    PartEvent,
    ReviewEvent,
    StatusEvent,
    VerdictEvent,
    in_words,
)

ROWS = 2000
LATENCIES = 100
"""Verdicts of a camera over which its latency is summed up."""
FRAMES_FOR_PERIOD = 20
HISTORY_SECONDS = 3600
NS = 1_000_000_000
MOST_PICTURES = 20_000
"""Pictures whose marks are remembered. The oldest are forgotten; the evidence store has their marks, too."""
RECENT = 200
"""Marks that the evidence store may not have yet."""
SILENT_AFTER_SECONDS = 3.0
"""A line reports its status about once a second."""
STALE_AFTER_PERIODS = 3
STALE_AFTER_SECONDS = 2.0
"""At least."""
OF_STATUS = "journal", "evidence", "bundle", "product", "acting", "precision", "shadow", "parts"
"""What the page shows as the line reported it last; null: it has not reported."""


Row = dict[str, Any]
"""A verdict in short, as docs/view.md describes it."""
OF_EVENT = (
    *("camera", "frame_number", "frame_id", "part_id", "source", "verdict", "reason", "frame_score"),
    *("score_threshold", "latency_ms", "product"),
)
"""What a row has of its event."""


class Second(msgspec.Struct):
    """The verdicts of a camera in one second."""

    frames: int = 0
    """GOOD or DEFECT."""
    events: int = 0
    """All verdicts."""
    latency_ms: float = 0.0
    """Sum of all verdicts."""


@dataclass
class CameraMemory:
    """The last frames of one camera."""

    newest_ns: int | None = None
    """Monotonic time of capture of the newest frame that came live."""
    captured_ns: deque[int] = field(default_factory=lambda: deque(maxlen=FRAMES_FOR_PERIOD))
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    seconds: dict[int, Second] = field(default_factory=dict)
    """By UTC, s since 1970."""


class Memory:
    """What a line has sent. The collector's threads write it, any thread may read it.

    Args:
        clock_ns: the monotonic clock of this PC, which also stamps frames.
        wall_ns: UTC.
        cameras: in the order of the line's file.
    """

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        cameras: Iterable[str] = (),
    ) -> None:
        self.clock_ns, self.wall_ns = clock_ns, wall_ns
        self.lock = threading.RLock()
        self.pictures = PictureMemory()
        self._marks: dict[str, list[ReviewEvent]] = {}
        """By picture; the one that was marked last is the last."""
        self.status: StatusEvent | None = None
        """The last one that came live."""
        self.part: PartEvent | None = None
        """The last part that came live."""
        self.heard_ns: int | None = None
        """Monotonic time of the last event that came live."""
        self.fault: str | None = None
        """Why no event can come, as a sentence."""
        self.pictures_fault: str | None = None
        """Why no picture comes, as a sentence."""
        self.cameras = {name: CameraMemory() for name in cameras}
        self.thresholds: dict[str, float | None] | None = None
        """`score` and `evidence` of the newest verdict, logits."""
        self.listener: Callable[[Row | None], None] = lambda _: None
        """Called from any thread, with a message for open pages, or None: a picture came."""
        self._rows: deque[Row] = deque(maxlen=ROWS)

    def add_status(self, event: StatusEvent) -> None:
        with self.lock:
            self.status = event
            self.heard_ns = self.clock_ns()

    def add_verdict(self, event: VerdictEvent, *, live: bool) -> None:
        """Remember a verdict, which came live or was read in the journal."""
        with self.lock:
            camera = self.cameras.setdefault(event.camera, CameraMemory())
            if live:
                self.heard_ns = self.clock_ns()
                camera.latencies_ms.append(event.latency_ms)
                # The camera delivered the frame, also if it got no verdict.
                if event.verdict != "NO_VERDICT" or event.frame_hw is not None or event.picture is not None:
                    camera.newest_ns = event.times.captured_monotonic_ns
                    camera.captured_ns.append(camera.newest_ns)
            second = camera.seconds.setdefault(event.times.captured_at_ns // NS, Second())
            second.frames += event.verdict != "NO_VERDICT"
            second.events += 1
            second.latency_ms += event.latency_ms
            if len(camera.seconds) > HISTORY_SECONDS:
                del camera.seconds[next(iter(camera.seconds))]
            thresholds = {"score": event.score_threshold, "evidence": event.evidence_threshold}
            self.thresholds = None if event.score_threshold is None else thresholds
            row = row_of(event)
            self._rows.append(row)
        self.listener({"type": "verdict", **self._reviewed(row)})

    def add_picture(self, picture: HeldPicture) -> None:
        """Remember a picture as the newest one of its camera."""
        self.pictures.add(picture)
        self.listener(None)

    def add_review(self, event: ReviewEvent) -> None:
        """Remember a person's mark. One that no journal holds does not count: nobody finds it later."""
        if event.journal_id is None:
            return
        name = event.mark.picture
        with self.lock:
            self._marks[name] = [*self._marks.pop(name, ()), event]
            if len(self._marks) > MOST_PICTURES:
                del self._marks[next(iter(self._marks))]
        self.listener({"type": "review", "id": name, "review": self.review_of(name)})

    def review_of(self, picture: str, stored: Review | None = None) -> Review | None:
        """Return the review of a picture; of one of whose marks none came, what is stored; None: nobody has reviewed
        it.
        """
        with self.lock:
            events = self._marks.get(picture)
            return stored if events is None else combine(merged(events)).get(picture)

    def marked(self) -> dict[str, bool]:
        """Return the pictures that were marked last, and whether the marks make a review."""
        with self.lock:
            return {name: self.review_of(name) is not None for name in islice(reversed(self._marks), RECENT)}

    def rows(self, limit: int) -> list[Row]:
        """Return the newest rows, oldest first."""
        with self.lock:
            return [self._reviewed(row) for row in [*self._rows][-limit:]]

    def scores(self, camera: str, at_most: int) -> list[Row]:
        """Return the newest rows of a camera that have a score, oldest first."""
        with self.lock:
            scored = [row for row in self._rows if row["camera"] == camera and row["frame_score"] is not None]
        return scored[-at_most:]

    def history(self, seconds: int) -> dict[str, object]:
        """Return rate and latency of each camera by second, up to the last whole one; None: no verdict came."""
        end = self.wall_ns() // NS
        times = range(end - seconds, end)
        with self.lock:
            found = {name: [camera.seconds.get(at_s) for at_s in times] for name, camera in self.cameras.items()}
            return {
                "t": list(times),
                "rate": {name: [each and each.frames for each in row] for name, row in found.items()},
                "latency_ms": {
                    name: [each and round(each.latency_ms / each.events, 3) for each in row]
                    for name, row in found.items()
                },
            }

    def _reviewed(self, row: Row) -> Row:
        return row | {"review": self.review_of(row["id"])}


def row_of(event: VerdictEvent) -> Row:
    """Return a verdict in short, without its review."""
    return {
        **{name: getattr(event, name) for name in OF_EVENT},
        "id": picture_id(event),
        "at_ns": event.times.captured_at_ns,
        "detail": event.detail or (event.reason and in_words(event.reason)),
        "regions": len(event.regions),
        "longest_mm": event.longest and event.longest.extent,
        "measured": [(region.peak_xy, region.mm.extent + region.mm.error) for region in event.regions if region.mm],
        "picture": event.picture,
        "cleared": event.screened is not None and event.screened.cleared > 0,
        "review": None,
    }


def tolerance_of(row: Row, camera: CameraSettings | None) -> float | None:
    """Return the mm above which a camera's `ignore_below_mm` makes a row GOOD; 0: its zones do so by themselves; None:
    no limit does. Where the camera is not known, it stays as the line judged it.
    """
    if camera is None:
        return 0.0 if row["verdict"] == "GOOD" and row["regions"] else None
    found = [(camera.zone_at(peak), mm) for peak, mm in row["measured"]]
    if (
        not found
        or len(found) < row["regions"]
        or any(zone and mm >= (zone.ignore_below_mm or 0) for zone, mm in found)
    ):
        return None
    return max((mm for zone, mm in found if zone is None), default=0.0)


def describe(memory: Memory, line: str) -> dict[str, Any]:
    """Describe the line as it is now, as docs/view.md says."""
    with memory.lock:
        status, now_ns = memory.status, memory.clock_ns()
        running = is_running(memory)
        names = dict.fromkeys(
            [*(status.ledger if status else ()), *(status.cameras if status else ()), *memory.cameras]
        )
        cameras = {name: _camera(memory, name, running, now_ns) for name in names}
        return {
            **{name: getattr(status, name, None) for name in OF_STATUS},
            "line": status.line if status else line,
            "running": running,
            "collecting": status is not None and status.bundle is None,
            "now_ns": memory.wall_ns(),
            "handshake": readiness(memory),
            "cameras": cameras,
            "consumers": status.journal.consumers if status and status.journal else {},
            "drift": status.drift if status and running else {},
            "thresholds": memory.thresholds,
            "part": memory.part and describe_event(memory.part)._asdict(),
            "words": _words(memory, running, cameras),
        }


def is_running(memory: Memory) -> bool:
    """Return whether the line has reported a short time ago, and not that it has stopped."""
    status, heard_ns = memory.status, memory.heard_ns
    if status is None or heard_ns is None or status.state == "STOPPED":
        return False
    return memory.clock_ns() - heard_ns < SILENT_AFTER_SECONDS * NS


def readiness(memory: Memory) -> Handshake:
    """Return whether the line is ready for the next part. One that is not heard is not ready."""
    status = memory.status
    if is_running(memory) and status is not None:
        return status.handshake
    reason = "stopped" if status is not None and status.state == "STOPPED" else "unreachable"
    beat = 0 if status is None else status.handshake.heartbeat
    return Handshake(state="NOT_READY", reason=reason, detail=_why_not_running(memory), heartbeat=beat)


def _why_not_running(memory: Memory) -> str:
    status, heard_ns = memory.status, memory.heard_ns
    if memory.fault is not None:
        return f"No event can come from the line: {memory.fault}."
    if status is None or heard_ns is None:
        return "The line does not run, or has not reported yet: no status came from it."
    if status.state == "STOPPED":
        return f"The line has stopped at {datetime.fromtimestamp(status.at_ns / NS):%H:%M:%S on %Y-%m-%d}."
    silent_s = (memory.clock_ns() - heard_ns) / NS
    return f"Nothing came from the line for {silent_s:.0f} s: it was killed, it hangs, or the connection is gone."


def _camera(memory: Memory, name: str, running: bool, now_ns: int) -> dict[str, Any]:
    """Describe a camera and its frames."""
    status = memory.status
    known = status.cameras.get(name) if status and running else None
    camera = memory.cameras.get(name, CameraMemory())
    age_ns = None if camera.newest_ns is None else max(0, now_ns - camera.newest_ns)
    captured_ns = camera.captured_ns
    steps = [after - before for before, after in pairwise(captured_ns)]
    period_ns = median(steps) if steps else None
    limit_ns = max(STALE_AFTER_SECONDS * NS, STALE_AFTER_PERIODS * (period_ns or 0))
    latencies = np.percentile(camera.latencies_ms, (50, 95)).tolist() if camera.latencies_ms else None
    return {
        "state": known.state if known else "UNKNOWN",
        "detail": known.detail or (known.reason and in_words(f"failed.{known.reason}")) if known else None,
        "rate_fps": len(captured_ns) * NS / max(1, now_ns - captured_ns[0]) if running and captured_ns else 0.0,
        "latency_ms": latencies and dict(zip(("median", "p95"), latencies, strict=True)),
        "newest_age_ms": None if age_ns is None else age_ns / 1e6,
        "frame_period_ms": None if period_ns is None else period_ns / 1e6,
        "stale": age_ns is None or age_ns > limit_ns,  # its picture must not look like a new one
        "ledger": status.ledger.get(name) if status else None,
    }


def _words(memory: Memory, running: bool, cameras: dict[str, dict[str, Any]]) -> list[str]:
    """Return what a person should know, the most severe first. Dead cameras and full disks are in the handshake."""
    status = memory.status
    words = [] if running else [_why_not_running(memory)]
    if not running and any(camera["newest_age_ms"] is not None for camera in cameras.values()):
        words.append("The pictures and figures on this page are the last that came.")
    if status is not None and running:
        if status.handshake.state != "READY" and status.handshake.detail is not None:
            words.append(f"{status.handshake.state}: {_sentence(status.handshake.detail)}")
        words += [
            _no_frame(name, cameras[name], state)
            for name, state in status.cameras.items()
            if state.state not in ("DEAD", "ENDED") and cameras[name]["stale"]
        ]
        words += _about_drift(status)
        if (screened := status.screened) is not None and screened.disagreed:
            words.append(
                f"Audits found DEFECT frames that the screening stage calls good, by {screened.disagreed} of "
                f"{screened.audited} audited tiles: look at the frames, and see docs/screening.md."
            )
        if (journal := status.journal) is not None:
            words += [
                f"Consumer {name} is away, and {format_count(count, 'event')} {is_are(count)} stored for it."
                for name, consumer in journal.consumers.items()
                if not consumer.connected and (count := lag(consumer, journal))
            ]
        if memory.pictures_fault is not None:
            words.append(f"No pictures come from the line: {_sentence(memory.pictures_fault)}")
        if status.shadow is not None and status.shadow.fault is not None:
            words.append(f"The shadow bundle judges no frames: {_sentence(status.shadow.fault)}")
        if not status.acting:
            words.append("The line is being commissioned: no ejector may act on its verdicts.")
    return words


def _no_frame(name: str, camera: dict[str, Any], state: CameraState) -> str:
    if camera["newest_age_ms"] is None:
        return f"Camera {name} ({state.state}): no frame came since this page's program started."
    what = "no verdict" if camera["ledger"] is not None and camera["ledger"].in_flight else "no frame"
    return f"Camera {name} ({state.state}): {what} for {camera['newest_age_ms'] / 1000:.0f} s."


def _about_drift(status: StatusEvent) -> list[str]:
    """Return one sentence per camera that has drifted."""
    words = []
    for name, readings in status.drift.items():
        drifted = [
            f"{describe_change(measure, reading.value, reading.low)} ({reading.value:.3g}, "
            f"{describe_limits(reading.low, reading.high)} expected)"
            for measure, reading in readings.items()
            if reading.drifted
        ]
        if drifted:
            words.append(f"Camera {name}, compared with the calibration: {', '.join(drifted)}.")
    return words


def lag(consumer: Consumer, journal: JournalState) -> int:
    """Return the number of events in the journal that a consumer has not acknowledged."""
    return max(0, journal.last_seq - max(consumer.acked_seq, journal.first_seq - 1))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
