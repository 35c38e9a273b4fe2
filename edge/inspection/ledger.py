"""The frame ledger: the one book of frames, from a frame's announcement to its bin.

    captured == inspected + sum(dropped) + sum(failed) + in_flight

A frame is announced, which gives it a number and the setup that inspects it; it waits in its camera's lane; it gets
exactly one outcome; it leaves once all earlier frames of its camera have left; and it is booked once its event is
passed to the publisher. Frames of one camera are numbered 1, 2, 3, ... as they are announced; lost frames have numbers
too. A frame without an outcome at its deadline becomes `dropped[deadline]`, and a later outcome for it is ignored.
Consecutive frames that were lost for the same reason leave as one outcome.

Outcomes hold the pixels of their frames. The ledger releases those of outcomes that it ignores or merges, and of frames
that were dropped. Who pops an outcome releases the rest.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from heatline.edge.cameras.settings import Policy
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.inspector import LineSetup, Outcome, Unjudged
from heatline.edge.wire.events import Account

PROBE = ""
"""The lane of probes, which are not counted. No camera can have this name."""
JUDGED_WAITING = 2
"""How many judgements, which hold heatmaps, may wait to leave."""
UNJUDGED_WITH_PIXELS = 2
"""How many frames of a camera may wait to leave with their pixels and without a judgement: nothing else bounds them."""
_TOO_LATE = Unjudged("dropped", "deadline", "there was no verdict by its deadline")
_OVERLOAD = Unjudged("dropped", "overload", "frames came faster than there was time to inspect them")
_STOPPED = Unjudged("dropped", "stopped", "the line stopped before there was room for it")

ItemT = TypeVar("ItemT", bound=Frame | BadFrame)


@dataclass(frozen=True)
class Lane:
    """How many of one camera's frames may wait for inspection, and what happens when the lane is full.

    `block` makes the camera wait for room, so that no frame is lost: for file sources. `drop_oldest` drops the oldest
    waiting frame: for a camera that does not wait. `drop_newest` drops the new frame: for a line that must finish what
    it has begun, such as all pictures of one part.
    """

    capacity: int
    policy: Policy


@dataclass
class _Entry:
    """A frame that was announced and has not left."""

    stamp: Stamp
    setup: LineSetup
    outcome: Outcome | None = None


@dataclass
class _Camera:
    lane: Lane
    captured: int = 0
    inspected: int = 0
    lost: Mapping[Literal["dropped", "failed"], Counter[str]] = field(
        default_factory=lambda: {"dropped": Counter(), "failed": Counter()}
    )
    waiting: deque[Frame] = field(default_factory=deque)
    """Frames that wait for inspection."""
    entries: deque[_Entry] = field(default_factory=deque)

    def account(self) -> Account:
        dropped, failed = self.lost["dropped"], self.lost["failed"]
        booked = self.inspected + dropped.total() + failed.total()
        return Account(self.captured, self.inspected, dict(dropped), dict(failed), self.captured - booked)


class Ledger:
    """Counts frames, hands them on, and puts their outcomes back into the order of frames. Any thread; one calls `take`
    and one calls `pop`. A single lock protects everything, so that accounts balance at every instant and each frame has
    one setup: `setup` until another one is activated.
    """

    def __init__(self, lanes: Mapping[str, Lane], setup: LineSetup, log: InFlightLog | None = None) -> None:
        self._cameras = {name: _Camera(lane) for name, lane in lanes.items()}
        self._cameras[PROBE] = _Camera(Lane(1, "drop_newest"))
        self._setup, self._log = setup, log
        self._open: dict[tuple[str, int], _Entry] = {}
        """Frames without an outcome, by camera and number."""
        self._take_turn, self._pop_turn = deque(self._cameras), deque(self._cameras)
        self._judged = 0
        self._closed = self._finished = False
        self._lock = threading.Lock()
        self._room, self._arrived, self._ended = (threading.Condition(self._lock) for _ in range(3))

    def accounts(self) -> dict[str, Account]:
        """Return all cameras' accounts at one instant."""
        with self._lock:
            return {name: camera.account() for name, camera in self._cameras.items() if name != PROBE}

    @property
    def setup(self) -> LineSetup:
        """The active setup, which inspects frames that are announced now."""
        return self._setup

    def activate(self, setup: LineSetup) -> None:
        """Inspect frames that are announced from now on by this setup. The former setup inspects all earlier frames."""
        with self._lock:
            self._setup = setup

    # A frame's way, in order.

    def announce(self, item: ItemT) -> ItemT:
        """Book a frame, or a run of frames, that a camera announced; return it with its number."""
        with self._lock:
            camera = self._cameras[item.stamp.camera]
            item = replace(item, stamp=item.stamp.with_number(camera.captured + 1))
            camera.captured += item.stamp.frames
            entry = _Entry(item.stamp, self._setup)
            camera.entries.append(entry)
            self._open[item.stamp.camera, item.stamp.number] = entry
            if item.stamp.due_monotonic_ns is not None:
                self._ended.notify()  # its deadline may be the earliest
        if self._log is not None:
            self._log.announced(item.stamp)
        return item

    def hand_over(self, frame: Frame) -> None:
        """Have an announced frame inspected, or drop one by the lane's policy; once closed, drop each new frame."""
        camera, dropped, why = self._cameras[frame.stamp.camera], None, _OVERLOAD
        with self._lock:
            capacity, policy = camera.lane.capacity, camera.lane.policy
            if policy == "block":
                self._room.wait_for(lambda: len(camera.waiting) < capacity or self._closed)
            if self._closed or (policy == "drop_newest" and len(camera.waiting) >= capacity):
                dropped, why = frame, _STOPPED if self._closed else _OVERLOAD
            else:
                if len(camera.waiting) >= capacity:
                    dropped = camera.waiting.popleft()
                camera.waiting.append(frame)
                self._arrived.notify()
        if dropped is not None:
            self._drop(dropped, why)

    @property
    def waiting(self) -> int:
        """How many frames wait for inspection."""
        return sum(len(camera.waiting) for camera in self._cameras.values())

    def take(self) -> tuple[Frame, LineSetup] | None:
        """Wait for the next frame to inspect, and return it with its setup; None once the ledger is closed and no frame
        waits. Lanes are served in turn. A frame whose deadline has passed is left out: its tiles would only delay
        others.
        """
        with self._lock:
            while True:
                self._arrived.wait_for(lambda: self._closed or self.waiting)
                if not self.waiting:
                    return None
                while not self._cameras[self._take_turn[0]].waiting:
                    self._take_turn.rotate(-1)
                frame = self._cameras[self._take_turn[0]].waiting.popleft()
                self._take_turn.rotate(-1)
                self._room.notify_all()
                entry = self._open.get((frame.stamp.camera, frame.stamp.number))
                if entry is not None:
                    return frame, entry.setup
                frame.release()

    def complete(self, outcome: Outcome) -> None:
        """Add a frame's outcome, and take over its pixels. A complete one waits for room, and is ignored if late."""
        with self._lock:
            if outcome.is_complete:
                self._room.wait_for(lambda: self._judged < JUDGED_WAITING or self._finished)
            key = outcome.stamp.camera, outcome.stamp.number
            entry = self._open.get(key)
            if entry is None or (outcome.is_complete and _is_due(entry.stamp)):
                outcome.release()
                return
            del self._open[key]
            self._judged += outcome.is_complete
            self._bound_pixels(outcome)
            outcome.setup = entry.setup
            entry.outcome = outcome
            self._ended.notify()

    def pop(self) -> Outcome | None:
        """Wait for the next outcome in order and return it; None once the ledger is finished and has none left."""
        with self._lock:
            while True:
                due_ns = self._expire()
                for _ in range(len(self._pop_turn)):
                    entries = self._cameras[self._pop_turn[0]].entries
                    self._pop_turn.rotate(-1)  # no camera's events delay another's
                    if entries and entries[0].outcome is not None:
                        return self._pop(entries)
                if self._finished:
                    return None
                self._ended.wait(None if due_ns is None else max(due_ns - time.monotonic_ns(), 0) / 1e9)

    def book(self, outcome: Outcome) -> None:
        """Put the frames of a reported outcome into their bin."""
        with self._lock:
            camera = self._cameras[outcome.stamp.camera]
            if outcome.unjudged is None:
                camera.inspected += outcome.stamp.frames
            else:
                camera.lost[outcome.unjudged.kind][outcome.unjudged.reason] += outcome.stamp.frames

    # The end.

    def close(self) -> None:
        """Accept no more frames for inspection. `take` still returns those that wait."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
            self._arrived.notify_all()

    def drop_waiting(self) -> None:
        """Drop all frames that wait for inspection. The ledger must be closed."""
        while (taken := self.take()) is not None:
            self._drop(taken[0], _STOPPED)

    def finish(self) -> None:
        """Expect no more outcomes. `pop` still returns those that can leave."""
        with self._lock:
            self._finished = True
            self._room.notify_all()
            self._ended.notify_all()

    def _drop(self, frame: Frame, why: Unjudged) -> None:
        frame.release()
        self.complete(Outcome(frame.stamp, unjudged=why))

    def _bound_pixels(self, outcome: Outcome) -> None:
        if not outcome.is_complete and outcome.frame is not None:
            before = [entry.outcome for entry in self._cameras[outcome.stamp.camera].entries]
            unjudged = sum(each is not None and not each.is_complete and each.frame is not None for each in before)
            if unjudged >= UNJUDGED_WITH_PIXELS or self._finished:
                outcome.release()
                outcome.frame = None

    def _expire(self) -> int | None:
        """Complete all frames whose deadline has passed. Return the next deadline, or None."""
        expired = {key: entry for key, entry in self._open.items() if _is_due(entry.stamp)}
        for key, entry in expired.items():
            entry.outcome = Outcome(entry.stamp, unjudged=_TOO_LATE, setup=entry.setup)
            del self._open[key]
        deadlines = [entry.stamp.due_monotonic_ns for entry in self._open.values()]
        return min((due_ns for due_ns in deadlines if due_ns is not None), default=None)

    def _pop(self, entries: deque[_Entry]) -> Outcome:
        entry = entries.popleft()
        outcome = entry.outcome
        assert outcome is not None
        if outcome.is_complete:
            self._judged -= 1
            self._room.notify_all()
            if _is_due(outcome.stamp):  # it waited here beyond its deadline
                outcome.release()
                return Outcome(outcome.stamp, unjudged=_TOO_LATE, setup=entry.setup)
            return outcome
        while entries and entries[0].setup is entry.setup and _same_loss(outcome, entries[0].outcome):
            following = entries.popleft().outcome
            assert following is not None
            following.release()
            outcome.stamp = outcome.stamp.extended_to(following.stamp)
        return outcome


def _is_due(stamp: Stamp) -> bool:
    return stamp.due_monotonic_ns is not None and stamp.due_monotonic_ns <= time.monotonic_ns()


def _same_loss(one: Outcome, other: Outcome | None) -> bool:
    """Whether two outcomes may leave as one. Frames of a part or of a file always leave one by one."""
    return (
        other is not None
        and one.unjudged is not None
        and one.unjudged == other.unjudged
        and all(stamp.part_id is None and stamp.source is None for stamp in (one.stamp, other.stamp))
        and one.stamp.is_followed_by(other.stamp)
    )
