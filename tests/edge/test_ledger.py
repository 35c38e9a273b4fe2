"""The frame ledger: every frame gets one outcome, leaves once, in order and in time, and ends in one bin."""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heatline.edge.cameras.settings import Policy
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.inspection.inspector import Outcome, Setup, Unjudged
from heatline.edge.inspection.ledger import JUDGED_WAITING, UNJUDGED_WITH_PIXELS, Lane, Ledger
from heatline.edge.inspection.verdict import Judgement, TileScores
from heatline.edge.wire.events import Account

WITHIN_SECONDS = 20.0
CAMERAS = ["top", "side", "back"]
TILES = TileScores(np.zeros((1, 2), np.int32), np.array([-1], np.float32), 4)
GOOD = Judgement("GOOD", (4, 4), -1.0, np.zeros((1, 1), np.float32), [], TILES)
OVERLOAD = Unjudged("dropped", "overload", "too many")
SETUP = Setup(None, None, None)  # type: ignore[arg-type]  # nothing is inspected here
LOST = Unjudged("dropped", "lost_by_camera", "never arrived")
BROKEN = Unjudged("failed", "engine", "no answer")
PIXELS = np.zeros((1, 1, 3), np.uint8)


def ledger_of(lanes: Mapping[str, Lane] | None = None) -> Ledger:
    return Ledger(lanes or {camera: Lane(9, "block") for camera in CAMERAS}, SETUP)


def stamp(
    number: int, camera: str = "top", frame_id: int | None = 0, due_ns: int | None = None, part_id: str | None = None
) -> Stamp:
    """A frame's stamp; by default its id equals its number."""
    return Stamp(camera, number if frame_id == 0 else frame_id, number=number, due_monotonic_ns=due_ns, part_id=part_id)


def announce(ledger: Ledger, *stamps: Stamp) -> None:
    """Announce frames, and check that the ledger numbers them as these stamps do."""
    for each in stamps:
        assert ledger.announce(BadFrame(each, "", "")).stamp == each


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

        return Frame(of, PIXELS, "RGB8", release=release)

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


def rest(ledger: Ledger) -> list[Outcome]:
    """Finish the ledger, and return and book the remaining outcomes."""
    ledger.finish()
    outcomes = []
    while (outcome := ledger.pop()) is not None:
        ledger.book(outcome)
        outcomes.append(outcome)
    return outcomes


