"""The reorder buffer: every frame's outcome leaves once, in order and in time, for any order of calls."""

import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heatline.edge.frames import Frame, Stamp
from heatline.edge.inspection.outcome import Outcome, Unjudged
from heatline.edge.inspection.reorder_buffer import UNJUDGED_WITH_PIXELS, ReorderBuffer
from heatline.edge.inspection.setup import EngineUses, Setup
from heatline.edge.inspection.verdict import Judgement, TileScores

WITHIN_SECONDS = 20.0
CAMERAS = ["top", "side", "back"]
TILES = TileScores(np.zeros((1, 2), np.int32), np.array([-1], np.float32), 4)
GOOD = Judgement("GOOD", (4, 4), -1.0, np.zeros((1, 1), np.float32), [], TILES)
OVERLOAD = Unjudged("dropped", "overload", "too many")
SETUP = Setup(None, None, None)  # type: ignore[arg-type]  # nothing is inspected here
LOST = Unjudged("dropped", "lost_by_camera", "never arrived")
BROKEN = Unjudged("failed", "engine", "no answer")


def is_open(reorder_buffer: ReorderBuffer, stamp: Stamp) -> bool:
    """Return whether a frame has no outcome yet."""
    return (stamp.camera, stamp.number) in reorder_buffer._open


def stamp(
    number: int, camera: str = "top", frame_id: int | None = 0, due_ns: int | None = None, part_id: str | None = None
) -> Stamp:
    """A frame's stamp; by default its id equals its number."""
    return Stamp(camera, number if frame_id == 0 else frame_id, number=number, due_monotonic_ns=due_ns, part_id=part_id)


def good(of: Stamp, frame: Frame | None = None) -> Outcome:
    return Outcome(of, judgement=GOOD, frame=frame)


def lost(of: Stamp, unjudged: Unjudged = OVERLOAD, frame: Frame | None = None) -> Outcome:
    return Outcome(of, unjudged=unjudged, frame=frame)


class CountedFrames:
    """Frames that count how often their pixels are released."""

    def __init__(self) -> None:
        self.releases: list[int] = []

    def frame(self, of: Stamp) -> Frame:
        place = len(self.releases)
        self.releases.append(0)

        def release() -> None:
            self.releases[place] += 1

        return Frame(of, np.zeros((1, 1, 3), np.uint8), "RGB8", release=release)

    def all_released_once(self) -> bool:
        return set(self.releases) <= {1}


def reason(outcome: Outcome | None) -> str:
    assert outcome is not None
    return "GOOD" if outcome.unjudged is None else f"{outcome.unjudged.kind}.{outcome.unjudged.reason}"


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(WITHIN_SECONDS)
    return not thread.is_alive()


def rest(reorder_buffer: ReorderBuffer) -> list[Outcome]:
    """Close the buffer and return the remaining outcomes."""
    reorder_buffer.close()
    outcomes = []
    while (outcome := reorder_buffer.pop()) is not None:
        outcomes.append(outcome)
    return outcomes


