"""The frame ledger: every frame gets one outcome, leaves once, in order and in time, and ends in one bin."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import get_args

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
from tests.edge.supervised import WITHIN_SECONDS, in_thread

TILES = TileScores(np.zeros((1, 2), np.int32), np.array([-1], np.float32), 4)
GOOD = Judgement("GOOD", (4, 4), -1.0, np.zeros((1, 1), np.float32), [], TILES)
OVERLOAD = Unjudged("dropped", "overload", "too many")
LOST = Unjudged("dropped", "lost_by_camera", "never arrived")
BROKEN = Unjudged("failed", "engine", "no answer")
SETUP = Setup(None, None, None)  # type: ignore[arg-type]  # nothing is inspected here
PIXELS = np.zeros((1, 1, 3), np.uint8)
LANES = {"top": Lane(2, "drop_oldest"), "side": Lane(2, "drop_newest"), "back": Lane(1000, "block")}
CLOCK = "heatline.edge.inspection.ledger.time.monotonic_ns"


def stamp(number: int, camera: str = "top", **more: object) -> Stamp:
    """A frame's stamp; by default its id equals its number."""
    return replace(Stamp(camera, number, number=number), **more)  # type: ignore[arg-type]


def good(of: Stamp, frame: Frame | None = None) -> Outcome:
    return Outcome(of, judgement=GOOD, frame=frame)


def lost(of: Stamp, unjudged: Unjudged = OVERLOAD, frame: Frame | None = None) -> Outcome:
    return Outcome(of, unjudged=unjudged, frame=frame)


def reason(outcome: Outcome | None) -> str:
    return "GOOD" if outcome.unjudged is None else f"{outcome.unjudged.kind}.{outcome.unjudged.reason}"


def ended(thread: threading.Thread) -> bool:
    thread.join(WITHIN_SECONDS)
    return not thread.is_alive()


def announced(*stamps: Stamp) -> Ledger:
    """A ledger with these frames, which it must number as they are."""
    ledger = Ledger(LANES, SETUP)
    for each in stamps:
        assert ledger.announce(BadFrame(each, "", "")).stamp == each
    return ledger


def rest(ledger: Ledger, *outcomes: Outcome) -> list[Outcome]:
    """Complete these, finish the ledger, and return and book the remaining outcomes."""
    for outcome in outcomes:
        ledger.complete(outcome)
    ledger.finish()
    left = []
    while (popped := ledger.pop()) is not None:
        ledger.book(popped)
        left.append(popped)
    return left


def test_consecutive_frames_lost_for_one_reason_leave_as_one_run_and_others_alone() -> None:
    runs = [stamp(1), stamp(2, frames=3, last_frame_id=4), stamp(5, frames=2, last_frame_id=6)]
    ((popped),) = (each.stamp for each in rest(announced(*runs), *map(lost, runs)))
    assert (popped.number, popped.frames, popped.frame_id, popped.last_frame_id) == (1, 6, 1, 6)
    for one, other in [
        (lost(stamp(1)), lost(stamp(2), LOST)),
        (lost(stamp(1)), lost(stamp(2), replace(OVERLOAD, kind="failed"))),
        (lost(stamp(1, part_id="P-1")), lost(stamp(2, part_id="P-1"))),
        (lost(stamp(1, source="a.png")), lost(stamp(2, source="b.png"))),
        (lost(stamp(1)), lost(stamp(2, frame_id=None))),  # a frame without an id cannot be part of a range
        (lost(stamp(1)), lost(stamp(2, frame_id=7))),
        (good(stamp(1)), good(stamp(2))),
    ]:
        assert rest(announced(one.stamp, other.stamp), one, other) == [one, other]


