"""The part that a frame shows: no part id shifts, even if frames and triggers are lost."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.liveness import Liveness
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.cameras.triggering import ExpectedPart, ExpectedParts
from heatline.edge.frames import Stamp
from tests.edge.supervised import drawn_camera, give_time, watched

MS = 1_000_000


def part(part_id: str, expected_ns: int, give_up_ns: int = 10**12) -> ExpectedPart:
    return ExpectedPart(part_id, expected_ns, give_up_ns)


def test_a_frame_shows_the_part_that_was_expected_last_when_it_was_taken() -> None:
    parts = ExpectedParts()
    a, b, c = part("a", 10), part("b", 20), part("c", 30)
    for each in (a, b, c):
        parts.append(each)
    assert parts.match_frame(9) == (None, [])
    assert len(parts) == 3, "their own frames may still come"
    assert parts.match_frame(19) == (a, [])  # it arrives after the others are expected
    assert parts.match_frame(30) == (c, [b])
    assert len(parts) == 0


def test_a_part_waits_exactly_until_its_time_limit() -> None:
    parts = ExpectedParts()
    a, b = part("a", 10, 110), part("b", 20, 120)
    parts.append(a)
    parts.append(b)
    assert (parts.next_give_up_ns, len(parts)) == (110, 2)
    assert parts.pop_expired(109) == []
    assert parts.pop_expired(110) == [a]
    assert parts.match_frame(115) == (b, [])
    assert (parts.next_give_up_ns, len(parts), parts.pop_expired(10**12)) == (None, 0, [])
    parts.append(a)
    parts.append(b)
    assert parts.pop_all() == [a, b], "all are let go at once"
    assert (parts.pop_all(), parts.match_frame(50)) == ([], (None, []))


# A simulated line of parts, each with a trigger that may be lost.


@dataclass(frozen=True)
class Passage:
    """Times of one part on its way past the camera, ns."""

    announced_ns: int | None
    """None: the trigger was lost before it reached the line."""
    taken_ns: int
    arrived_ns: int | None
    """None: the frame was lost."""


@st.composite
def passages(draw: st.DrawFn) -> list[Passage]:
    """A sequence of parts. Each is announced, then passes; its frame arrives any time later, in order."""
    line, at_ns, arrived_ns = [], 0, 0
    for _ in range(draw(st.integers(1, 15))):
        announced_ns = at_ns + draw(st.integers(1, 50))
        taken_ns = announced_ns + draw(st.integers(0, 50))
        arrived_ns = max(arrived_ns, taken_ns + draw(st.integers(0, 300)))
        is_announced, is_delivered = (
            draw(st.booleans()) or draw(st.booleans()),
            draw(st.booleans()) or draw(st.booleans()),
        )
        line.append(Passage(announced_ns if is_announced else None, taken_ns, arrived_ns if is_delivered else None))
        at_ns = taken_ns
    return line


Events = list[tuple[int, int, str, int]]


def in_order_of_time(line: list[Passage]) -> Events:
    """Return (time, rank, event, part) of all events at the line; announcements precede frames of the same moment."""
    events: Events = []
    for n, passage in enumerate(line):
        if passage.announced_ns is not None:
            events.append((passage.announced_ns, 0, "announced", n))
        if passage.arrived_ns is not None:
            events.append((passage.arrived_ns, 1, "arrived", n))
    return sorted(events)


@given(line=passages(), within_ns=st.integers(20, 1000))
def test_despite_losses_a_frame_shows_the_part_of_the_last_trigger_before_it(
    line: list[Passage], within_ns: int
) -> None:
    parts, shown, ended = ExpectedParts(), dict[int, str | None](), list[str | None]()
    given_up: dict[str | None, int] = {}
    for at_ns, _, what, n in in_order_of_time(line):
        for each in parts.pop_expired(at_ns):
            ended.append(each.part_id)
            given_up[each.part_id] = at_ns
        if what == "announced":
            parts.append(part(str(n), at_ns, at_ns + within_ns))
            continue
        shows, passed = parts.match_frame(line[n].taken_ns)
        shown[n] = shows.part_id if shows else None
        ended += [each.part_id for each in [*passed, *([shows] if shows else [])]]
    ended += [each.part_id for each in parts.pop_all()]

    announced = [str(n) for n, passage in enumerate(line) if passage.announced_ns is not None]
    assert sorted(map(str, ended)) == sorted(announced), "every part ends exactly once"
    for n, part_id in shown.items():
        taken_ns, arrived_ns = line[n].taken_ns, line[n].arrived_ns
        triggers = [(p.announced_ns, str(m)) for m, p in enumerate(line) if p.announced_ns is not None]
        last = max((each for each in triggers if each[0] <= taken_ns), default=None)
        if last is None:
            assert part_id is None
            continue
        # Frames are taken and arrive in order, so an earlier frame may have the same last trigger.
        another = any(line[m].taken_ns >= last[0] for m in shown if m < n)
        assert arrived_ns is not None
        too_late = last[0] + within_ns <= arrived_ns
        assert part_id == (None if another or too_late else last[1])


@given(line=passages(), lost=st.integers(0, 14))
def test_one_more_lost_frame_changes_the_part_of_no_other_frame(line: list[Passage], lost: int) -> None:
    passages = [Passage(p.taken_ns if p.announced_ns is None else p.announced_ns, *_frame(p)) for p in line]
    before = shown_parts(passages)
    lost %= len(passages)
    passages[lost] = Passage(passages[lost].announced_ns, passages[lost].taken_ns, None)
    after = shown_parts(passages)
    assert after == {n: part_id for n, part_id in before.items() if n != lost}
    assert all(part_id == str(n) for n, part_id in after.items()), "each its own"


def _frame(passage: Passage) -> tuple[int, int | None]:
    return passage.taken_ns, passage.arrived_ns


def shown_parts(line: list[Passage]) -> dict[int, str | None]:
    """Return the part of each frame, with a long time limit."""
    parts, shown = ExpectedParts(), dict[int, str | None]()
    for at_ns, _, what, n in in_order_of_time(line):
        if what == "announced":
            parts.append(part(str(n), at_ns))
        else:
            found, _passed = parts.match_frame(line[n].taken_ns)
            shown[n] = found.part_id if found else None
    return shown


# The time of a frame is only known from the camera's clock.


class Station:
    """A camera whose clock states exactly when frames were taken, and a line that gets them later. Times in ms."""

    def __init__(self) -> None:
        self.liveness, self.parts = Liveness(PatternSettings(name="top", trigger="software")), ExpectedParts()
        self.liveness.begin(Opened(found=""), 0)

    def expect(self, part_id: str, at_ms: int, within_ms: int = 1000) -> None:
        self.parts.append(part(part_id, at_ms * MS, (at_ms + within_ms) * MS))

    def frame(self, taken_ms: int, arrived_ms: int) -> str | None:
        """Deliver a frame; return its part."""
        self.parts.pop_expired(arrived_ms * MS)
        stamp = Stamp(
            "top", 1, camera_timestamp_ns=(taken_ms + 5000) * MS, captured_monotonic_ns=arrived_ms * MS
        )  # 5 s: the clocks differ
        self.liveness.check_frame(stamp, None, arrived_ms * MS)
        found, _passed = self.parts.match_frame(self.liveness.taken_ns)
        return found.part_id if found else None


def test_a_single_late_frame_keeps_its_part() -> None:
    station = Station()
    for n in range(10):
        station.expect(f"P-{n}", 100 * n)
        assert station.frame(100 * n + 5, 100 * n + 15) == f"P-{n}"
    station.expect("late", 1000)
    station.expect("next", 1100)
    assert station.frame(1005, 1150) == "late"
    assert station.frame(1105, 1151) == "next"


def test_parts_that_are_announced_after_the_previous_frame_do_not_shift() -> None:
    station, shown = Station(), []
    station.expect("P-0", 0)
    for n in range(20):  # exposure, read-out and transport of a frame take 40 ms in total
        edge_ms = 100 * n + 50
        shown.append(station.frame(taken_ms=edge_ms, arrived_ms=edge_ms + 40))
        station.expect(f"P-{n + 1}", edge_ms + 41)
    assert shown == [f"P-{n}" for n in range(20)]


# The same rules with a camera in its process.


@pytest.fixture(autouse=True)
def _give_time(monkeypatch: pytest.MonkeyPatch) -> None:
    give_time(monkeypatch)


def what_a_camera_does(count: int, ignore: list[int], lose: list[int]) -> list[int | None]:
    """Return the frame id of each trigger, from the settings and the documentation only."""
    brought: list[int | None] = []
    taken = 0
    for trigger in range(1, count + 1):
        if trigger in ignore:
            brought.append(None)
            continue
        taken += 1
        brought.append(None if taken in lose else taken)
    return brought


@pytest.mark.parametrize("count", [14, pytest.param(110, marks=pytest.mark.long)])
def test_lost_triggers_and_frames_do_not_shift_other_parts(count: int) -> None:
    keys = {"ignore_triggers": [3, 9], "lose_frames": [5, 8]}
    brought = what_a_camera_does(count, keys["ignore_triggers"], keys["lose_frames"])
    assert [n for n, frame_id in enumerate(brought, 1) if frame_id is None] == [3, 6, 9, 10]
    asked = [None if n in (1, 9) else f"P-{n}" for n in range(1, count + 1)]  # parts without an id do not shift either
    with watched(drawn_camera(trigger="software", trigger_timeout_ms=400, **keys)) as camera:
        for n, part_id in enumerate(asked, 1):
            camera.trigger(part_id)
            camera.until(lambda: len(camera.seen) >= n, f"part {part_id}")  # noqa: B023
            lost = brought[n - 1] is None
            answer = camera.answers[part_id][-1]
            assert answer.refused == ("no_frame" if lost else None)
            assert (answer.frame_id, answer.frame_number) == ((None, 0) if lost else (brought[n - 1], n))
        assert camera.grab() is None, "nothing comes afterwards"
        came = zip(asked, brought, strict=True)
        assert camera.parts == [(part_id, None if frame_id else "no_frame", frame_id) for part_id, frame_id in came]
        assert [seen.stamp.frame_id for seen in camera.seen] == brought
        assert [seen.number for seen in camera.seen] == list(range(1, count + 1)), "nothing is counted twice"
        assert {(seen.kind, seen.stamp.frames) for seen in camera.bad} == {("dropped", 1)}
        assert camera.alarms == [], "one that is lost is not a dead camera"