class Clock:
    """A monotonic clock that only the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 10**9
        monkeypatch.setattr("heatline.edge.inspection.reorder_buffer.time.monotonic_ns", lambda: self.now_ns)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def reorder_buffer_of(*outcomes: Outcome) -> ReorderBuffer:
    """A buffer with outcomes that are completed in this order."""
    reorder_buffer = ReorderBuffer(CAMERAS, 9, SETUP)
    for outcome in outcomes:
        reorder_buffer.register(outcome.stamp)
    for outcome in outcomes:
        reorder_buffer.complete(outcome)
    return reorder_buffer


def test_events_leave_in_frame_order_and_cameras_do_not_wait_for_each_other() -> None:
    reorder_buffer = ReorderBuffer(CAMERAS, 9, SETUP)
    for each in (stamp(1), stamp(2), stamp(3), stamp(1, "side")):
        reorder_buffer.register(each)
    reorder_buffer.complete(good(stamp(3)))
    reorder_buffer.complete(good(stamp(1, "side")))
    outcome = reorder_buffer.pop()
    assert outcome is not None
    assert outcome.stamp.camera == "side"
    reorder_buffer.complete(lost(stamp(2)))
    reorder_buffer.complete(good(stamp(1)))
    assert not reorder_buffer.complete(lost(stamp(1), BROKEN)), "only the first outcome of a frame counts"
    assert not reorder_buffer.complete(good(stamp(4))), "it was never announced"
    assert [reason(each) for each in rest(reorder_buffer)] == ["GOOD", "dropped.overload", "GOOD"]


def test_consecutive_lost_frames_leave_as_one_run() -> None:
    runs = [stamp(1), replace(stamp(2), frames=3, last_frame_id=4), replace(stamp(5), frames=2, last_frame_id=6)]
    (outcome,) = rest(reorder_buffer_of(*map(lost, runs)))
    popped = outcome.stamp
    assert (popped.number, popped.frames, popped.frame_id, popped.last_frame_id) == (1, 6, 1, 6)
    for next_id in (1, 5, 7):  # ids begin again, repeat, or have a gap
        stamps = [stamp(1, frame_id=4), stamp(2, frame_id=5), stamp(3, frame_id=next_id)]
        left = [each.stamp for each in rest(reorder_buffer_of(*map(lost, stamps)))]
        ids = [(each.frame_id, each.last_frame_id, each.frames) for each in left]
        assert ids == [(4, 5, 2), (next_id, None, 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lost(stamp(1)), lost(stamp(2), LOST)),  # another reason
        (lost(stamp(1)), lost(stamp(2), replace(OVERLOAD, kind="failed"))),  # another bin
        (lost(stamp(1)), lost(stamp(2, part_id="P-2"))),
        (lost(stamp(1, part_id="P-1")), lost(stamp(2, part_id="P-1"))),
        (lost(replace(stamp(1), source="a.png")), lost(replace(stamp(2), source="b.png"))),
        (lost(stamp(1)), lost(stamp(2, frame_id=None))),  # a frame without an id cannot be part of a range
        (lost(stamp(1, frame_id=None)), lost(stamp(2))),
        (good(stamp(1)), lost(stamp(2))),
        (good(stamp(1)), good(stamp(2))),
    ],
)
def test_different_losses_leave_separately(one: Outcome, other: Outcome) -> None:
    assert rest(reorder_buffer_of(one, other)) == [one, other]


def test_a_camera_with_many_events_does_not_delay_another() -> None:
    reorder_buffer = reorder_buffer_of(
        *(lost(stamp(n, part_id=f"P-{n}")) for n in range(1, 101)), lost(stamp(1, "side"))
    )
    first = [reorder_buffer.pop() for _ in range(4)]
    assert "side" in {each.stamp.camera for each in first if each}


def test_a_judgement_waits_for_room_and_a_loss_does_not() -> None:
    reorder_buffer, completed = ReorderBuffer(CAMERAS, 1, SETUP), list[bool]()
    for number in (1, 2, 3):
        reorder_buffer.register(stamp(number))
    reorder_buffer.complete(good(stamp(1)))
    reorder_buffer.complete(lost(stamp(3)))
    judge = in_thread(lambda: completed.append(reorder_buffer.complete(good(stamp(2)))))
    assert reason(reorder_buffer.pop()) == "GOOD"
    assert ended(judge)
    assert completed == [True]
    assert [reason(each) for each in rest(reorder_buffer)] == ["GOOD", "dropped.overload"]


def test_closing_ends_a_waiting_complete_and_a_waiting_pop() -> None:
    reorder_buffer, taken = ReorderBuffer(CAMERAS, 1, SETUP), list[Outcome | None]()
    for number in (1, 2):
        reorder_buffer.register(stamp(number))
    reorder_buffer.complete(good(stamp(1)))
    judge = in_thread(lambda: reorder_buffer.complete(good(stamp(2))))
    reorder_buffer.close()
    assert ended(judge)
    assert [each.stamp.number for each in rest(reorder_buffer)] == [1, 2]
    reorder_buffer = ReorderBuffer(CAMERAS, 1, SETUP)
    reorder_buffer.register(stamp(1))
    taker = in_thread(lambda: taken.append(reorder_buffer.pop()))
    reorder_buffer.close()
    assert ended(taker)
    assert taken == [None]


def test_frames_that_expire_together_leave_as_one_run(clock: Clock) -> None:
    reorder_buffer = ReorderBuffer(CAMERAS, 9, SETUP)
    reorder_buffer.register(stamp(1))
    for number in range(1, 6):
        reorder_buffer.register(stamp(number, "side", due_ns=clock.now_ns + number))
    clock.now_ns += 3
    assert not reorder_buffer.complete(good(stamp(3, "side"))), "it is too late"
    assert reorder_buffer.complete(good(stamp(4, "side")))
    clock.now_ns += 2
    assert not reorder_buffer.complete(good(stamp(5, "side"))), "it is too late"
    popped = [(each.stamp.camera, each.stamp.number, each.stamp.frames, reason(each)) for each in rest(reorder_buffer)]
    assert popped == [("side", 1, 3, "dropped.deadline"), ("side", 4, 1, "GOOD"), ("side", 5, 1, "dropped.deadline")]


def test_a_judgement_that_waits_beyond_its_deadline_is_too_late(clock: Clock) -> None:
    reorder_buffer, completed = ReorderBuffer(CAMERAS, 1, SETUP), list[bool]()
    reorder_buffer.register(stamp(1))
    reorder_buffer.register(stamp(1, "side", due_ns=clock.now_ns + 10))
    reorder_buffer.complete(good(stamp(1)))
    judge = in_thread(lambda: completed.append(reorder_buffer.complete(good(stamp(1, "side")))))
    clock.now_ns += 10
    assert reason(reorder_buffer.pop()) == "GOOD"
    assert ended(judge)
    assert completed == [False]
    assert [reason(each) for each in rest(reorder_buffer)] == ["dropped.deadline"]


def test_a_waiting_pop_wakes_at_the_earliest_deadline() -> None:
    reorder_buffer, taken = ReorderBuffer(CAMERAS, 9, SETUP), list[tuple[Outcome | None, int]]()
    reorder_buffer.register(stamp(1, due_ns=time.monotonic_ns() + 3600 * 10**9))
    taker = in_thread(lambda: taken.append((reorder_buffer.pop(), time.monotonic_ns())))
    due_ns = time.monotonic_ns() + 10_000_000
    reorder_buffer.register(stamp(1, "side", due_ns=due_ns))
    assert ended(taker)
    ((outcome, at_ns),) = taken
    assert outcome is not None
    assert (outcome.stamp.camera, reason(outcome), at_ns >= due_ns) == ("side", "dropped.deadline", True)


# Pixels.


def test_pixels_of_ignored_merged_and_late_outcomes_are_released_and_others_are_handed_on(clock: Clock) -> None:
    reorder_buffer, counted = ReorderBuffer(CAMERAS, 9, SETUP), CountedFrames()
    for number in range(1, 6):
        reorder_buffer.register(stamp(number, due_ns=clock.now_ns + 100 if number == 4 else None))
    for number in (1, 2):
        reorder_buffer.complete(lost(stamp(number), BROKEN, counted.frame(stamp(number))))
    for number in (3, 4, 5, 5):  # the last one twice
        due = stamp(number, due_ns=clock.now_ns + 100 if number == 4 else None)
        reorder_buffer.complete(good(due, counted.frame(due)))
    assert counted.releases == [0, 0, 0, 0, 0, 1]
    run = reorder_buffer.pop()
    assert run is not None
    assert (run.stamp.frames, run.frame is not None) == (2, True)
    assert counted.releases == [0, 1, 0, 0, 0, 1]
    clock.now_ns += 100
    judged, late, last = reorder_buffer.pop(), reorder_buffer.pop(), reorder_buffer.pop()
    assert (judged and judged.frame is not None, late and late.frame, last and last.frame is not None) == (
        True,
        None,
        True,
    )
    assert counted.releases == [0, 1, 0, 1, 0, 1]
    for outcome in (run, judged, last):
        assert outcome is not None
        outcome.release()
    assert counted.all_released_once()


def test_few_frames_without_a_judgement_wait_with_their_pixels() -> None:
    reorder_buffer, counted = ReorderBuffer(CAMERAS, 9, SETUP), CountedFrames()
    reorder_buffer.register(stamp(1))
    for number in range(2, 10):
        reorder_buffer.register(stamp(number, frame_id=10 * number))
        reorder_buffer.complete(lost(stamp(number, frame_id=10 * number), BROKEN, counted.frame(stamp(number))))
    assert counted.releases == [0] * UNJUDGED_WITH_PIXELS + [1] * (8 - UNJUDGED_WITH_PIXELS)
    reorder_buffer.complete(good(stamp(1)))
    for outcome in rest(reorder_buffer):
        outcome.release()
    assert counted.all_released_once()


def test_a_closed_buffer_takes_no_pixels() -> None:
    reorder_buffer, counted = ReorderBuffer(CAMERAS, 9, SETUP), CountedFrames()
    reorder_buffer.register(stamp(1))
    reorder_buffer.close()
    reorder_buffer.complete(lost(stamp(1), BROKEN, counted.frame(stamp(1))))
    assert counted.releases == [1]


# Calls in any order, compared with a reference model.


@dataclass
class Entry:
    stamp: Stamp
    setup: Setup
    outcome: Outcome | None = None


class ReferenceMachine(RuleBasedStateMachine):
    """Frames are registered, completed in any order, and expire, on the test's own clock."""

    ROOM = 3

    def __init__(self) -> None:
        super().__init__()
        self.setups = [replace(SETUP, uses=EngineUses()) for _ in range(2)]
        self.reorder_buffer = ReorderBuffer(CAMERAS, self.ROOM, self.setups[0])
        self.expected: dict[str, deque[Entry]] = {camera: deque() for camera in CAMERAS}
        self.captured, self.reported = Counter[str](), Counter[str]()
        self.counted = CountedFrames()
        self.now_ns, self.patch = 10**9, pytest.MonkeyPatch()
        self.patch.setattr("heatline.edge.inspection.reorder_buffer.time.monotonic_ns", lambda: self.now_ns)
        self.patch.setattr(self.reorder_buffer._changed, "wait", self.must_not_wait)

    @staticmethod
    def must_not_wait(_timeout: float | None = None) -> None:
        raise AssertionError("it waited although an outcome or room was available")

    def open_entries(self) -> list[Entry]:
        """Entries that are neither complete nor expired."""
        every = [entry for entries in self.expected.values() for entry in entries]
        return [entry for entry in every if entry.outcome is None and not self.is_due(entry.stamp)]

    def overdue(self, entry: Entry) -> bool:
        return entry.outcome is None and self.is_due(entry.stamp)

    def is_due(self, stamp: Stamp) -> bool:
        return stamp.due_monotonic_ns is not None and stamp.due_monotonic_ns <= self.now_ns

    def ready(self) -> list[str]:
        """Cameras whose first frame's event can leave."""
        return [
            c for c, entries in self.expected.items() if entries and (entries[0].outcome or self.overdue(entries[0]))
        ]

    @rule(
        camera=st.sampled_from(CAMERAS),
        frames=st.sampled_from([1, 1, 1, 2, 5]),
        due_in_ns=st.none() | st.integers(-10, 300),
        part=st.sampled_from([False, False, True]),
        without_id=st.sampled_from([False, False, False, True]),
    )
    def register(self, camera: str, frames: int, due_in_ns: int | None, part: bool, without_id: bool) -> None:
        number = self.captured[camera] + 1
        self.captured[camera] += frames
        announced = Stamp(
            camera,
            None if without_id else number,
            last_frame_id=number + frames - 1 if frames > 1 and not without_id else None,
            frames=frames,
            number=number,
            part_id=f"P-{number}" if part else None,
            due_monotonic_ns=None if due_in_ns is None else self.now_ns + due_in_ns,
        )
        self.expected[camera].append(Entry(announced, self.reorder_buffer.setup))
        self.reorder_buffer.register(announced)
        assert is_open(self.reorder_buffer, announced)

    @precondition(lambda self: self.open_entries())
    @rule(data=st.data(), unjudged=st.sampled_from([OVERLOAD, LOST, BROKEN]))
    def lose(self, data: st.DataObject, unjudged: Unjudged) -> None:
        entry = data.draw(st.sampled_from(self.open_entries()))
        entry.outcome = lost(entry.stamp, unjudged, self.counted.frame(entry.stamp))
        assert self.reorder_buffer.complete(entry.outcome)

    @precondition(lambda self: self.open_entries())
    @rule(data=st.data())
    def judge(self, data: st.DataObject) -> None:
        waiting = [e for entries in self.expected.values() for e in entries if e.outcome and e.outcome.judgement]
        if len(waiting) >= self.ROOM:
            return  # `complete` would wait
        entry = data.draw(st.sampled_from(self.open_entries()))
        entry.outcome = good(entry.stamp, self.counted.frame(entry.stamp))
        assert self.reorder_buffer.complete(entry.outcome)

    @rule(data=st.data())
    def complete_again(self, data: st.DataObject) -> None:
        completed = [entry for entries in self.expected.values() for entry in entries if entry.outcome]
        if completed:
            entry = data.draw(st.sampled_from(completed))
            assert not self.reorder_buffer.complete(lost(entry.stamp, BROKEN, self.counted.frame(entry.stamp)))
            assert self.counted.releases[-1] == 1
            assert not is_open(self.reorder_buffer, entry.stamp)

    @rule(which=st.sampled_from([0, 1]))
    def exchange(self, which: int) -> None:
        self.reorder_buffer.activate(self.setups[which])

    @invariant()
    def the_active_setup_and_each_frame_in_the_buffer_hold_a_reference(self) -> None:
        for setup in self.setups:
            frames = sum(entry.setup is setup for entries in self.expected.values() for entry in entries)
            assert setup.uses._count == frames + (self.reorder_buffer.setup is setup)

    @invariant()
    def few_pixels_are_held(self) -> None:
        assert set(self.counted.releases) <= {0, 1}
        held = self.counted.releases.count(0)
        assert held <= self.ROOM + UNJUDGED_WITH_PIXELS * len(CAMERAS)

    @rule(later_ns=st.integers(0, 200))
    def advance_time(self, later_ns: int) -> None:
        self.now_ns += later_ns

    @precondition(lambda self: self.ready())
    @rule()
    def pop(self) -> None:
        outcome = self.reorder_buffer.pop()
        assert outcome is not None
        self.check(outcome)

    def check(self, outcome: Outcome) -> None:
        """Check that an outcome is its camera's first, and that all its frames have the same result."""
        outcome.release()
        popped, entries = outcome.stamp, self.expected[outcome.stamp.camera]
        assert popped.camera in self.ready()
        for each in self.expected.values():
            for entry in each:
                if self.overdue(entry):
                    entry.outcome = Outcome(entry.stamp, unjudged=Unjudged("dropped", "deadline", ""))
        assert popped.number == self.reported[popped.camera] + 1, "no gap and no overlap"
        first, frames = entries[0], 0
        folded: list[Entry] = []
        while frames < popped.frames:
            folded.append(entries.popleft())
            frames += folded[-1].stamp.frames
        assert frames == popped.frames
        self.reported[popped.camera] += frames
        for entry in folded:
            assert entry.outcome is not None
            left_late = entry.outcome.judgement is not None and self.is_due(entry.stamp)
            assert reason(outcome) == ("dropped.deadline" if left_late else reason(entry.outcome))
            assert entry.stamp.part_id is None or len(folded) == 1
            assert entry.outcome.judgement is None or len(folded) == 1
        assert (popped.frame_id, popped.part_id) == (first.stamp.frame_id, first.stamp.part_id)
        if popped.frame_id is not None:
            assert (popped.last_frame_id or popped.frame_id) == popped.number + popped.frames - 1

    def teardown(self) -> None:
        try:
            for entry in self.open_entries():
                entry.outcome = lost(entry.stamp)
                assert self.reorder_buffer.complete(entry.outcome)
            for outcome in rest(self.reorder_buffer):
                self.check(outcome)
            assert self.reported == self.captured, "every frame's event has left"
            assert self.counted.all_released_once()
        finally:
            self.patch.undo()