def test_a_camera_with_many_events_or_frames_does_not_delay_another() -> None:
    many = [stamp(1, "side"), *(stamp(n, part_id=f"P-{n}") for n in range(1, 101))]
    ledger = announced(*many)
    for each in reversed(many):
        ledger.complete(lost(each))
    assert "side" in {each.stamp.camera for each in (ledger.pop() for _ in range(4)) if each}
    seen = []
    for camera in ("side", "back", "top", "top", "top"):
        ledger.hand_over(ledger.announce(Frame(Stamp(camera, 1), PIXELS, "RGB8")))
        if camera == "top":
            found = ledger.take()
            seen.append(found[0].stamp.camera if found else "")
    assert sorted(seen) == ["back", "side", "top"]


def test_a_judgement_waits_for_room_also_past_the_deadline_and_a_loss_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 10**9
    monkeypatch.setattr(CLOCK, lambda: now_ns)
    ledger = announced(*map(stamp, range(1, 5)), stamp(1, "side", due_monotonic_ns=now_ns + 10))
    for number in range(1, JUDGED_WAITING + 1):
        ledger.complete(good(stamp(number)))
    ledger.complete(lost(stamp(4)))
    judges = [in_thread(lambda each=each: ledger.complete(good(each))) for each in (stamp(3), stamp(1, "side"))]  # type: ignore[misc]
    judges[0].join(0.05)
    assert all(judge.is_alive() for judge in judges)
    now_ns += 10
    assert sorted(reason(ledger.pop()) for _ in range(3)) == ["GOOD", "GOOD", "dropped.deadline"]
    assert all(ended(judge) for judge in judges)
    assert [reason(each) for each in rest(ledger)] == ["GOOD", "dropped.overload"]


def test_a_waiting_pop_wakes_at_the_earliest_deadline() -> None:
    ledger, taken = announced(stamp(1, due_monotonic_ns=time.monotonic_ns() + 3600 * 10**9)), list[tuple[str, int]]()
    taker = in_thread(lambda: taken.append((reason(ledger.pop()), time.monotonic_ns())))
    due_ns = time.monotonic_ns() + 10_000_000
    ledger.announce(BadFrame(stamp(1, "side", due_monotonic_ns=due_ns), "", ""))
    assert ended(taker)
    assert (taken[0][0], taken[0][1] >= due_ns) == ("dropped.deadline", True)


@pytest.mark.parametrize("policy", get_args(Policy))
def test_after_closing_waiting_frames_still_leave_and_new_ones_are_dropped(policy: Policy) -> None:
    ledger = Ledger({"top": Lane(2, policy)}, SETUP)

    def show() -> None:
        ledger.hand_over(ledger.announce(Frame(Stamp("top", 1), PIXELS, "RGB8")))

    show()
    show()
    camera = in_thread(show) if policy == "block" else None  # it waits for room
    ledger.close()
    if camera is None:
        show()
    assert camera is None or ended(camera)
    while (found := ledger.take()) is not None:
        ledger.complete(lost(found[0].stamp, BROKEN))
    assert rest(ledger)[-1].stamp.number == 3
    assert ledger.accounts()["top"] == Account(3, 0, {"stopped": 1}, {"engine": 2})


@pytest.mark.parametrize(
    ("account", "is_balanced"),
    [
        (Account(4, 1, {"overload": 1}, {"engine": 1}, 1), True),
        (Account(3, 3, {}, {}, 1), False),
        (Account(3, 1, {"overload": 1}, {}, 0), False),
        (Account(0, 1, {}, {}, -1), False),
    ],
)
def test_an_account_balances_only_if_each_captured_frame_is_in_one_bin(account: Account, is_balanced: bool) -> None:
    assert account.balanced == is_balanced


@dataclass
class Entry:
    stamp: Stamp
    setup: Setup
    result: str | None = None
    """Its bin once it is complete."""
    place: int = -1
    """Of its pixels, while it waits in a lane."""


