"""Puts outcomes back into the order of frames, and holds the setup that inspects each frame.

A frame is registered when its camera announces it. It gets exactly one outcome, and leaves once all earlier frames of
its camera have left. Consecutive frames that were lost for the same reason leave as one outcome. A frame without an
outcome at its deadline becomes `dropped[deadline]`; a later outcome for it is ignored. One lock protects the frames and
the active setup, so that each frame has one setup.

Outcomes hold the pixels of their frames. The buffer releases those of outcomes that it ignores or merges, and of frames
that were dropped. Who pops an outcome releases the rest.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from heatline.edge.frames import Stamp
from heatline.edge.inspection.outcome import Outcome, Unjudged
from heatline.edge.inspection.setup import Setup

UNJUDGED_WITH_PIXELS = 2
"""How many frames of a camera may wait here with their pixels and without a judgement: nothing else bounds them."""
_TOO_LATE = Unjudged("dropped", "deadline", "there was no verdict by its deadline")


@dataclass
class _Entry:
    stamp: Stamp
    setup: Setup
    outcome: Outcome | None = None


class ReorderBuffer:
    """Returns each camera's outcomes in the order of its frames. Any thread may call `register` and `complete`; one
    thread calls `pop`.

    Args:
        cameras: their names.
        judged_waiting: how many judgements, which hold heatmaps, may wait to be popped.
        setup: inspects frames until another setup is activated.
    """

    def __init__(self, cameras: Iterable[str], judged_waiting: int, setup: Setup) -> None:
        self._setup = setup
        setup.uses.acquire()
        self._entries: dict[str, deque[_Entry]] = {camera: deque() for camera in cameras}
        self._turn = deque(self._entries)
        self._open: dict[tuple[str, int], _Entry] = {}
        self._judged_waiting, self._judged = judged_waiting, 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def setup(self) -> Setup:
        """The active setup."""
        return self._setup

    def activate(self, setup: Setup) -> None:
        """Inspect frames that are registered from now on by this setup."""
        with self._changed:
            setup.uses.acquire()
            self._setup, former = setup, self._setup
            former.uses.release()

    def register(self, stamp: Stamp) -> None:
        """Register a frame that was announced; the active setup will inspect it.

        A camera's frames must be registered in the order of their numbers.
        """
        with self._changed:
            entry = _Entry(stamp, self._setup)
            entry.setup.uses.acquire()
            self._entries[stamp.camera].append(entry)
            self._open[stamp.camera, stamp.number] = entry
            if stamp.due_monotonic_ns is not None:
                self._changed.notify_all()  # its deadline may be the earliest

    def acquire_setup(self, stamp: Stamp) -> Setup | None:
        """Return the setup that must inspect a frame; its engine stays open until `release_setup`. None: the frame's
        deadline has passed, and its tiles would only delay others.
        """
        with self._changed:
            entry = self._open.get((stamp.camera, stamp.number))
            if entry is None:
                return None
            entry.setup.uses.acquire()
            return entry.setup

    def release_setup(self, setup: Setup) -> None:
        """Note that the setup's engine has finished its work on a frame."""
        with self._changed:
            setup.uses.release()

    def complete(self, outcome: Outcome) -> bool:
        """Add a frame's outcome, and take over its pixels; a judgement waits for room. Return False if it came too late
        and is ignored.
        """
        key = outcome.stamp.camera, outcome.stamp.number
        with self._changed:
            if outcome.judgement is not None:
                self._changed.wait_for(lambda: self._judged < self._judged_waiting or self._closed)
            entry = self._open.pop(key, None)
            if entry is None:
                outcome.release()
                return False
            self._changed.notify_all()
            if outcome.judgement is not None and _is_due(entry.stamp, time.monotonic_ns()):
                outcome.release()
                entry.outcome = Outcome(entry.stamp, unjudged=_TOO_LATE)
                return False
            self._judged += outcome.judgement is not None
            entry.outcome = self._with_bounded_pixels(outcome)
            return True

    def _with_bounded_pixels(self, outcome: Outcome) -> Outcome:
        if outcome.judgement is not None or outcome.frame is None:
            return outcome
        waiting = self._entries[outcome.stamp.camera]
        unjudged = sum(
            e.outcome is not None and e.outcome.judgement is None and e.outcome.frame is not None for e in waiting
        )
        if unjudged < UNJUDGED_WITH_PIXELS and not self._closed:
            return outcome
        outcome.release()
        return replace(outcome, frame=None)

    def pop(self) -> Outcome | None:
        """Wait for the next outcome in order and return it; None once the buffer is closed and has no outcome left."""
        with self._changed:
            while True:
                due_ns = self._expire(time.monotonic_ns())
                for _ in range(len(self._turn)):
                    entries = self._entries[self._turn[0]]
                    self._turn.rotate(-1)  # no camera's events delay another's
                    if entries and entries[0].outcome is not None:
                        return self._pop(entries)
                if self._closed:
                    return None
                self._changed.wait(None if due_ns is None else max(due_ns - time.monotonic_ns(), 0) / 1e9)

    def close(self) -> None:
        """Expect no more outcomes. `pop` still returns those that are complete."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _expire(self, now_ns: int) -> int | None:
        """Complete all frames whose deadline has passed. Return the next deadline, or None."""
        next_due_ns = None
        for key, entry in list(self._open.items()):
            due_ns = entry.stamp.due_monotonic_ns
            if due_ns is None:
                continue
            if _is_due(entry.stamp, now_ns):
                entry.outcome = Outcome(entry.stamp, unjudged=_TOO_LATE)
                del self._open[key]
            elif next_due_ns is None or due_ns < next_due_ns:
                next_due_ns = due_ns
        return next_due_ns

    def _pop(self, entries: deque[_Entry]) -> Outcome:
        entry = entries.popleft()
        entry.setup.uses.release()
        assert entry.outcome is not None
        outcome = replace(entry.outcome, setup=entry.setup)
        if outcome.judgement is not None:
            self._judged -= 1
            self._changed.notify_all()
            # It may have waited here beyond its deadline.
            if not _is_due(outcome.stamp, time.monotonic_ns()):
                return outcome
            outcome.release()
            return Outcome(outcome.stamp, unjudged=_TOO_LATE, setup=entry.setup)
        while (
            entries
            and (following := entries[0].outcome) is not None
            and entries[0].setup is entry.setup
            and _same_loss(outcome, following)
        ):
            entries.popleft().setup.uses.release()
            following.release()
            outcome = replace(outcome, stamp=outcome.stamp.extended_to(following.stamp))
        return outcome


def _is_due(stamp: Stamp, now_ns: int) -> bool:
    return stamp.due_monotonic_ns is not None and stamp.due_monotonic_ns <= now_ns


def _same_loss(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes may leave as one. Frames of a part or of a file always leave one by one."""
    return (
        one.unjudged is not None
        and other.unjudged is not None
        and one.unjudged == other.unjudged
        and all(stamp.part_id is None and stamp.source is None for stamp in (one.stamp, other.stamp))
        and one.stamp.is_followed_by(other.stamp)
    )
