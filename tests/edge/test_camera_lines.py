"""Lines of several cameras, of parts and of deadlines, with the real service, its command socket and real cameras."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.cameras import aravis
from heatline.edge.delivery.client import Commander
from heatline.edge.errors import CommandRefusedError
from heatline.edge.wire.commands import Announced, Triggered
from heatline.edge.wire.events import StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge import gv_cameras
from tests.edge.gv_cameras import aravis_camera, leased, loopback_has, need_aravis
from tests.edge.lines import ReceivedEvents, RunningLine, assert_every_frame_has_its_event, running, write_line_with
from tests.small_bundle import TILE, answer

MANY_TILES = "[tiles]\noverlap_px = 221\n\n[engine]\nthreads = 1"
"""Hundreds of tiles in a small frame: only inspection takes long."""


@pytest.fixture
def commands(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/commands"


def grey(value: int) -> NDArray[np.uint8]:
    return np.full((TILE, TILE), value, np.uint8)


def score_of_grey(value: int) -> object:
    return pytest.approx(float(answer(np.full((1, TILE, TILE, 3), value, np.uint8))[0][0]), abs=1e-3)


# Several cameras, one engine.


def test_a_fast_camera_does_not_starve_a_slow_one(tmp_path: Path, bundle: Bundle, address: str) -> None:
    size = {"kind": "pattern", "draw_size": [260, 260]}
    # While it has more frames than may wait, the fast one still has some.
    slow_camera = {**size, "rate_fps": 4, "frames": 5, "waiting_frames": 3}
    cameras = {"fast": {**size, "rate_fps": 150, "frames": 200}, "slow": slow_camera}
    line = write_line_with(tmp_path, bundle.path, address, cameras, f'heatmaps = "never"\n\n{MANY_TILES}')
    with running(line, address) as run:
        received = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(received, ["fast", "slow"])
    fast, slow = received.last.ledger["fast"], received.last.ledger["slow"]
    assert (slow.inspected, slow.dropped, slow.failed) == (5, {}, {})
    assert fast.captured == 200
    assert set(fast.dropped) == {"overload"}
    assert fast.inspected > 0


# Parts, by software triggers.

LOST = 4
"""The number of the part whose trigger or frame is lost."""
MANY = pytest.mark.parametrize("count", [12, pytest.param(110, marks=pytest.mark.long)])
"""Number of parts; all after the lost one could be shifted."""


TOO_LATE = "too late"


def names(count: int) -> list[str]:
    return [f"P{number}" for number in range(1, count + 1)]


def trigger_parts(
    commands: str, camera: str, count: int, before: Callable[[int], None] = lambda number: None
) -> dict[str, Triggered | str]:
    """Trigger the frame of every part in turn; return the replies, or the reasons of refusals.

    Args:
        before: called with each part's number before its trigger.
    """
    replies: dict[str, Triggered | str] = {}
    with Commander(commands, timeout_s=WITHIN_SECONDS) as line:
        for number, part in enumerate(names(count), start=1):
            before(number)
            try:
                reply = line.trigger(camera, part)
            except CommandRefusedError as refused:
                # A busy machine that cannot send a trigger at once does not send it.
                replies[part] = TOO_LATE if "in time" in str(refused) else refused.reason
            else:
                assert isinstance(reply, Triggered)
                assert reply.part_id == part
                replies[part] = reply
    return replies


def until_reported(run: RunningLine, part: str | None) -> None:
    """Wait for the event of a part, or of a frame without a part."""
    run.until(lambda event: isinstance(event, VerdictEvent) and event.part_id == part)


def events_of_parts(received: ReceivedEvents) -> list[VerdictEvent]:
    return [event for event in received.verdicts if event.part_id is not None]


def assert_one_part_has_no_verdict_and_every_other_its_own(
    received: ReceivedEvents, replies: dict[str, Triggered | str]
) -> list[VerdictEvent]:
    """Check that reply and event of each part name the same frame, and that ids after the lost one do not shift.

    Returns:
        the events of the parts whose triggers were sent.
    """
    assert_every_frame_has_its_event(received, ["top"])
    events = events_of_parts(received)
    assert [event.part_id for event in events] == list(replies), "each part has one event, and they are in order"
    events = [event for event in events if replies[str(event.part_id)] != TOO_LATE]
    for number, event in enumerate(events, start=1):
        reply = replies[str(event.part_id)]
        if number == LOST:
            assert (event.verdict, event.reason, reply) == ("NO_VERDICT", "dropped.no_frame", "no_frame")
        else:
            assert isinstance(reply, Triggered), f"{event.part_id}: {reply}"
            assert event.verdict != "NO_VERDICT"
            assert (reply.frame_id, reply.frame_number) == (event.frame_id, event.frame_number)
    assert received.last.ledger["top"].captured == len(replies), "every trigger is accounted for, and nothing else"
    assert received.alarms == []
    return events


TRIGGERED = {"trigger": "software", "trigger_timeout_ms": 1500, "on_overload": "block"}


@MANY
@pytest.mark.parametrize("what", [pytest.param("ignore_triggers", marks=pytest.mark.long), "lose_frames"])
def test_a_lost_frame_costs_its_own_part_the_verdict_and_shifts_no_other(
    tmp_path: Path, bundle: Bundle, address: str, commands: str, what: str, count: int
) -> None:
    camera = {"kind": "pattern", "draw_size": [64, 48], **TRIGGERED, what: [LOST]}
    tables = f'heatmaps = "never"\n\n[commands]\nbind = "{commands}"'
    line = write_line_with(tmp_path, bundle.path, address, {"top": camera}, tables)
    with running(line, address) as run:
        run.next()
        replies = trigger_parts(commands, "top", count)
        received = run.end()
    events = assert_one_part_has_no_verdict_and_every_other_its_own(received, replies)
    # An ignored trigger takes no frame; a lost frame leaves a gap in the ids.
    skipped = what == "lose_frames"
    expected = [*range(1, LOST), None, *range(LOST + skipped, len(events) + skipped)]
    assert [event.frame_id for event in events] == expected


@MANY
def test_each_part_has_the_verdict_on_its_own_pixels_after_losses_and_restarts(
    tmp_path: Path, bundle: Bundle, address: str, commands: str, count: int
) -> None:
    """A GigE Vision camera whose picture changes from part to part, and whose packets are all lost for one of them."""

    def shown(number: int) -> int:
        return 255 - 2 * number

    with aravis_camera(pictures=[grey(255)]) as device:
        device.trigger_rate(200.0)
        device.leave_out(128)  # from its first id on, so that the ids wrap among these parts

        def before(number: int) -> None:
            device.lose_packets(1.0 if number == LOST else 0.0)
            device.show([grey(shown(number))])

        camera = {"kind": "genicam", "address": device.address, **TRIGGERED}
        tables = f'heatmaps = "never"\n\n[commands]\nbind = "{commands}"'
        line = write_line_with(tmp_path, bundle.path, address, {"top": camera}, tables)
        with running(line, address) as run:
            run.next()
            replies = trigger_parts(commands, "top", count, before)
            received = run.end()
    events = assert_one_part_has_no_verdict_and_every_other_its_own(received, replies)
    for event in events:
        if event.verdict != "NO_VERDICT":
            assert event.frame_score == score_of_grey(shown(int(str(event.part_id)[1:]))), event.part_id
    assert {65535, 1} <= {event.frame_id for event in events}


# Parts, by edges on a line.


class WiredCamera:
    """Aravis' device in this process, with a wire to its trigger line.

    It has no hardware trigger: with the source Line0 it takes no frame. So after its opening it is switched to its
    software trigger without the host's knowledge, and triggered on its own side: the host gets a frame without a
    request.
    """

    SOURCE, FIRE, SOFTWARE = 0x304, 0x30C, 1

    def __init__(self, address: str) -> None:
        self.address, self.device = address, gv_cameras._Device()
        self.device.start(address, "WIRED", [grey(255)], "Mono8", 25.0)
        self.device.trigger_rate(200.0)

    def show(self, value: int) -> None:
        self.device.show([grey(value)])

    def edge(self) -> None:
        gv_cameras._write(self.device._registers, self.SOURCE, self.SOFTWARE)
        gv_cameras._write(self.device._registers, self.FIRE, 1)


@pytest.fixture
def wired_camera() -> Iterator[WiredCamera]:
    need_aravis()
    with leased() as address, loopback_has(address):
        camera = WiredCamera(address)
        yield camera
        aravis.g_object_unref(camera.device._device)


@MANY
def test_an_announced_part_belongs_to_the_next_edge_despite_losses(
    tmp_path: Path, bundle: Bundle, address: str, commands: str, wired_camera: WiredCamera, count: int
) -> None:
    no_edge, no_frame, edge_too_many = 3, 5, 7
    keys = {"trigger": "hardware", "trigger_line": "Line0", "trigger_timeout_ms": 60_000, "on_overload": "block"}
    camera = {"kind": "genicam", "address": wired_camera.address, **keys}
    tables = f'heatmaps = "never"\n\n[commands]\nbind = "{commands}"'
    line = write_line_with(tmp_path, bundle.path, address, {"top": camera}, tables)
    with running(line, address) as run, Commander(commands, timeout_s=WITHIN_SECONDS) as commander:
        run.next()
        for number, part in enumerate(names(count), start=1):
            wired_camera.show(255 - 2 * number)
            assert commander.trigger("top", part) == Announced(request_id=str(number), camera="top", part_id=part)
            if number == no_edge:
                continue
            if number == no_frame:
                wired_camera.device.leave_out(1)
                continue
            wired_camera.edge()
            until_reported(run, part)
            if number == edge_too_many:
                wired_camera.show(254)
                wired_camera.edge()
                until_reported(run, None)
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    events = events_of_parts(received)
    assert [event.part_id for event in events] == names(count)
    for number, event in enumerate(events, start=1):
        if number in (no_edge, no_frame):
            assert event.verdict == "NO_VERDICT"
        else:
            assert event.frame_score == score_of_grey(255 - 2 * number), event.part_id
    assert events[no_edge - 1].reason == "dropped.no_frame"
    assert events[no_frame - 1].reason == "dropped.lost_by_camera"
    assert events[no_frame - 1].frame_id == (events[no_frame].frame_id or 0) - 1
    (without_part,) = [event for event in received.verdicts if event.part_id is None]
    assert without_part.frame_score == score_of_grey(254)
    assert received.alarms == []


# Deadlines.


def trigger_until_a_frame_comes(commands: str, camera: str) -> Triggered:
    """Trigger the parts in turn; a busy machine that cannot take a frame by the deadline refuses."""
    give_up = time.monotonic() + WITHIN_SECONDS
    numbers, reason = itertools.count(1), None
    with Commander(commands, timeout_s=WITHIN_SECONDS) as line:
        while reason in (None, "busy", "no_frame") and time.monotonic() < give_up:
            try:
                reply = line.trigger(camera, f"P{next(numbers)}")
            except CommandRefusedError as refused:
                reason = refused.reason
            else:
                assert isinstance(reply, Triggered)
                return reply
    raise AssertionError(f"no trigger brought a frame: {reason}")


def test_a_late_verdict_becomes_no_verdict_at_the_deadline(
    tmp_path: Path, bundle: Bundle, address: str, commands: str
) -> None:
    drawn = {"kind": "pattern", "draw_size": [300, 300]}
    cameras = {
        "late": {**drawn, "draw_size": [260, 260], "rate_fps": 8, "frames": 2, "deadline_ms": 2},
        "in_time": {**drawn, "draw_size": [230, 230], "frames": 1, "deadline_ms": 60_000},
        "parts": {**drawn, "trigger": "software", "deadline_ms": 50},  # 6,084 tiles take longer on any PC
    }
    tables = f'heatmaps = "never"\n\n[tiles]\noverlap_px = 223\n\n[commands]\nbind = "{commands}"'
    line = write_line_with(tmp_path, bundle.path, address, cameras, tables)
    with running(line, address) as run:
        run.next()
        reply = trigger_until_a_frame_comes(commands, "parts")
        until_reported(run, reply.part_id)
        run.until(lambda event: isinstance(event, StatusEvent) and event.ledger["in_time"].inspected == 1)
        received = run.end()
    assert_every_frame_has_its_event(received, list(cameras))
    assert received.last.ledger["late"].dropped == {"deadline": 2}
    (of_part,) = [event for event in received.of("parts") if event.part_id == reply.part_id]
    for event in [*received.of("late"), of_part]:
        assert (event.verdict, event.reason, event.frame_score) == ("NO_VERDICT", "dropped.deadline", None)
    assert (of_part.frame_id, of_part.frame_number) == (reply.frame_id, reply.frame_number)
    assert {event.verdict for event in received.of("parts")} == {"NO_VERDICT"}
    assert all(event.latency_ms >= 2 for event in received.of("late"))