class LedgerMachine(RuleBasedStateMachine):
    """Frames are announced, handed over, taken, completed in any order, and expire, on the test's own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.setups = [replace(SETUP, product=str(number)) for number in range(2)]
        self.ledger = Ledger(LANES, self.setups[0])
        self.entries: dict[str, deque[Entry]] = {camera: deque() for camera in LANES}
        self.waiting: dict[str, deque[Entry]] = {camera: deque() for camera in LANES}
        self.captured, self.bins = Counter[str](), {camera: Counter[str]() for camera in LANES}
        self.releases = list[int]()
        self.now_ns, self.patch = 10**9, pytest.MonkeyPatch()
        self.patch.setattr(CLOCK, lambda: self.now_ns)

    def pixels(self, of: Stamp) -> Frame:
        place = len(self.releases)
        self.releases.append(0)

        def release() -> None:
            self.releases[place] += 1

        return Frame(of, PIXELS, "RGB8", release=release)

    def is_due(self, entry: Entry) -> bool:
        return entry.stamp.due_monotonic_ns is not None and entry.stamp.due_monotonic_ns <= self.now_ns

    def every(self) -> list[Entry]:
        return [entry for entries in self.entries.values() for entry in entries]

    def open(self) -> list[Entry]:
        """Entries that wait in no lane, and are neither complete nor expired."""
        lanes = [id(entry) for entries in self.waiting.values() for entry in entries]
        return [each for each in self.every() if not (each.result or self.is_due(each) or id(each) in lanes)]

    def ready(self) -> list[str]:
        """Cameras whose first frame's event can leave."""
        return [c for c, entries in self.entries.items() if entries and (entries[0].result or self.is_due(entries[0]))]

    def new(self, camera: str, frames: int, due_in_ns: int | None, part: bool, with_id: bool) -> Entry:
        number = self.captured[camera] + 1
        self.captured[camera] += frames
        shown = Stamp(
            camera,
            number if with_id else None,
            last_frame_id=number + frames - 1 if frames > 1 and with_id else None,
            frames=frames,
            number=number,
            part_id=f"P-{number}" if part else None,
            due_monotonic_ns=None if due_in_ns is None else self.now_ns + due_in_ns,
        )
        self.entries[camera].append(Entry(shown, self.ledger.setup))
        return self.entries[camera][-1]

    due = st.none() | st.integers(-10, 300)
    rarely = st.sampled_from([False, False, True])

    @rule(camera=st.sampled_from([*LANES]), frames=st.sampled_from([1, 1, 2, 5]), due=due, part=rarely, bare=rarely)
    def announce(self, camera: str, frames: int, due: int | None, part: bool, bare: bool) -> None:
        entry = self.new(camera, frames, due, part, not bare)
        assert self.ledger.announce(BadFrame(entry.stamp, "", "")).stamp == entry.stamp

    @rule(camera=st.sampled_from([*LANES]), due=due)
    def hand_over(self, camera: str, due: int | None) -> None:
        entry, waiting, dropped = self.new(camera, 1, due, False, True), self.waiting[camera], None
        entry.place = len(self.releases)
        frame = self.ledger.announce(self.pixels(entry.stamp))
        if len(waiting) == LANES[camera].capacity:
            dropped = waiting.popleft() if camera == "top" else entry
        if dropped is not entry:
            waiting.append(entry)
        if dropped is not None and dropped.result is None:  # only `pop` notices a deadline
            dropped.result = "dropped.overload"
        self.ledger.hand_over(frame)

    @precondition(lambda self: any(entry.result is None for lane in self.waiting.values() for entry in lane))
    @rule()
    def take(self) -> None:
        found = self.ledger.take()
        found[0].release()  # `complete` gets pixels of its own below
        for entries in self.waiting.values():
            while entries and self.releases[entries[0].place]:
                entry = entries.popleft()
                assert (entry.result is None) == (entry.stamp == found[0].stamp), "only expired frames are left out"
                assert entry.result is not None or found[1] is entry.setup

    @precondition(lambda self: self.open())
    @rule(data=st.data(), unjudged=st.sampled_from([None, OVERLOAD, LOST, BROKEN]))
    def complete(self, data: st.DataObject, unjudged: Unjudged | None) -> None:
        judged = sum(entry.result == "GOOD" for entry in self.every())
        if unjudged is None and judged >= JUDGED_WAITING:
            return  # `complete` would wait
        entry = data.draw(st.sampled_from(self.open()))
        frame = self.pixels(entry.stamp)
        outcome = good(entry.stamp, frame) if unjudged is None else lost(entry.stamp, unjudged, frame)
        entry.result = reason(outcome)
        self.ledger.complete(outcome)

    @rule(data=st.data())
    def complete_again(self, data: st.DataObject) -> None:
        if completed := [entry for entry in self.every() if entry.result]:
            again = data.draw(st.sampled_from(completed)).stamp
            self.ledger.complete(lost(again, BROKEN, self.pixels(again)))
            assert self.releases[-1] == 1

    @rule(which=st.sampled_from([0, 1]))
    def exchange(self, which: int) -> None:
        self.ledger.activate(self.setups[which])

    @rule(later_ns=st.integers(0, 200))
    def advance_time(self, later_ns: int) -> None:
        self.now_ns += later_ns

    @precondition(lambda self: self.ready())
    @rule()
    def pop(self) -> None:
        self.check(self.ledger.pop())

    def check(self, outcome: Outcome) -> None:
        """Check that an outcome is its camera's first, and that all its frames have the same result; book it."""
        for entry in self.every():
            if entry.result is None and self.is_due(entry):
                entry.result = "dropped.deadline"
        assert outcome.judgement is None or outcome.frame is not None
        outcome.release()
        self.ledger.book(outcome)
        popped, entries = outcome.stamp, self.entries[outcome.stamp.camera]
        assert popped.number == self.bins[popped.camera].total() + 1, "no gap and no overlap"
        self.bins[popped.camera][reason(outcome)] += popped.frames
        folded = [entries.popleft()]
        while sum(each.stamp.frames for each in folded) < popped.frames:
            folded.append(entries.popleft())
        assert sum(each.stamp.frames for each in folded) == popped.frames
        for entry in folded:
            assert outcome.setup is entry.setup
            left_late = entry.result == "GOOD" and self.is_due(entry)
            assert reason(outcome) == ("dropped.deadline" if left_late else entry.result)
            assert len(folded) == 1 or (entry.stamp.part_id is None and entry.result != "GOOD")
        assert (popped.frame_id, popped.part_id) == (folded[0].stamp.frame_id, folded[0].stamp.part_id)
        if popped.frame_id is not None:
            assert (popped.last_frame_id or popped.frame_id) == popped.number + popped.frames - 1

    @invariant()
    def accounts_balance_and_few_pixels_are_held(self) -> None:
        for camera, account in self.ledger.accounts().items():
            bins, lost_in = self.bins[camera], {"dropped": dict[str, int](), "failed": dict[str, int]()}
            for each in bins.keys() - {"GOOD"}:
                lost_in[each.partition(".")[0]][each.partition(".")[2]] = bins[each]
            in_flight = self.captured[camera] - bins.total()
            assert account == Account(self.captured[camera], bins["GOOD"], *lost_in.values(), in_flight)
            assert account.balanced
        assert set(self.releases) <= {0, 1}
        held = self.releases.count(0) - sum(map(len, self.waiting.values()))
        assert held <= JUDGED_WAITING + UNJUDGED_WITH_PIXELS * len(LANES)

    def teardown(self) -> None:
        try:
            self.ledger.close()
            self.ledger.drop_waiting()
            for entry in (each for entries in self.waiting.values() for each in entries):
                entry.result = entry.result or "dropped.stopped"
            self.waiting = {camera: deque() for camera in LANES}
            for entry in self.open():
                entry.result = "dropped.overload"
                self.ledger.complete(lost(entry.stamp))
            self.ledger.finish()
            while (outcome := self.ledger.pop()) is not None:
                self.check(outcome)
            assert {camera: self.bins[camera].total() for camera in LANES} == {c: self.captured[c] for c in LANES}
            assert set(self.releases) <= {1}
        finally:
            self.patch.undo()


LedgerMachine.TestCase.settings = settings(stateful_step_count=40)
test_in_any_order_of_calls_each_frame_leaves_once_and_ends_in_one_bin = LedgerMachine.TestCase
