"""A line whose cameras show pictures from memory. This process receives its events and checks every one of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from heatline.bench.watched_line import Keys, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.inference import Precision
from heatline.edge.wire.events import EvidenceState, StatusEvent, VerdictEvent

FIRST_WITHIN_SECONDS = 120.0
NEXT_WITHIN_SECONDS = 60.0
"""A large network takes seconds per frame."""
LAST_WITHIN_SECONDS, LAST_WITHIN_PERIODS = 15.0, 3.0
"""Whichever is longer, from the end of a window until a frame that was captured after it is reported."""
SETTLE_SECONDS = 0.5
"""The first frames wait while the rest of the service starts, at any rate."""
SETTLE_FRAMES = 3
WAITING_FRAMES = 2
"""Of each camera."""
FROZEN_AFTER_FRAMES = 3
"""As for real cameras, whose frames are compared."""
NOTHING_COUNTS = "no figure of this line counts, report this"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a line must report of its pictures."""

    score_threshold: float
    tolerance: float
    """Error that a frame score may have, logits: other batches and streams round differently."""
    tiles: int
    """Tiles of a frame."""
    frame_hw: tuple[int, int]
    scores: dict[str, float]
    """Frame scores by the name of the picture, as in events."""
    heatmap_hw: tuple[int, int]
    """In cells."""

    @property
    def defective(self) -> float:
        """Share of the pictures that are DEFECT."""
        return sum(score >= self.score_threshold for score in self.scores.values()) / len(self.scores)

    def check(self, event: VerdictEvent) -> None:
        """Raise a BenchError unless an event reports what the same bundle finds in its picture without a line."""
        if event.reason is not None:
            return
        assert event.source is not None
        assert event.frame_score is not None
        score, is_defect = self.scores[event.source], event.verdict == "DEFECT"
        # On the edge of the threshold, either verdict is right.
        is_sure = abs(score - self.score_threshold) > self.tolerance
        heatmap_hw = None if event.heatmap is None else event.heatmap.hw
        if (
            abs(event.frame_score - score) > self.tolerance
            or (is_sure and is_defect != (score >= self.score_threshold))
            or bool(event.regions) != is_defect
            or heatmap_hw != (self.heatmap_hw if is_defect else None)
        ):
            raise BenchError(
                f"the service judged {event.source} {event.verdict} by {event.frame_score:.4f}, with "
                f"{len(event.regions)} regions and a heatmap of {heatmap_hw} cells; the same bundle without a line "
                f"finds {score:.4f}, threshold {self.score_threshold:.4f}, heatmap {self.heatmap_hw}; {NOTHING_COUNTS}"
            )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A line to run."""

    bundle: Bundle
    precision: Precision
    cameras: Mapping[str, Keys]
    """By name, the keys that differ from those of `running`."""
    check: Callable[[VerdictEvent], None]
    """Raises a BenchError if an event is wrong."""
    tables: Mapping[str, Keys] = field(default_factory=dict)
    """As of `WatchedLine`."""
    journal: bool = False


@contextmanager
def running(scene: Scene, rates: Mapping[str, float] | None) -> Iterator["Line"]:
    """Run the service for the duration of the `with` block.

    Args:
        rates: frames per second by camera, of which the oldest is dropped where there is no room; None: a frame comes
            whenever there is room.
    """
    cameras: list[Keys] = [
        {
            "kind": "folder",
            "name": name,
            "preload": True,
            "loop": True,
            "on_overload": "block" if rates is None else "drop_oldest",
            "waiting_frames": WAITING_FRAMES,
            "frozen_after_frames": FROZEN_AFTER_FRAMES,
            **({} if rates is None else {"rate_fps": rates[name]}),
            **keys,
        }
        for name, keys in scene.cameras.items()
    ]
    with (
        TemporaryDirectory(prefix="heatline-bench-") as folder,
        WatchedLine(
            Path(folder), scene.bundle.path, scene.precision, cameras, tables=scene.tables, journal=scene.journal
        ) as line,
    ):
        yield Line(line, scene.check)
        line.stop()


@dataclass(frozen=True)
class ReceivedVerdict:
    """A verdict event and the time of its receipt, monotonic."""

    event: VerdictEvent
    at_ns: int

    @property
    def captured_ns(self) -> int:
        return self.event.times.captured_monotonic_ns


class Line:
    """The verdict events of a line.

    Args:
        check: raises a BenchError if an event is wrong.
    """

    def __init__(self, watched: WatchedLine, check: Callable[[VerdictEvent], None]) -> None:
        self.watched, self._check = watched, check
        self.evidence = EvidenceState()
        """As the last status reported it."""

    def next(self) -> ReceivedVerdict | None:
        """Return the next verdict event; None if none came within the subscriber's timeout.

        Raises:
            BenchError: the event is wrong, or the service has ended.
        """
        received = self.watched.next()
        if received is None:
            return None
        if isinstance(received.event, StatusEvent):
            self.evidence = received.event.evidence or self.evidence
        if not isinstance(received.event, VerdictEvent):
            return None
        self._check(received.event)
        return ReceivedVerdict(received.event, received.at_ns)

    def wait(self) -> ReceivedVerdict:
        """Wait for the next verdict event; raise a BenchError if none comes, or as of `next`."""
        give_up = time.monotonic() + NEXT_WITHIN_SECONDS
        while (received := self.next()) is None:
            if time.monotonic() > give_up:
                raise BenchError(f"no frame was reported within {NEXT_WITHIN_SECONDS:.0f} s")
        return received

    def receive_until(self, until_ns: int) -> list[ReceivedVerdict]:
        """Return all verdict events until a time, monotonic."""
        received: list[ReceivedVerdict] = []
        while time.monotonic_ns() < until_ns:
            if (one := self.next()) is not None:
                received.append(one)
        return received

    def settle(self, cameras: int) -> int:
        """Wait until a frame of every camera was inspected; return the time of the last receipt, monotonic ns."""
        self._receive_of_each(cameras, FIRST_WITHIN_SECONDS, lambda one: one.event.reason is None)
        return time.monotonic_ns()

    def receive_past(self, time_ns: int, cameras: int, slowest_fps: float) -> list[ReceivedVerdict]:
        """Go on until a frame of each camera that was captured after a time was reported; return all events.

        Raises:
            BenchError: a camera shows nothing, or as of `next`.
        """
        within_s = max(LAST_WITHIN_SECONDS, LAST_WITHIN_PERIODS / slowest_fps)
        return self._receive_of_each(cameras, within_s, lambda one: one.captured_ns >= time_ns)

    def _receive_of_each(
        self, cameras: int, within_s: float, counts: Callable[[ReceivedVerdict], bool]
    ) -> list[ReceivedVerdict]:
        received: list[ReceivedVerdict] = []
        seen: set[str] = set()
        give_up = time.monotonic() + within_s
        while len(seen) < cameras:
            if time.monotonic() > give_up:
                raise BenchError(
                    f"{cameras - len(seen)} of {cameras} cameras reported no frame within {within_s:.0f} s; "
                    f"{self.watched.process.log_tail()}"
                )
            if (one := self.next()) is not None:
                received.append(one)
                seen |= {one.event.camera} if counts(one) else set()
        return received


def count_unreported(received: Sequence[ReceivedVerdict]) -> int:
    """Count the frames that no event reported, by the ledger's numbers, which have no gap."""
    missing = 0
    for camera in {one.event.camera for one in received}:
        last = None
        for event in (one.event for one in received if one.event.camera == camera):
            missing += 0 if last is None else event.frame_number - last
            last = event.frame_number + event.frames
    return missing


def due_ns(received: Sequence[ReceivedVerdict], rates: Mapping[str, float]) -> list[int]:
    """Return when each frame was due, monotonic: on its camera's grid, laid so that no timestamp is too early.

    A camera's process that waits for a processor stamps its frame late. Counted from the stamp, it would look fast.

    Args:
        rates: frames per second by camera.
    """

    def since_first(one: ReceivedVerdict) -> float:
        return one.event.frame_number * 1e9 / rates[one.event.camera]

    begins: dict[str, float] = {}
    for one in received:
        start = one.captured_ns - since_first(one)
        begins[one.event.camera] = min(start, begins.get(one.event.camera, start))
    return [round(begins[one.event.camera] + since_first(one)) for one in received]
