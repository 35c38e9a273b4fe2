"""Triggers of one camera: each part ends once, in its own frame or in none, whatever is lost, late or refused."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heatline.edge.cameras.process import FireTrigger
from heatline.edge.cameras.triggering import FIRE_WITHIN_SECONDS, Intake, TriggerAnswer, TriggerRequest
from heatline.edge.frames import Frame, Stamp
from tests.edge.supervised import Edges, drawn_camera

MS = 1_000_000
WITHIN_MS = 100
FOREVER = 10**9


def frame(frame_id: int, mark: int) -> Frame:
    """A frame that is recognised by its camera's timestamp."""
    return Frame(Stamp("top", frame_id, camera_timestamp_ns=mark), np.zeros((1, 1), np.uint8), "Mono8")


@dataclass(frozen=True)
class UnderWay:
    """A frame that the camera took for a part."""

    part_id: str
    frame_id: int
    mark: int
    taken_ns: int
    arrives_ns: int | None
    """None: it is lost."""


class SoftwareTriggers(RuleBasedStateMachine):
    """A camera that ignores triggers, loses frames, is late, dies and returns, and what docs/cameras.md promises."""

    def __init__(self) -> None:
        super().__init__()
        self.intake = Intake(drawn_camera(trigger="software", trigger_timeout_ms=1000, deadline_ms=WITHIN_MS))
        self.now_ns = self.quiet_until_ns = 0
        self.is_open, self.was_in_time = True, False
        self.waiting: tuple[str, int] | None = None
        """The part that waits, and when it is given up."""
        self.under_way = deque[UnderWay]()
        self.frame_id = self.mark = 0
        self.lost: list[int] = []
        self.answers: dict[str, list[TriggerAnswer]] = {}
        self.refusals: dict[str, str | None] = {}
        self.triggered_ns: dict[str, int] = {}
        self.shown: dict[int, str | None] = {}
        """The part of each frame that came, by its mark."""

    @rule(
        what=st.sampled_from(["frame", "frame", "ignored", "lost"]),
        transport_ms=st.integers(0, 2 * WITHIN_MS),
        late_ms=st.sampled_from([0, 0, 0, 1 + FIRE_WITHIN_SECONDS * 1e3]),
    )
    def trigger(self, what: str, transport_ms: int, late_ms: float) -> None:
        part_id = f"P{len(self.answers)}"

        def fire(_: FireTrigger) -> None:
            self.waiting = part_id, self.now_ns + WITHIN_MS * MS
            if what == "ignored":
                return
            self.frame_id, self.mark = self.frame_id + 1, self.mark + 1
            arrives_ns = None if what == "lost" else self.now_ns + transport_ms * MS
            self.under_way.append(UnderWay(part_id, self.frame_id, self.mark, self.now_ns, arrives_ns))

        busy = self.waiting or self.now_ns < self.quiet_until_ns or late_ms
        self.refusals[part_id] = "camera_dead" if not self.is_open else "busy" if busy else None
        self.answers[part_id], self.triggered_ns[part_id] = [], self.now_ns
        self.intake.request(TriggerRequest(part_id, self.answers[part_id].append, self.now_ns - round(late_ms * MS)))
        self.intake.serve(self.now_ns, fire if self.is_open else None)

    @rule(ms=st.sampled_from([5, 40, WITHIN_MS, WITHIN_MS]))
    def wait(self, ms: int) -> None:
        self.now_ns += ms * MS
        while self.under_way and (self.under_way[0].arrives_ns or 0) <= self.now_ns:
            one = self.under_way.popleft()
            if one.arrives_ns is None:
                self.lost.append(one.frame_id)
            else:
                self._arrive(one)
        if self.waiting and self.waiting[1] <= self.now_ns:
            self._no_frame()
            self.quiet_until_ns = 0 if self.was_in_time else self.now_ns + WITHIN_MS * MS
        self.intake.expire(self.now_ns)

    def _arrive(self, one: UnderWay) -> None:
        self.shown[one.mark] = None
        if self.waiting and self.waiting[0] == one.part_id:
            self.shown[one.mark], self.waiting, self.was_in_time = one.part_id, None, True
        self.quiet_until_ns = 0
        self.intake.add(frame(one.frame_id, one.mark), self.lost, one.taken_ns)
        self.lost = []

    def _no_frame(self) -> None:
        assert self.waiting
        self.refusals[self.waiting[0]], self.waiting = "no_frame", None

    @precondition(lambda self: self.is_open)
    @rule()
    def die(self) -> None:
        if self.waiting:
            self._no_frame()
        self.is_open = False
        self.under_way.clear()
        self.lost.clear()
        self.intake.give_up("the camera is dead")

    @precondition(lambda self: not self.is_open)
    @rule()
    def open(self) -> None:
        self.is_open, self.was_in_time = True, False
        self.frame_id = self.quiet_until_ns = 0
        self.intake.restart()

    @invariant()
    def each_part_that_ended_did_so_once_and_each_frame_shows_its_own(self) -> None:
        items = list(self.intake.waiting)
        frames = {item.stamp.camera_timestamp_ns: item.stamp.part_id for item in items if isinstance(item, Frame)}
        assert frames == self.shown
        ended = [item.stamp.part_id for item in items if item.stamp.part_id is not None]
        waits = [self.waiting[0]] if self.waiting else []
        assert sorted(ended + waits) == sorted(self.answers)
        assert self.intake.number == len(items) == len(self.shown) + len(ended) - sum(map(bool, self.shown.values()))
        for item in items:  # the deadline counts from the trigger, or from the capture
            begun_ns = self.triggered_ns.get(item.stamp.part_id or "", item.stamp.captured_monotonic_ns)
            assert item.stamp.due_monotonic_ns == begun_ns + WITHIN_MS * MS
        for part_id, answers in self.answers.items():
            assert len(answers) == (part_id not in waits)
            for answer in answers:
                assert answer.refused == self.refusals[part_id]
                if answer.refused is None:
                    stamp = items[answer.frame_number - 1].stamp
                    assert (stamp.part_id, stamp.frame_id) == (part_id, answer.frame_id)