ReferenceMachine.TestCase.settings = settings(stateful_step_count=40)
test_events_of_each_camera_cover_its_frames_in_any_order_of_calls = ReferenceMachine.TestCase


# Threads.


def test_with_all_stages_on_threads_every_frame_leaves_once() -> None:
    each, reorder_buffer = 400, ReorderBuffer(CAMERAS, 1, SETUP)
    begun: queue.Queue[Stamp | None] = queue.Queue(2)
    too_late, popped = Counter[str](), list[Outcome]()

    def show(camera: str) -> None:
        chance = random.Random(camera)
        for number in range(1, each + 1):
            due_in_ns = chance.choice([None, 0, 100_000, 10**12])
            announced = stamp(
                number, camera, due_ns=due_in_ns if due_in_ns is None else time.monotonic_ns() + due_in_ns
            )
            reorder_buffer.register(announced)
            if chance.random() < 0.3:
                too_late[camera] += not reorder_buffer.complete(lost(announced))
            else:
                begun.put(announced)

    def judge() -> None:
        while (announced := begun.get()) is not None:
            outcome = lost(announced, BROKEN) if announced.number % 10 == 0 else good(announced)
            too_late[announced.camera] += not reorder_buffer.complete(outcome)
        reorder_buffer.close()

    def report() -> None:
        while (outcome := reorder_buffer.pop()) is not None:
            popped.append(outcome)

    stages, cameras = [in_thread(judge), in_thread(report)], [in_thread(partial(show, camera)) for camera in CAMERAS]
    assert all(ended(camera) for camera in cameras)
    begun.put(None)
    assert all(ended(stage) for stage in stages)
    for camera in CAMERAS:
        own, reached = [outcome for outcome in popped if outcome.stamp.camera == camera], 0
        for outcome in own:
            assert outcome.stamp.number == reached + 1
            reached += outcome.stamp.frames
        assert reached == each
        missed = sum(outcome.stamp.frames for outcome in own if reason(outcome) == "dropped.deadline")
        assert missed >= too_late[camera], "each late frame leaves as dropped at its deadline"
