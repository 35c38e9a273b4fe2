"""Remembers what a line has sent: its status, the last verdicts, the marks, and the history of each camera."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice, pairwise
from statistics import median
from typing import Any

import msgspec

from heatline.edge.monitor.held_picture import HeldPicture, PictureMemory, Pictures, picture_id
from heatline.edge.monitor.marks import Review, combine, merged
from heatline.edge.wire.events import ReviewEvent, StatusEvent, VerdictEvent, in_words

ROWS = 2000
HISTORY_SECONDS = 3600
LATENCIES = 100
"""Verdicts of a camera over which its latency is summed up."""
FRAMES_FOR_PERIOD = 20
RATE_OVER_SECONDS = 10
NS = 1_000_000_000
MOST_PICTURES = 20_000
"""Pictures whose marks are remembered. The oldest are forgotten; the evidence store has their marks, too."""
MOST_NEWS = 200


Row = dict[str, Any]
"""A verdict in short, as docs/view.md describes it."""
OF_EVENT = (
    *("camera", "frame_number", "frame_id", "part_id", "source", "verdict", "reason", "frame_score"),
    *("score_threshold", "latency_ms", "product"),
)
"""What a row has of its event."""


class Reviews:
    """The marks of a line's verdicts. The collector writes them, any thread may read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: OrderedDict[str, list[ReviewEvent]] = OrderedDict()
        """By picture."""
        self._reviewed: dict[str, bool] = {}
        self._expected: dict[str, Future[ReviewEvent]] = {}
        self._news: deque[str] = deque(maxlen=MOST_NEWS)
        self._added = 0

    def expect(self, mark_id: str) -> "Future[ReviewEvent]":
        """Return what will hold the event of a mark. Call `forget` if it is not wanted any more."""
        with self._lock:
            return self._expected.setdefault(mark_id, Future())

    def forget(self, mark_id: str) -> None:
        """Stop to expect a mark."""
        with self._lock:
            self._expected.pop(mark_id, None)

    def add(self, event: ReviewEvent) -> None:
        """Remember a mark. One that no journal holds does not count: nobody finds it later."""
        name = event.mark.picture
        with self._lock:
            expected = self._expected.pop(event.mark.id, None)
            if event.journal_id is not None:
                events = self._events.setdefault(name, [])
                events.append(event)
                self._events.move_to_end(name)
                self._reviewed[name] = bool(combine(merged(events)))
                if len(self._events) > MOST_PICTURES:
                    del self._reviewed[self._events.popitem(last=False)[0]]
                self._news.append(name)
                self._added += 1
        if expected is not None and expected.set_running_or_notify_cancel():
            expected.set_result(event)

    def of(self, picture: str, stored: Iterable[ReviewEvent] = ()) -> Review | None:
        """Return the review of a picture; None: nobody has reviewed it.

        Args:
            stored: its review events in the evidence store, which may hold older ones.
        """
        with self._lock:
            return combine(merged([*stored, *self._events.get(picture, ())])).get(picture)

    def marked(self) -> dict[str, bool]:
        """Return all pictures with marks, and whether these make a review."""
        with self._lock:
            return dict(self._reviewed)

    def news_after(self, cursor: int) -> tuple[list[str], int]:
        """Return the pictures whose marks have changed, each once, and the cursor after them. Of very many, the oldest
        are left out.
        """
        with self._lock:
            new = min(self._added - cursor, len(self._news))
            return list(dict.fromkeys(islice(self._news, len(self._news) - new, None))), self._added


class Second(msgspec.Struct):
    """The verdicts of a camera in one second."""

    at_s: int
    """UTC, s since 1970."""
    frames: int = 0
    """GOOD or DEFECT."""
    latency_ms: float = 0.0
    """Mean of all verdicts."""
    events: int = 0


@dataclass
class CameraMemory:
    """The last frames of one camera."""

    newest_ns: int | None = None
    """Monotonic time of capture of the newest frame that came live."""
    captured_ns: deque[int] = field(default_factory=lambda: deque(maxlen=FRAMES_FOR_PERIOD))
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS))

    @property
    def frame_period_ns(self) -> float | None:
        """Median time between frames; None if not enough came."""
        steps = [after - before for before, after in pairwise(self.captured_ns)]
        return median(steps) if steps else None

    def rate_fps(self, now_ns: int) -> float:
        """Return the verdicts GOOD or DEFECT per second, over the last whole seconds."""
        now_s = now_ns // NS
        last = islice(reversed(self.seconds), RATE_OVER_SECONDS + 1)
        return sum(each.frames for each in last if 0 < now_s - each.at_s <= RATE_OVER_SECONDS) / RATE_OVER_SECONDS