TestSoftwareTriggers = SoftwareTriggers.TestCase
TestSoftwareTriggers.settings = settings(max_examples=60, phases=[Phase.generate])  # to shrink would take minutes


@dataclass(frozen=True)
class Passage:
    """Times of one part on its way past a camera with a hardware trigger, ns."""

    announced_ns: int | None
    """None: nobody announced it."""
    taken_ns: int
    arrived_ns: int | None
    """None: the frame was lost."""


@st.composite
def passages(draw: st.DrawFn) -> list[Passage]:
    """A sequence of parts. Each is announced, then passes; its frame arrives any time later, in order."""
    line, at_ns, arrived_ns = list[Passage](), 1000, 0
    mostly = st.sampled_from([True, True, True, False])
    for _ in range(draw(st.integers(1, 15))):
        announced_ns = at_ns + draw(st.integers(1, 50))
        taken_ns = at_ns = announced_ns + draw(st.integers(0, 50))
        arrived_ns = max(arrived_ns, taken_ns + draw(st.integers(0, 300)))
        line.append(Passage(announced_ns if draw(mostly) else None, taken_ns, arrived_ns if draw(mostly) else None))
    return line


@given(line=passages(), within_ns=st.integers(20, 1000) | st.just(FOREVER))
def test_a_frame_of_an_edge_shows_the_part_that_was_announced_last_before_it_was_taken(
    line: list[Passage], within_ns: int
) -> None:
    intake = Intake(Edges(name="top", trigger_timeout_ms=within_ns / 1e6))
    announced = [(one.announced_ns, 0, n) for n, one in enumerate(line) if one.announced_ns is not None]
    arrived = [(one.arrived_ns, 1, n) for n, one in enumerate(line) if one.arrived_ns is not None]
    came = 0
    for at_ns, is_frame, n in sorted(announced + arrived):
        intake.expire(at_ns)
        if is_frame:
            intake.add(frame(n + 1, n), range(came + 1, n + 1), line[n].taken_ns)
            came = n + 1
        else:
            intake.request(TriggerRequest(str(n), lambda answer: None, at_ns))
            intake.serve(at_ns, lambda _: None)
    intake.give_up("the end")
    ended = [item.stamp.part_id for item in intake.waiting if item.stamp.part_id is not None]
    assert sorted(ended) == sorted(str(n) for _, _, n in announced), "every part ends exactly once"
    for item in intake.waiting:
        if not isinstance(item, Frame):
            if item.stamp.frame_id is not None and within_ns == FOREVER and len(announced) == len(line):
                assert (item.reason, item.stamp.part_id) == ("lost_by_camera", str(item.stamp.frame_id - 1))
            continue
        n = item.stamp.camera_timestamp_ns
        assert n is not None
        last_ns, _, last = max((one for one in announced if one[0] <= line[n].taken_ns), default=(0, 0, None))
        # Frames are taken and arrive in order, so an earlier frame may have the same last announcement.
        before = any(line[m].taken_ns >= last_ns for _, _, m in arrived if m < n)
        too_late = last_ns + within_ns <= (line[n].arrived_ns or 0)
        assert item.stamp.part_id == (None if last is None or before or too_late else str(last))
