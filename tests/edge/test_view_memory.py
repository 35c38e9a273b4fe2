"""What the page remembers: bounded rows and pictures, ages by the monotonic clock, and a line's state in words."""

import re
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.bridge.modbus.registers import RESULT_REASONS
from heatline.edge.monitor.held_picture import PictureMemory
from heatline.edge.monitor.memory import ROWS, Memory, describe, row_of
from heatline.edge.wire.events import CameraState, DriftReading, StatusEvent
from tests.edge.reviewed import review_of
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import Clock, frame, memory_with, picture, verdict
from tests.edge.wire_examples import JOURNAL_STATUS


def ready(**what: object) -> StatusEvent:
    """A status of a line that is READY, with the camera `top`."""
    status = a_status()
    handshake = msgspec.structs.replace(status.handshake, state="READY", reason=None, detail=None)
    live = CameraState(state="LIVE", since_at_ns=1)
    keys = {"handshake": handshake, "cameras": {"top": live}, "journal": None, "acting": True, "state": "RUNNING"}
    return msgspec.structs.replace(status, **(keys | what))


def running(clock: Clock) -> Memory:
    """The memory of a line that gives a verdict every 100 ms."""
    memory = memory_with(clock)
    for number in range(1, 31):
        clock.now_s += 0.1
        memory.add_verdict(verdict(number, clock), live=True)
    memory.add_status(ready())
    return memory


def state_of(memory: Memory) -> dict[str, Any]:
    return describe(memory, "line1")


def test_a_line_that_works_needs_no_words() -> None:
    state = state_of(running(Clock()))
    assert (state["running"], state["handshake"].state, state["words"]) == (True, "READY", [])
    top = state["cameras"]["top"]
    assert (top["state"], top["stale"], top["newest_age_ms"]) == ("LIVE", False, 0)
    assert top["frame_period_ms"] == pytest.approx(100)
    assert top["rate_fps"] == pytest.approx(10.0, abs=1.0)


def test_a_picture_is_stale_after_three_frame_periods_but_not_before_two_seconds() -> None:
    clock = Clock()
    memory = running(clock)
    clock.now_s += 1.9
    assert not state_of(memory)["cameras"]["top"]["stale"]
    clock.now_s += 0.2
    memory.add_status(ready())
    state = state_of(memory)
    assert state["cameras"]["top"]["stale"]
    assert state["words"] == ["Camera top (LIVE): no frame for 2 s."]


def test_a_slow_camera_is_stale_only_after_three_of_its_periods() -> None:
    clock = Clock()
    memory = memory_with(clock)
    for number in range(1, 5):
        clock.now_s += 10
        memory.add_verdict(verdict(number, clock), live=True)
    clock.now_s += 29
    assert not state_of(memory)["cameras"]["top"]["stale"]
    clock.now_s += 2
    assert state_of(memory)["cameras"]["top"]["stale"]


def test_dropped_frames_are_no_new_picture() -> None:
    clock = Clock()
    memory = running(clock)
    clock.now_s += 5
    memory.add_verdict(verdict(31, clock, "NO_VERDICT", reason="dropped.overload"), live=True)
    assert state_of(memory)["cameras"]["top"]["stale"]


def test_a_line_that_falls_silent_does_not_look_alive() -> None:
    clock = Clock()
    memory = running(clock)
    clock.now_s += 4
    state = state_of(memory)
    assert (state["running"], state["handshake"].state) == (False, "NOT_READY")
    assert state["words"][0].startswith("Nothing came from the line for 4 s: it was killed, it hangs")
    assert state["words"][1] == "The pictures and figures on this page are the last that came."
    assert (
        state["cameras"]["top"]["state"],
        state["cameras"]["top"]["rate_fps"],
        state["cameras"]["top"]["stale"],
    ) == (
        "UNKNOWN",
        0,
        True,
    )


def test_a_line_that_stops_says_so() -> None:
    clock = Clock()
    memory = running(clock)
    memory.add_status(ready(state="STOPPED"))
    assert state_of(memory)["words"][0].startswith("The line has stopped at ")
    clock.now_s += 30
    memory.add_status(ready(boot_id="another"))
    clock.now_s += 2
    state = state_of(memory)
    assert state["running"]
    assert state["words"] == ["Camera top (LIVE): no frame for 32 s."]


