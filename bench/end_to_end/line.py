"""A line whose cameras show pictures from memory. This process receives its events and checks every one of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
    evidence: dict[str, float]
    """Highest evidence of any region, for each picture that is DEFECT, by its name."""
    evidence_tolerance: float
    """Error that it may have, logits."""
    heatmap_hw: tuple[int, int]
    """In cells."""
    picture_bytes: int
    """Memory of all pictures in a camera's process."""

    @property
    def defective(self) -> float:
        """Share of the pictures that are DEFECT."""
        return sum(score >= self.score_threshold for score in self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Scene:
    """A line to run."""

    bundle: Bundle
    precision: Precision
    pictures: Path
    expected: Expected
    cameras: int
    waiting_frames: int
    engine: Keys
    """Keys of `[engine]`, besides the precision."""

    @property
    def tiles(self) -> int:
        """Tiles of a frame."""
        return self.expected.tiles


@contextmanager
def running(
    scene: Scene,
    rate_fps: float | None,
    *,
    waits: bool,
    tables: Mapping[str, Keys] = {},
) -> Iterator["Line"]:
    """Run the service on these cameras for the duration of the `with` block.

    Args:
        rate_fps: of each camera; None: a frame comes whenever there is room.
        waits: whether a camera waits for room; otherwise its oldest frame is dropped.
        tables: further tables of the line's file.
    """
    cameras: list[Keys] = [
        {
            "kind": "folder",
            "name": f"cam{number}",
            "path": str(scene.pictures),
            "preload": True,
            "loop": True,
            "on_overload": "block" if waits else "drop_oldest",
            "waiting_frames": scene.waiting_frames,
            "frozen_after_frames": FROZEN_AFTER_FRAMES,
            **({} if rate_fps is None else {"rate_fps": rate_fps}),
        }
        for number in range(scene.cameras)
    ]
    with (
        TemporaryDirectory(prefix="heatline-bench-") as folder,
        WatchedLine(
            Path(folder),
            scene.bundle.path,
            scene.precision,
            cameras,
            thresholds={"score": scene.expected.score_threshold},
            engine=scene.engine,
            more=tables,
        ) as line,
    ):
        yield Line(line, partial(require_as_expected, scene.expected))
        line.stop()


@dataclass(frozen=True)
class ReceivedVerdict:
    """A verdict event and the time of its receipt, monotonic."""

    event: VerdictEvent
    at_ns: int

    @property
    def captured_ns(self) -> int:
        return self.event.times.captured_monotonic_ns

    @property
    def number(self) -> int:
        """Number of the frame, or of the first one if the event is of several: 1, 2, 3, ... in the order of capture."""
        return self.event.frame_number


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
        """Wait for the next verdict event.

        Raises:
            BenchError: none came, or as of `next`.
        """
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
        """Wait until a frame of every camera was inspected; returns the time of the last such receipt, monotonic ns.

        Raises:
            BenchError: a camera shows nothing, or as of `next`.
        """
        seen: set[str] = set()
        give_up = time.monotonic() + FIRST_WITHIN_SECONDS
        while len(seen) < cameras:
            if time.monotonic() > give_up:
                raise BenchError(f"frames of {len(seen)} of {cameras} cameras came within {FIRST_WITHIN_SECONDS:.0f} s")
            if (received := self.next()) is not None and received.event.reason is None:
                seen.add(received.event.camera)
        return time.monotonic_ns()

    def receive_past(
        self,
        received: list[ReceivedVerdict],
        cameras: int,
        slowest_fps: float,
        is_after: Callable[[ReceivedVerdict], bool],
    ) -> None:
        """Go on until a frame of each camera that is after a time was reported.

        Args:
            received: all events are appended to it.
            slowest_fps: rate of the slowest camera.
            is_after: whether an event is of a frame after that time.
        Raises:
            BenchError: a camera shows nothing, or as of `next`.
        """
        over: set[str] = set()
        within_s = last_within_s(slowest_fps)
        give_up = time.monotonic() + within_s
        while len(over) < cameras:
            if time.monotonic() > give_up:
                raise BenchError(
                    f"{cameras - len(over)} of {cameras} cameras fell silent: no frame that was captured after the "
                    f"window was reported within {within_s:.0f} s; {self.watched.process.log_tail()}"
                )
            if (one := self.next()) is not None:
                received.append(one)
                if is_after(one):
                    over.add(one.event.camera)


def last_within_s(rate_fps: float) -> float:
    """Return how long to wait after a window for the next frame of a camera.

    >>> last_within_s(25.0), last_within_s(0.01)
    (15.0, 300.0)
    """
    return max(LAST_WITHIN_SECONDS, LAST_WITHIN_PERIODS / rate_fps)


def require_as_expected(expected: Expected, event: VerdictEvent) -> None:
    """Check that an event reports what the same bundle finds in its picture without a line.

    Raises:
        BenchError: it does not.
    """
    if event.reason is not None:
        return
    assert event.source is not None
    assert event.frame_score is not None
    score = expected.scores[event.source]
    verdict = "DEFECT" if score >= expected.score_threshold else "GOOD"
    # On the edge of the threshold, either verdict is right.
    wrong = event.verdict != verdict and abs(score - expected.score_threshold) > expected.tolerance
    if wrong or abs(event.frame_score - score) > expected.tolerance:
        raise BenchError(
            f"the service judged {event.source} {event.verdict} by {event.frame_score:.4f}, and the same bundle "
            f"without a line {verdict} by {score:.4f}; {NOTHING_COUNTS}"
        )
    if event.verdict == "DEFECT" and (evidence := expected.evidence.get(event.source)) is not None:
        found = event.regions[0].score if event.regions else float("nan")
        if not abs(found - evidence) <= expected.evidence_tolerance:
            raise BenchError(
                f"the service found evidence of {found:.4f} in {event.source}, and the same bundle without a line "
                f"{evidence:.4f}; {NOTHING_COUNTS}"
            )
    hw = None if event.heatmap is None else event.heatmap.hw
    if hw != (expected.heatmap_hw if event.verdict == "DEFECT" else None):
        raise BenchError(
            f"the event of {event.source}, {event.verdict}, has a heatmap of {hw} cells, expected was one of "
            f"{expected.heatmap_hw} where any; {NOTHING_COUNTS}"
        )


def count_unreported(received: Sequence[ReceivedVerdict]) -> int:
    """Count the frames that no event reported, by the ledger's numbers, which have no gap."""
    missing = 0
    for camera in {one.event.camera for one in received}:
        last = None
        for event in (one.event for one in received if one.event.camera == camera):
            missing += 0 if last is None else event.frame_number - last
            last = event.frame_number + event.frames
    return missing


def due_ns(received: Sequence[ReceivedVerdict], rate_fps: float) -> list[int]:
    """Return when each frame was due, monotonic: on its camera's grid, laid so that no timestamp is too early.

    A camera's process that waits for a processor stamps its frame late. Counted from the stamp, it would look fast.
    """
    period_ns = 1e9 / rate_fps
    on_grid = [one.captured_ns - one.number * period_ns for one in received]
    begins = {
        camera: min(start for one, start in zip(received, on_grid, strict=True) if one.event.camera == camera)
        for camera in {one.event.camera for one in received}
    }
    return [round(begins[one.event.camera] + one.number * period_ns) for one in received]