class Clock:
    """A monotonic clock that only the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 10**9
        monkeypatch.setattr("heatline.edge.inspection.ledger.time.monotonic_ns", lambda: self.now_ns)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# Outcomes leave in order.


def ledger_with(*outcomes: Outcome) -> Ledger:
    """A ledger with outcomes that are completed in this order."""
    ledger = ledger_of()
    announce(ledger, *(outcome.stamp for outcome in outcomes))
    for outcome in outcomes:
        ledger.complete(outcome)
    return ledger


def test_events_leave_in_frame_order_and_cameras_do_not_wait_for_each_other() -> None:
    ledger = ledger_of()
    announce(ledger, stamp(1), stamp(2), stamp(3), stamp(1, "side"))
    ledger.complete(good(stamp(3)))
    ledger.complete(good(stamp(1, "side")))
    outcome = ledger.pop()
    assert outcome is not None
    assert (outcome.stamp.camera, outcome.setup) == ("side", SETUP)
    ledger.complete(lost(stamp(2)))
    ledger.complete(good(stamp(1)))
    ledger.complete(lost(stamp(1), BROKEN))  # only the first outcome of a frame counts
    ledger.complete(lost(stamp(4)))  # it was never announced
    assert [reason(each) for each in rest(ledger)] == ["GOOD", "dropped.overload", "GOOD"]


def test_consecutive_lost_frames_leave_as_one_run() -> None:
    runs = [stamp(1), replace(stamp(2), frames=3, last_frame_id=4), replace(stamp(5), frames=2, last_frame_id=6)]
    (outcome,) = rest(ledger_with(*map(lost, runs)))
    popped = outcome.stamp
    assert (popped.number, popped.frames, popped.frame_id, popped.last_frame_id) == (1, 6, 1, 6)
    for next_id in (1, 5, 7):  # ids begin again, repeat, or have a gap
        stamps = [stamp(1, frame_id=4), stamp(2, frame_id=5), stamp(3, frame_id=next_id)]
        left = [each.stamp for each in rest(ledger_with(*map(lost, stamps)))]
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
    assert rest(ledger_with(one, other)) == [one, other]


def test_a_camera_with_many_events_does_not_delay_another() -> None:
    ledger = ledger_with(*(lost(stamp(n, part_id=f"P-{n}")) for n in range(1, 101)), lost(stamp(1, "side")))
    first = [ledger.pop() for _ in range(4)]
    assert "side" in {each.stamp.camera for each in first if each}


def test_a_judgement_waits_for_room_and_a_loss_does_not() -> None:
    ledger = ledger_of()
    announce(ledger, *map(stamp, range(1, 5)))
    for number in range(1, JUDGED_WAITING + 1):
        ledger.complete(good(stamp(number)))
    ledger.complete(lost(stamp(4)))
    judge = in_thread(lambda: ledger.complete(good(stamp(3))))
    judge.join(0.05)
    assert judge.is_alive()
    assert reason(ledger.pop()) == "GOOD"
    assert ended(judge)
    assert [reason(each) for each in rest(ledger)] == ["GOOD", "GOOD", "dropped.overload"]


def test_the_end_ends_a_waiting_complete_and_a_waiting_pop() -> None:
    ledger, taken = ledger_of(), list[Outcome | None]()
    announce(ledger, *map(stamp, range(1, 4)))
    ledger.complete(good(stamp(1)))
    ledger.complete(good(stamp(2)))
    judge = in_thread(lambda: ledger.complete(good(stamp(3))))
    ledger.finish()
    assert ended(judge)
    assert [each.stamp.number for each in rest(ledger)] == [1, 2, 3]
    ledger = ledger_of()
    announce(ledger, stamp(1))
    taker = in_thread(lambda: taken.append(ledger.pop()))
    ledger.finish()
    assert ended(taker)
    assert taken == [None]


# Deadlines.


def test_frames_that_expire_together_leave_as_one_run(clock: Clock) -> None:
    ledger = ledger_of()
    announce(ledger, stamp(1), *(stamp(number, "side", due_ns=clock.now_ns + number) for number in range(1, 6)))
    clock.now_ns += 3
    ledger.complete(good(stamp(3, "side")))  # it is too late
    ledger.complete(good(stamp(4, "side")))
    clock.now_ns += 2
    ledger.complete(good(stamp(5, "side")))  # it is too late
    popped = [(each.stamp.camera, each.stamp.number, each.stamp.frames, reason(each)) for each in rest(ledger)]
    assert popped == [("side", 1, 3, "dropped.deadline"), ("side", 4, 1, "GOOD"), ("side", 5, 1, "dropped.deadline")]


def test_a_judgement_in_time_leaves_between_frames_that_expired(clock: Clock) -> None:
    ledger = ledger_of()
    announce(ledger, *(stamp(number, due_ns=clock.now_ns + due) for number, due in ((1, 1), (2, 9), (3, 1))))
    clock.now_ns += 1
    ledger.complete(good(stamp(2)))
    assert [reason(each) for each in rest(ledger)] == ["dropped.deadline", "GOOD", "dropped.deadline"]


def test_a_judgement_that_waits_for_room_beyond_its_deadline_is_too_late(clock: Clock) -> None:
    ledger = ledger_of()
    announce(ledger, stamp(1), stamp(2), stamp(1, "side", due_ns=clock.now_ns + 10))
    ledger.complete(good(stamp(1)))
    ledger.complete(good(stamp(2)))
    judge = in_thread(lambda: ledger.complete(good(stamp(1, "side"))))
    clock.now_ns += 10
    assert sorted([reason(ledger.pop()), reason(ledger.pop())]) == ["GOOD", "dropped.deadline"]
    assert ended(judge)
    assert [reason(each) for each in rest(ledger)] == ["GOOD"]


def test_a_waiting_pop_wakes_at_the_earliest_deadline() -> None:
    ledger, taken = ledger_of(), list[tuple[Outcome | None, int]]()
    announce(ledger, stamp(1, due_ns=time.monotonic_ns() + 3600 * 10**9))
    taker = in_thread(lambda: taken.append((ledger.pop(), time.monotonic_ns())))
    due_ns = time.monotonic_ns() + 10_000_000
    announce(ledger, stamp(1, "side", due_ns=due_ns))
    assert ended(taker)
    ((outcome, at_ns),) = taken
    assert outcome is not None
    assert (outcome.stamp.camera, reason(outcome), at_ns >= due_ns) == ("side", "dropped.deadline", True)


# Pixels.


def test_pixels_of_ignored_merged_and_late_outcomes_are_released_and_others_are_handed_on(clock: Clock) -> None:
    ledger, counted = ledger_of(), CountedFrames()
    announce(ledger, *(stamp(number, due_ns=clock.now_ns + 100 if number == 4 else None) for number in range(1, 6)))
    for number in (1, 2):
        ledger.complete(lost(stamp(number), BROKEN, counted.frame(stamp(number))))
    for number in (3, 4):
        due = stamp(number, due_ns=clock.now_ns + 100 if number == 4 else None)
        ledger.complete(good(due, counted.frame(due)))
    for _ in range(2):
        ledger.complete(lost(stamp(5), BROKEN, counted.frame(stamp(5))))
    assert counted.releases == [0, 0, 0, 0, 1, 1], "two frames wait without a judgement; one outcome came twice"
    run = ledger.pop()
    assert run is not None
    assert (run.stamp.frames, run.frame is not None) == (2, True)
    assert counted.releases == [0, 1, 0, 0, 1, 1]
    clock.now_ns += 100
    judged, late, last = ledger.pop(), ledger.pop(), ledger.pop()
    assert (judged and judged.frame is not None, late and late.frame, last and last.frame) == (True, None, None)
    assert counted.releases == [0, 1, 0, 1, 1, 1]
    for outcome in (run, judged):
        assert outcome is not None
        outcome.release()
    assert counted.all_released_once()


def test_few_frames_without_a_judgement_wait_with_their_pixels() -> None:
    ledger, counted = ledger_of(), CountedFrames()
    stamps = [stamp(number, frame_id=10 * number) for number in range(1, 10)]
    announce(ledger, *stamps)
    for each in stamps[1:]:
        ledger.complete(lost(each, BROKEN, counted.frame(each)))
    assert counted.releases == [0] * UNJUDGED_WITH_PIXELS + [1] * (8 - UNJUDGED_WITH_PIXELS)
    ledger.complete(good(stamps[0]))
    for outcome in rest(ledger):
        outcome.release()
    assert counted.all_released_once()


# The hand-over to inspection.


def shown(ledger: Ledger, camera: str, frame_id: int = 1) -> Frame:
    """Announce a frame, and hand it over."""
    frame = ledger.announce(Frame(Stamp(camera, frame_id), PIXELS, "RGB8"))
    ledger.hand_over(frame)
    return frame


def taken(ledger: Ledger) -> tuple[str, int]:
    """Take the next frame and judge it; return its camera and its number."""
    found = ledger.take()
    assert found is not None
    ledger.complete(lost(found[0].stamp, BROKEN))
    return found[0].stamp.camera, found[0].stamp.number


def test_a_full_blocking_lane_makes_its_camera_wait() -> None:
    ledger = ledger_of({"top": Lane(3, "block")})
    cameras = [in_thread(lambda: shown(ledger, "top")) for _ in range(8)]
    numbers = []
    for _ in range(8):
        assert ledger.waiting <= 3
        numbers.append(taken(ledger)[1])
    assert sorted(numbers) == list(range(1, 9))
    assert all(ended(camera) for camera in cameras)


def test_a_full_lane_does_not_starve_another_lane() -> None:
    ledger = ledger_of({"a": Lane(1, "drop_oldest"), "b": Lane(1, "block"), "c": Lane(1, "block")})
    shown(ledger, "b")
    shown(ledger, "c")
    seen = []
    for _ in range(3):
        shown(ledger, "a")
        seen.append(taken(ledger)[0])
    assert sorted(seen) == ["a", "b", "c"]


def test_closing_ends_a_waiting_take_and_a_camera_that_waits() -> None:
    ledger, found = ledger_of(), list[object]()
    stage = in_thread(lambda: found.append(ledger.take()))
    ledger.close()
    assert ended(stage)
    assert found == [None]
    ledger = ledger_of({"top": Lane(1, "block")})
    shown(ledger, "top")
    camera = in_thread(lambda: shown(ledger, "top"))
    ledger.close()
    assert ended(camera)
    assert taken(ledger) == ("top", 1)
    assert ledger.take() is None
    assert [reason(each) for each in rest(ledger)] == ["failed.engine", "dropped.stopped"]


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_after_closing_waiting_frames_still_leave_and_new_ones_are_dropped(policy: Policy) -> None:
    ledger = ledger_of({"top": Lane(2, policy)})
    shown(ledger, "top")
    shown(ledger, "top")
    ledger.close()
    shown(ledger, "top")
    assert [taken(ledger)[1] for _ in range(2)] == [1, 2]
    assert ledger.take() is None
    assert rest(ledger)[-1].stamp.number == 3
    assert ledger.accounts()["top"] == Account(3, 0, {"stopped": 1}, {"engine": 2})


def test_a_frame_whose_deadline_has_passed_is_not_inspected(clock: Clock) -> None:
    ledger, counted = ledger_of(), CountedFrames()
    for frame in map(counted.frame, (stamp(1, due_ns=clock.now_ns + 1), stamp(2))):
        ledger.hand_over(ledger.announce(frame))
    clock.now_ns += 1
    assert reason(ledger.pop()) == "dropped.deadline"
    assert taken(ledger) == ("top", 2)
    assert counted.releases == [1, 0]


# Calls in any order, compared with a reference model.


@dataclass
class Entry:
    stamp: Stamp
    setup: Setup
    outcome: Outcome | None = None
    place: int = -1
    """Of its pixels, if it was handed over."""


LANES: dict[str, Lane] = {
    "top": Lane(2, "drop_oldest"),
    "side": Lane(2, "drop_newest"),
    "back": Lane(1000, "block"),
}


class LedgerMachine(RuleBasedStateMachine):
    """Frames are announced, handed over, taken, completed in any order, and expire, on the test's own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.setups = [replace(SETUP, product=str(number)) for number in range(2)]
        self.ledger = Ledger(LANES, self.setups[0])
        self.expected: dict[str, deque[Entry]] = {camera: deque() for camera in CAMERAS}
        self.waiting: dict[str, deque[Entry]] = {camera: deque() for camera in CAMERAS}
        self.captured, self.bins = Counter[str](), {camera: Counter[str]() for camera in CAMERAS}
        self.counted = CountedFrames()
        self.now_ns, self.patch = 10**9, pytest.MonkeyPatch()
        self.patch.setattr("heatline.edge.inspection.ledger.time.monotonic_ns", lambda: self.now_ns)

    def open_entries(self) -> list[Entry]:
        """Entries that wait in no lane, and are neither complete nor expired."""
        every = [entry for entries in self.expected.values() for entry in entries]
        in_lanes = [id(entry) for entries in self.waiting.values() for entry in entries]
        return [e for e in every if e.outcome is None and not self.is_due(e.stamp) and id(e) not in in_lanes]

    def overdue(self, entry: Entry) -> bool:
        return entry.outcome is None and self.is_due(entry.stamp)

    def is_due(self, stamp: Stamp) -> bool:
        return stamp.due_monotonic_ns is not None and stamp.due_monotonic_ns <= self.now_ns

    def ready(self) -> list[str]:
        """Cameras whose first frame's event can leave."""
        return [
            c for c, entries in self.expected.items() if entries and (entries[0].outcome or self.overdue(entries[0]))
        ]

    def new(self, camera: str, frames: int, due_in_ns: int | None, part: bool, with_id: bool = True) -> Entry:
        number = self.captured[camera] + 1
        self.captured[camera] += frames
        entry = Entry(
            Stamp(
                camera,
                number if with_id else None,
                last_frame_id=number + frames - 1 if frames > 1 and with_id else None,
                frames=frames,
                number=number,
                part_id=f"P-{number}" if part else None,
                due_monotonic_ns=None if due_in_ns is None else self.now_ns + due_in_ns,
            ),
            self.ledger.setup,
        )
        self.expected[camera].append(entry)
        return entry

    @rule(
        camera=st.sampled_from(CAMERAS),
        frames=st.sampled_from([1, 1, 1, 2, 5]),
        due_in_ns=st.none() | st.integers(-10, 300),
        part=st.sampled_from([False, False, True]),
        without_id=st.sampled_from([False, False, False, True]),
    )
    def announced(self, camera: str, frames: int, due_in_ns: int | None, part: bool, without_id: bool) -> None:
        announce(self.ledger, self.new(camera, frames, due_in_ns, part, not without_id).stamp)

    @rule(camera=st.sampled_from(CAMERAS), due_in_ns=st.none() | st.integers(-10, 300))
    def handed_over(self, camera: str, due_in_ns: int | None) -> None:
        entry, waiting = self.new(camera, 1, due_in_ns, False), self.waiting[camera]
        entry.place = len(self.counted.releases)
        frame = self.ledger.announce(self.counted.frame(entry.stamp))
        assert frame.stamp == entry.stamp
        dropped = None
        if len(waiting) == LANES[camera].capacity:
            dropped = waiting.popleft() if camera == "top" else entry
        if dropped is not entry:
            waiting.append(entry)
        if dropped is not None and dropped.outcome is None:
            # Only `pop` notices a deadline, so a dropped frame that is overdue was dropped.
            dropped.outcome = lost(dropped.stamp)
        self.ledger.hand_over(frame)

    @precondition(lambda self: any(self.waiting.values()))
    @rule()
    def take(self) -> None:
        found = None if self.nothing_to_take() else self.ledger.take()
        if found is None:
            return
        frame, setup = found
        frame.release()  # `complete` gets pixels of its own below
        for entries in self.waiting.values():
            while entries and self.counted.releases[entries[0].place]:
                entry = entries.popleft()
                assert entry.outcome is not None or entry.stamp == frame.stamp, "only expired frames are left out"
                assert entry.outcome is not None or setup is entry.setup

    def nothing_to_take(self) -> bool:
        return all(entry.outcome is not None for entries in self.waiting.values() for entry in entries)

    @precondition(lambda self: self.open_entries())
    @rule(data=st.data(), unjudged=st.sampled_from([OVERLOAD, LOST, BROKEN]))
    def lose(self, data: st.DataObject, unjudged: Unjudged) -> None:
        entry = data.draw(st.sampled_from(self.open_entries()))
        entry.outcome = lost(entry.stamp, unjudged, self.counted.frame(entry.stamp))
        self.ledger.complete(entry.outcome)

    @precondition(lambda self: self.open_entries())
    @rule(data=st.data())
    def judge(self, data: st.DataObject) -> None:
        waiting = [e for entries in self.expected.values() for e in entries if e.outcome and e.outcome.judgement]
        if len(waiting) >= JUDGED_WAITING:
            return  # `complete` would wait
        entry = data.draw(st.sampled_from(self.open_entries()))
        entry.outcome = good(entry.stamp, self.counted.frame(entry.stamp))
        self.ledger.complete(entry.outcome)

    @rule(data=st.data())
    def complete_again(self, data: st.DataObject) -> None:
        completed = [entry for entries in self.expected.values() for entry in entries if entry.outcome]
        if completed:
            entry = data.draw(st.sampled_from(completed))
            self.ledger.complete(lost(entry.stamp, BROKEN, self.counted.frame(entry.stamp)))
            assert self.counted.releases[-1] == 1

    @rule(which=st.sampled_from([0, 1]))
    def exchange(self, which: int) -> None:
        self.ledger.activate(self.setups[which])

    @invariant()
    def accounts_balance_and_equal_the_reference(self) -> None:
        accounts = self.ledger.accounts()
        assert all(account.balanced for account in accounts.values())
        for camera, account in accounts.items():
            bins = self.bins[camera]
            dropped = {r.removeprefix("dropped."): n for r, n in bins.items() if r.startswith("dropped.")}
            failed = {r.removeprefix("failed."): n for r, n in bins.items() if r.startswith("failed.")}
            in_flight = self.captured[camera] - bins.total()
            assert account == Account(self.captured[camera], bins["GOOD"], dropped, failed, in_flight)

    @invariant()
    def few_pixels_are_held(self) -> None:
        assert set(self.counted.releases) <= {0, 1}
        in_lanes = sum(map(len, self.waiting.values()))
        held = self.counted.releases.count(0) - in_lanes
        assert held <= JUDGED_WAITING + UNJUDGED_WITH_PIXELS * len(CAMERAS)

    @rule(later_ns=st.integers(0, 200))
    def advance_time(self, later_ns: int) -> None:
        self.now_ns += later_ns

    @precondition(lambda self: self.ready())
    @rule()
    def pop(self) -> None:
        outcome = self.ledger.pop()
        assert outcome is not None
        self.check(outcome)

    def check(self, outcome: Outcome) -> None:
        """Check that an outcome is its camera's first, and that all its frames have the same result; book it."""
        outcome.release()
        self.ledger.book(outcome)
        popped, entries = outcome.stamp, self.expected[outcome.stamp.camera]
        assert popped.camera in self.ready()
        for each in self.expected.values():
            for entry in each:
                if self.overdue(entry):
                    entry.outcome = Outcome(entry.stamp, unjudged=Unjudged("dropped", "deadline", ""))
        assert popped.number == self.bins[popped.camera].total() + 1, "no gap and no overlap"
        self.bins[popped.camera][reason(outcome)] += popped.frames
        first, frames = entries[0], 0
        folded: list[Entry] = []
        while frames < popped.frames:
            folded.append(entries.popleft())
            frames += folded[-1].stamp.frames
        assert frames == popped.frames
        for entry in folded:
            assert entry.outcome is not None
            assert outcome.setup is entry.setup
            left_late = entry.outcome.judgement is not None and self.is_due(entry.stamp)
            assert reason(outcome) == ("dropped.deadline" if left_late else reason(entry.outcome))
            assert entry.stamp.part_id is None or len(folded) == 1
            assert entry.outcome.judgement is None or len(folded) == 1
        assert (popped.frame_id, popped.part_id) == (first.stamp.frame_id, first.stamp.part_id)
        if popped.frame_id is not None:
            assert (popped.last_frame_id or popped.frame_id) == popped.number + popped.frames - 1

    def teardown(self) -> None:
        try:
            self.ledger.close()
            self.ledger.drop_waiting()
            for entries in self.waiting.values():
                for entry in entries:
                    if entry.outcome is None:
                        entry.outcome = lost(entry.stamp, Unjudged("dropped", "stopped", ""))
                entries.clear()
            for entry in self.open_entries():
                entry.outcome = lost(entry.stamp)
                self.ledger.complete(entry.outcome)
            self.ledger.finish()
            while (outcome := self.ledger.pop()) is not None:
                self.check(outcome)
            assert {camera: self.bins[camera].total() for camera in CAMERAS} == {c: self.captured[c] for c in CAMERAS}
            assert all(account.in_flight == 0 for account in self.ledger.accounts().values())
            assert self.counted.all_released_once()
        finally:
            self.patch.undo()