def test_a_line_that_was_never_heard_says_so() -> None:
    memory = Memory()
    memory.add_verdict(verdict(1), live=False)
    state = state_of(memory)
    assert state["words"] == ["The line does not run, or has not reported yet: no status came from it."]
    assert state["cameras"]["top"]["newest_age_ms"] is None, "a verdict of the journal is not a new frame"
    assert state["cameras"]["top"]["stale"]


def test_every_reason_of_a_frame_without_verdict_has_plain_words() -> None:
    for reason in RESULT_REASONS:
        detail = row_of(verdict(kind="NO_VERDICT", reason=reason, detail=None))["detail"]
        assert detail is not None
        assert not re.search("[._]", detail), detail
    dead = CameraState(state="DEAD", reason="silent", since_at_ns=1)
    memory = running(Clock())
    memory.add_status(ready(cameras={"top": dead}))
    assert state_of(memory)["cameras"]["top"]["detail"] == "no frames come"


def test_drift_is_told_in_words() -> None:
    memory = running(Clock())
    shift = DriftReading(value=36.0, calibrated=0.0, low=-3.0, high=3.0, frames=30, drifted=True)
    memory.add_status(ready(drift={"top": {"shift_x": shift}}))
    assert state_of(memory)["words"] == [
        "Camera top, compared with the calibration: the part lies further right (36, -3 to 3 expected)."
    ]


def test_cameras_come_in_the_order_of_the_line_s_file() -> None:
    memory = Memory(cameras=["top", "side"])
    for camera in ("side", "top"):
        memory.add_verdict(verdict(1, camera=camera), live=False)
    assert list(state_of(memory)["cameras"]) == ["top", "side"]


def test_words_put_the_most_severe_first() -> None:
    clock = Clock()
    memory = running(clock)
    memory.pictures_fault = "the line refuses"
    status = JOURNAL_STATUS.event
    assert isinstance(status, StatusEvent)
    memory.add_status(msgspec.structs.replace(status, acting=False))
    words = state_of(memory)["words"]
    begins = (
        "DEGRADED: camera side is dead",
        "Consumer mes1 is away, and 3 events are stored for it.",
        "No pictures come from the line: the line refuses.",
        "The line is being commissioned",
    )
    assert len(words) == len(begins)
    assert all(word.startswith(begin) for word, begin in zip(words, begins, strict=True)), words


def test_rows_and_news_are_bounded_and_a_reader_gets_each_once() -> None:
    memory = Memory()
    cursor = memory.now
    for number in range(1, ROWS + 101):
        memory.add_verdict(verdict(number), live=True)
    news, after = memory.news_after(cursor)
    assert [row["frame_number"] for row in news] == list(range(101, ROWS + 101))
    memory.add_review(review_of(number=ROWS + 100))
    (changed,), after = memory.news_after(after)
    assert (changed["type"], changed["id"]) == ("review", f"01234567-top-{ROWS + 100}")
    assert memory.news_after(after) == ([], after)
    assert len(memory.rows(10 * ROWS)) == ROWS


def test_pictures_are_bounded_by_number_and_by_bytes() -> None:
    pictures = PictureMemory(per_camera=5, most_bytes=10 * picture(verdict()).size_bytes)
    for number in range(1, 10):
        for camera in ("top", "side", "back"):
            pictures.add(picture(verdict(number, camera=camera)))
    assert [each.event.frame_number for each in pictures.newest()] == [9, 9, 9]
    assert len(pictures.all()) == 10
    large = picture(verdict(10), frame(1, (480, 640)))
    pictures.add(large)
    assert pictures.newest()[0] is large, "one that is too large alone is still shown"
    assert len(pictures.newest()) == 3
    few = PictureMemory(per_camera=5)
    for number in range(1, 10):
        few.add(picture(verdict(number)))
    assert few.all().keys() == {f"01234567-top-{number}" for number in range(5, 10)}


def test_a_held_picture_does_not_change_with_the_memory_that_it_came_from() -> None:
    image = frame(10)
    held = picture(verdict(), image)
    image[:] = 99
    np.testing.assert_array_equal(held.image, frame(10))
