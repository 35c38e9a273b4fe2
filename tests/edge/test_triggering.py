"""Triggers of one camera: each part ends once, in its own frame or in none, whatever is lost, late or refused."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heatline.edge.cameras.process import FireTrigger
from heatline.edge.cameras.triggering import FIRE_WITHIN_SECONDS, Intake, PartRequest
from heatline.edge.frames import Frame, Stamp
from heatline.edge.wire.commands import Reply, Triggered
from tests.edge.supervised import Edges, drawn_camera

MS = 1_000_000
WITHIN_MS = 100


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
        self.answers: dict[str, list[Reply]] = {}
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
        self.intake.request(PartRequest(part_id, self.answers[part_id].append, self.now_ns - round(late_ms * MS)))
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
        self.intake.waiting[-1][1](len(self.intake.waiting))
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
        items = [item for item, _ in self.intake.waiting]
        frames = {item.stamp.camera_timestamp_ns: item.stamp.part_id for item in items if isinstance(item, Frame)}
        assert frames == self.shown
        ended = [item.stamp.part_id for item in items if item.stamp.part_id is not None]
        waits = [self.waiting[0]] if self.waiting else []
        assert sorted(ended + waits) == sorted(self.answers)
        assert len(items) == len(self.shown) + len(ended) - sum(map(bool, self.shown.values()))
        for item in items:  # the deadline counts from the trigger, or from the capture
            begun_ns = self.triggered_ns.get(item.stamp.part_id or "", item.stamp.captured_monotonic_ns)
            assert item.stamp.due_monotonic_ns == begun_ns + WITHIN_MS * MS
        for part_id, answers in self.answers.items():
            assert len(answers) == (part_id not in waits)
            for answer in answers:
                assert getattr(answer, "reason", None) == self.refusals[part_id]
                if isinstance(answer, Triggered):
                    stamp = items[answer.frame_number - 1].stamp
                    assert (stamp.part_id, stamp.frame_id) == (part_id, answer.frame_id)


TestSoftwareTriggers = SoftwareTriggers.TestCase
TestSoftwareTriggers.settings = settings(max_examples=60, phases=[Phase.generate])  # to shrink would take minutes


def test_a_frame_of_an_edge_shows_the_part_that_was_announced_last_before_it_was_taken() -> None:
    intake = Intake(Edges(name="top", trigger_timeout_ms=WITHIN_MS))

    def announce(part_id: str, at_ns: int) -> None:
        intake.request(PartRequest(part_id, lambda _: None, at_ns))
        intake.serve(at_ns, lambda _: None)

    announce("P1", 10)
    intake.add(frame(1, 1), [], 10)  # taken at the same time
    announce("P2", 20)  # it passes no camera
    announce("P3", 30)
    intake.add(frame(2, 2), [], 40)
    announce("P4", 60)
    intake.add(frame(3, 3), [], 50)  # taken before the announcement, and arrived after it
    announce("P5", 70)
    intake.add(frame(5, 5), [4], 80)
    announce("P6", 100)
    assert [intake.expire(100 + WITHIN_MS * MS - 1), intake.expire(100 + WITHIN_MS * MS)] == [0, 1]
    intake.add(frame(6, 6), [], 90 + WITHIN_MS * MS)  # late
    announce("P7", 200 * MS)
    intake.give_up("the end")
    assert [(item.stamp.frame_id, item.stamp.part_id, getattr(item, "reason", None)) for item, _ in intake.waiting] == [
        (1, "P1", None),
        (None, "P2", "no_frame"),
        (2, "P3", None),
        (3, None, None),
        (4, "P4", "lost_by_camera"),
        (5, "P5", None),
        (None, "P6", "no_frame"),
        (6, None, None),
        (None, "P7", "no_frame"),
    ]
