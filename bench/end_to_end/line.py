"""A line whose cameras show pictures from memory, heard by this process; every event is held to what it must say."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.watched_line import Keys, WatchedLine
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import VerdictEvent

FIRST_WITHIN_SECONDS = 120.0
NEXT_WITHIN_SECONDS = 60.0
"""A large network takes seconds for a frame."""
LAST_WITHIN_SECONDS, LAST_WITHIN_PERIODS = 15.0, 3.0
"""Whichever is longer, from the end of a window until a frame that was captured after it is reported."""
SETTLE_SECONDS = 0.5
"""The first frames wait while the rest of the service starts: what becomes of them is no matter of rate."""
SETTLE_FRAMES = 3
FROZEN_AFTER_FRAMES = 3
"""As for real cameras: their frames are looked at for that."""
NOTHING_COUNTS = "nothing that is measured on such a line counts, report this"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a line must say of its pictures."""

    score_threshold: float
    tolerance: float
    """Logits by which a frame score may be off: other batches and streams round otherwise."""
    tiles: int
    """Of a frame."""
    frame_hw: tuple[int, int]
    scores: dict[str, float]
    """Frame scores by the name of the picture, as events tell it."""
    evidence: dict[str, float]
    """The highest evidence of any region, of the pictures that are DEFECT, by their names."""
    evidence_tolerance: float
    """Logits by which that may be off."""
    heatmap_hw: tuple[int, int]
    """Cells."""
    picture_bytes: int
    """Of all of them, as they lie in a camera's memory."""

    @property
    def defective(self) -> float:
        """Share of the pictures that are DEFECT."""
        return sum(score >= self.score_threshold for score in self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Scene:
    """What is run."""

    bundle: Bundle
    precision: Precision
    pictures: Path
    expected: Expected
    cameras: int
    waiting_frames: int
    engine: Keys
    """Of `[engine]`, beside the precision."""

    @property
    def tiles(self) -> int:
        """Of a frame."""
        return self.expected.tiles


@contextmanager
def running(scene: Scene, rate_fps: float | None, *, waits: bool) -> Iterator["Line"]:
    """The service on these cameras.

    Args:
        rate_fps: of each camera; None: a frame is there whenever there is room.
        waits: whether a camera waits for room, else its oldest frame gives way.
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
        ) as line,
    ):
        yield Line(line, partial(require_as_expected, scene.expected))
        line.stop()


@dataclass(frozen=True)
class Told:
    """A verdict event as it was heard."""

    event: VerdictEvent
    at_ns: int

    @property
    def captured_ns(self) -> int:
        return self.event.times.captured_monotonic_ns

    @property
    def number(self) -> int:
        """Of the frame, of a run the first one's: 1, 2, 3, ... as its camera took them."""
        return self.event.frame_number


class Line:
    """What this process hears of it.

    Args:
        check: raises a BenchError where an event does not say what it must.
    """

    def __init__(self, watched: WatchedLine, check: Callable[[VerdictEvent], None]) -> None:
        self.watched, self._check = watched, check

    def next(self) -> Told | None:
        """The next verdict event, or None where none came within a moment.

        Raises:
            BenchError: it says of a picture what it must not, or the service has ended.
        """
        heard = self.watched.next()
        if heard is None or not isinstance(heard.event, VerdictEvent):
            return None
        self._check(heard.event)
        return Told(heard.event, heard.at_ns)

    def wait(self) -> Told:
        """The next verdict event, where one must come.

        Raises:
            BenchError: none came, or as of `next`.
        """
        give_up = time.monotonic() + NEXT_WITHIN_SECONDS
        while (told := self.next()) is None:
            if time.monotonic() > give_up:
                raise BenchError(f"nothing was heard of any frame within {NEXT_WITHIN_SECONDS:.0f} s")
        return told

    def hear_until(self, until_ns: int) -> list[Told]:
        """All verdict events of a time; monotonic."""
        told: list[Told] = []
        while time.monotonic_ns() < until_ns:
            if (one := self.next()) is not None:
                told.append(one)
        return told

    def settle(self, cameras: int) -> int:
        """Wait until a frame of every camera has come through; when the last of them was heard of, monotonic ns.

        Raises:
            BenchError: from some camera nothing comes, or as of `next`.
        """
        there: set[str] = set()
        give_up = time.monotonic() + FIRST_WITHIN_SECONDS
        while len(there) < cameras:
            if time.monotonic() > give_up:
                raise BenchError(
                    f"frames of {len(there)} of {cameras} cameras came within {FIRST_WITHIN_SECONDS:.0f} s"
                )
            if (told := self.next()) is not None and told.event.reason is None:
                there.add(told.event.camera)
        return time.monotonic_ns()

    def hear_to_the_end(
        self, told: list[Told], cameras: int, slowest_fps: float, is_after: Callable[[Told], bool]
    ) -> None:
        """Hear on until of each camera a frame was told of that is of after a time.

        Args:
            told: gets all that is heard.
            slowest_fps: rate of the slowest camera.
        Raises:
            BenchError: from some camera nothing comes, or as of `next`.
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
                told.append(one)
                if is_after(one):
                    over.add(one.event.camera)


def last_within_s(rate_fps: float) -> float:
    """Return how long to wait after a window for the next frame of a camera.

    >>> last_within_s(25.0), last_within_s(0.01)
    (15.0, 300.0)
    """
    return max(LAST_WITHIN_SECONDS, LAST_WITHIN_PERIODS / rate_fps)


def require_as_expected(expected: Expected, event: VerdictEvent) -> None:
    """See that an event says of its picture what the same bundle says by itself.

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
            f"the service judged {event.source} {event.verdict} by {event.frame_score:.4f}, and the same bundle by "
            f"itself {verdict} by {score:.4f}; {NOTHING_COUNTS}"
        )
    if event.verdict == "DEFECT" and (evidence := expected.evidence.get(event.source)) is not None:
        found = event.regions[0].score if event.regions else float("nan")
        if not abs(found - evidence) <= expected.evidence_tolerance:
            raise BenchError(
                f"the service found evidence of {found:.4f} in {event.source}, and the same bundle by itself "
                f"{evidence:.4f}; {NOTHING_COUNTS}"
            )
    hw = None if event.heatmap is None else event.heatmap.hw
    if hw != (expected.heatmap_hw if event.verdict == "DEFECT" else None):
        raise BenchError(
            f"the event of {event.source}, {event.verdict}, has a heatmap of {hw} cells, expected was one of "
            f"{expected.heatmap_hw} where any; {NOTHING_COUNTS}"
        )


def missed(told: Sequence[Told]) -> int:
    """Frames that nothing was heard of, going by the ledger's numbers, which leave out none."""
    missing = 0
    for camera in {one.event.camera for one in told}:
        last = None
        for event in (one.event for one in told if one.event.camera == camera):
            missing += 0 if last is None else event.frame_number - last
            last = event.frame_number + event.frames
    return missing


def due_ns(told: Sequence[Told], rate_fps: float) -> list[int]:
    """When each frame was due: on the grid of its camera, laid so that no stamp is too early.

    A camera's process that gets no processor stamps its frame late. Counted from the stamp, that frame would look fast.
    """
    period_ns = 1e9 / rate_fps
    on_grid = [one.captured_ns - one.number * period_ns for one in told]
    begins = {
        camera: min(start for one, start in zip(told, on_grid, strict=True) if one.event.camera == camera)
        for camera in {one.event.camera for one in told}
    }
    return [round(begins[one.event.camera] + one.number * period_ns) for one in told]