LedgerMachine.TestCase.settings = settings(stateful_step_count=40)
test_in_any_order_of_calls_each_frame_leaves_once_and_ends_in_one_bin = LedgerMachine.TestCase


# Threads.


def test_with_all_stages_on_threads_every_frame_leaves_once() -> None:
    each, popped, looks = 400, list[Outcome](), list[Account]()
    ledger = Ledger({"top": Lane(2, "block"), "side": Lane(2, "drop_oldest"), "back": Lane(2, "drop_newest")}, SETUP)

    def show(camera: str) -> None:
        chance = random.Random(camera)
        for number in range(1, each + 1):
            due_in_ns = chance.choice([None, 0, 100_000, 10**12])
            due_ns = None if due_in_ns is None else time.monotonic_ns() + due_in_ns
            frame = ledger.announce(Frame(Stamp(camera, number, due_monotonic_ns=due_ns), PIXELS, "RGB8"))
            if chance.random() < 0.3:
                ledger.complete(lost(frame.stamp, LOST))
            else:
                ledger.hand_over(frame)

    def judge() -> None:
        while (found := ledger.take()) is not None:
            stamp = found[0].stamp
            ledger.complete(lost(stamp, BROKEN) if stamp.number % 10 == 0 else good(stamp))
        ledger.finish()

    def report() -> None:
        while (outcome := ledger.pop()) is not None:
            popped.append(outcome)
            ledger.book(outcome)
            looks.extend(ledger.accounts().values())

    stages, cameras = [in_thread(judge), in_thread(report)], [in_thread(partial(show, camera)) for camera in CAMERAS]
    assert all(ended(camera) for camera in cameras)
    ledger.close()
    assert all(ended(stage) for stage in stages)
    assert all(account.balanced for account in looks)
    for camera, account in ledger.accounts().items():
        reached = 0
        for outcome in popped:
            if outcome.stamp.camera == camera:
                assert outcome.stamp.number == reached + 1
                reached += outcome.stamp.frames
        assert (reached, account.captured, account.in_flight) == (each, each, 0)
    assert "overload" not in ledger.accounts()["top"].dropped, "a lane that blocks loses nothing"


def test_an_unknown_camera_is_an_error_and_a_returned_account_does_not_change() -> None:
    ledger = ledger_of({"top": Lane(1, "block")})
    before = ledger.accounts()
    with pytest.raises(KeyError):
        ledger.announce(BadFrame(stamp(1, "bottom"), "", ""))
    announce(ledger, stamp(1))
    ledger.complete(lost(stamp(1), BROKEN))
    assert [reason(each) for each in rest(ledger)] == ["failed.engine"]
    assert before == {"top": Account()}
    assert list(ledger.accounts()) == ["top"]


def test_an_account_balances_only_if_each_captured_frame_is_in_one_bin() -> None:
    for balanced in (
        Account(),  # no frame was captured yet
        Account(3, 1, {"overload": 1}, {"engine": 1}, 0),  # one in each bin
        Account(3, 1, {"overload": 1}, {}, 1),  # one is in flight
    ):
        assert balanced.balanced
    for wrong in (
        Account(3, 3, {}, {}, 1),  # more booked than captured
        Account(3, 1, {"overload": 1}, {}, 0),  # one is lost
        Account(0, 1, {}, {}, -1),  # booked and never captured
    ):
        assert not wrong.balanced