class Memory:
    """What a line has sent. The collector's threads write it, any thread may read it.

    Args:
        clock_ns: the monotonic clock of this PC, which also stamps frames.
        wall_ns: UTC.
        cameras: names of the line's cameras, in the order of its configuration.
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
        self.reviews = Reviews()
        self.status: StatusEvent | None = None
        """The last one that came live."""
        self.heard_ns: int | None = None
        """Monotonic time of the last event that came live."""
        self.restarted_ns: int | None = None
        """Monotonic time at which another boot of the line was noticed."""
        self.fault: str | None = None
        """Why no event can come, as a sentence."""
        self.pictures_fault: str | None = None
        """Why no picture comes, as a sentence."""
        self.cameras = {name: CameraMemory() for name in cameras}
        self.thresholds: dict[str, float] | None = None
        """`score` and `evidence` of the newest verdict, logits."""
        self.state_changes = 0
        """Counts changes of the line's state that a page shows at once."""
        self.listener: Callable[[], None] = lambda: None
        """Called after each change, from any thread."""
        self._rows: deque[Row] = deque(maxlen=ROWS)
        self._rows_added = 0

    def add_status(self, event: StatusEvent) -> None:
        """Remember the line's status."""
        with self.lock:
            before, self.status = self.status, event
            self.heard_ns = self.clock_ns()
            if before is not None and before.boot_id != event.boot_id:
                self.restarted_ns = self.heard_ns
                for camera in self.cameras.values():
                    camera.captured_ns.clear()
            self.state_changes += 1
        self.listener()

    def add_verdict(self, event: VerdictEvent, *, live: bool) -> None:
        """Remember a verdict.

        Args:
            live: it has just come; if not, it was read in the journal.
        """
        with self.lock:
            camera = self.cameras.setdefault(event.camera, CameraMemory())
            if live:
                self.heard_ns = self.clock_ns()
                camera.latencies_ms.append(event.latency_ms)
                if _shows_frame(event):
                    camera.newest_ns = event.times.captured_monotonic_ns
                    camera.captured_ns.append(camera.newest_ns)
            _add_to_history(camera.seconds, event)
            self.thresholds = {"score": event.score_threshold, "evidence": event.evidence_threshold}
            self._rows.append(row_of(event))
            self._rows_added += 1
        self.listener()

    def add_picture(self, picture: HeldPicture) -> None:
        """Remember a picture as the newest one of its camera."""
        self.pictures.add(picture)
        self.listener()

    def add_review(self, event: ReviewEvent) -> None:
        """Remember a person's mark."""
        self.reviews.add(event)
        self.listener()

    def changed(self) -> None:
        """Report a change that was made directly."""
        with self.lock:
            self.state_changes += 1
        self.listener()

    def rows(self, limit: int) -> tuple[list[Row], int]:
        """Return the newest rows, oldest first, and the cursor after them."""
        with self.lock:
            rows, cursor = list(islice(self._rows, max(0, len(self._rows) - limit), None)), self._rows_added
        return [self._reviewed(row) for row in rows], cursor

    def rows_after(self, cursor: int, at_most: int) -> tuple[list[Row], int, int]:
        """Return the rows after a cursor, the number of older ones that are left out beyond `at_most`, and the new
        cursor.
        """
        with self.lock:
            new = self._rows_added - cursor
            rows, after = self.rows(min(new, at_most))
        return rows, new - len(rows), after

    def scores(self, camera: str, at_most: int) -> list[Row]:
        """Return the newest rows of a camera that have a score, oldest first."""
        with self.lock:
            scored = [row for row in self._rows if row["camera"] == camera and row["frame_score"] is not None]
        return scored[-at_most:]

    def _reviewed(self, row: Row) -> Row:
        return row | {"review": self.reviews.of(row["id"])}


def row_of(event: VerdictEvent) -> Row:
    """Return a verdict in short, without its review."""
    return {
        **{name: getattr(event, name) for name in OF_EVENT},
        "id": picture_id(event),
        "at_ns": event.times.captured_at_ns,
        "detail": event.detail or (event.reason and in_words(event.reason)),
        "regions": len(event.regions),
        "picture": None if event.picture is None else "memory",  # it may still be on its way
        "review": None,
    }


def located(rows: Sequence[Row], pictures: Pictures) -> list[Row]:
    """Return rows that say where their pictures are.

    Raises:
        InputError: the evidence store cannot be read.
    """
    places = pictures.places([row["id"] for row in rows])
    return [row | {"picture": places.get(row["id"])} for row in rows]


def _shows_frame(event: VerdictEvent) -> bool:
    """Return whether the camera delivered the frame, also if it got no verdict."""
    return event.verdict != "NO_VERDICT" or event.frame_hw is not None or event.picture is not None


def _add_to_history(seconds: deque[Second], event: VerdictEvent) -> None:
    at_s = event.times.captured_at_ns // NS
    place = next((each for each in islice(reversed(seconds), RATE_OVER_SECONDS) if each.at_s == at_s), None)
    if place is None:
        place = Second(at_s)
        seconds.append(place)
    place.frames += event.verdict != "NO_VERDICT"
    place.events += 1
    place.latency_ms += (event.latency_ms - place.latency_ms) / place.events
