"""The handshake with its reasons, the most severe first; and cameras whose frames are not inspected."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.supervisor import State
from heatline.edge.service.status import (
    REASONS,
    STALLED_AFTER_SECONDS,
    WINDOW_SECONDS,
    DropMonitor,
    find_reasons,
    make_handshake,
)
from heatline.edge.wire.events import Account, CameraState

GRAVITY = ["NOT_READY", "BUSY", "DEGRADED"]


def camera(state: State, reason: str | None = None) -> CameraState:
    return CameraState(state=state, reason=reason, since_at_ns=1)


LIVE, DEAD, OPENING = camera("LIVE"), camera("DEAD", "silent"), camera("OPENING")


def test_a_line_that_inspects_what_all_its_cameras_see_is_ready() -> None:
    found = find_reasons("RUNNING", {"top": LIVE, "side": camera("IDLE")}, 0.2)
    result = make_handshake(found, 7)
    assert (result.state, result.reason, result.detail, result.heartbeat) == ("READY", None, None, 7)
    assert find_reasons("RUNNING", {"top": camera("ENDED")}, 0.0) == [], "its last frame has come"


@pytest.mark.parametrize(
    ("wrong", "state", "word", "sentence"),
    [
        ({"state": "STARTING"}, "NOT_READY", "starting", "the line is starting"),
        (
            {"state": "STARTING", "waits_for_s": 60.0}, "NOT_READY", "starting",
            "the line is starting, and waits up to 60 s for a subscriber (events.wait_for_subscriber_s)",
        ),
        ({"has_output": False}, "NOT_READY", "starting", "the line is starting"),
        ({"state": "STOPPED"}, "NOT_READY", "stopping", "the line has stopped"),
        ({"quiet_for_s": 7.9}, "NOT_READY", "stalled", "the inspection had no output for 7 s"),
        (
            {"cameras": {"top": DEAD}}, "NOT_READY", "no_camera",
            "no camera is available, camera top is dead: no frames come",
        ),
        ({"cameras": {"top": OPENING}}, "NOT_READY", "no_camera", "no camera is available, camera top is being opened"),
        ({"stopping": True}, "NOT_READY", "stopping", "the line is stopping"),
        ({"changing": "product b"}, "BUSY", "changing", "product b is being prepared"),
        ({"changing": "b", "cameras": {"top": OPENING}}, "BUSY", "changing", "b is being prepared"),
        ({"cameras": {"top": LIVE, "side": DEAD}}, "DEGRADED", "camera_dead", "camera side is dead: no frames come"),
        ({"losses": ["camera top: 1 of 9"]}, "DEGRADED", "frames_lost", "camera top: 1 of 9"),
        ({"faults": {"precision": "it computes in f32"}}, "DEGRADED", "precision", "it computes in f32"),
        ({"faults": {"in_flight_not_logged": "a full disk"}}, "DEGRADED", "in_flight_not_logged", "a full disk"),
        ({"faults": {"product_not_stored": None, "evidence_not_stored": "a full disk"}}, "DEGRADED",
         "evidence_not_stored", "a full disk"),
    ],
)  # fmt: skip
def test_each_fault_has_its_reason_code_and_sentence(
    wrong: dict[str, object], state: str, word: str, sentence: str
) -> None:
    given_: dict[str, object] = {"state": "RUNNING", "cameras": {"top": LIVE}, "quiet_for_s": 0.0, **wrong}
    result = make_handshake(find_reasons(**given_), 0)  # type: ignore[arg-type]
    assert (result.state, result.reason, result.detail) == (state, word, sentence)


@given(
    st.sampled_from(["STARTING", "RUNNING", "STOPPED"]),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([LIVE, DEAD, camera("OPENING"), camera("ENDED")])),
    st.floats(0, 60),
    st.none() | st.just("product b"),
    st.lists(st.just("camera a: 1 of 9 frames inspected"), max_size=2),
    st.none() | st.just("why"),
)
def test_the_most_severe_reason_comes_first_and_none_is_left_out(
    state: str,
    cameras: dict[str, CameraState],
    quiet_for_s: float,
    changing: str | None,
    losses: list[str],
    why: str | None,
) -> None:
    found = find_reasons(
        state, cameras, quiet_for_s, changing=changing, losses=losses, faults={"precision": why}  # type: ignore[arg-type]
    )  # fmt: skip
    result = make_handshake(found, 3)
    order = [GRAVITY.index(REASONS[reason.code]) for reason in found]
    assert order == sorted(order)
    assert (result.state == "READY") == (not found)
    assert (result.state == "NOT_READY") >= (state != "RUNNING" or quiet_for_s > STALLED_AFTER_SECONDS)
    for reason in found:
        assert result.detail is not None
        assert reason.sentence in result.detail


# Losses.


def test_a_camera_that_loses_frames_is_named_with_its_most_frequent_reason() -> None:
    monitor = DropMonitor()
    monitor.update({"top": Account(), "side": Account()}, 0.0)
    top = Account(260, 1, {"deadline": 88, "overload": 171}, {}, 0)
    sentences = monitor.update({"top": top, "side": Account(5, 5)}, 1.0)
    assert sentences == ["camera top: 1 of 260 frames inspected: frames came faster than they could be inspected"]


def test_only_losses_of_the_last_seconds_count() -> None:
    monitor = DropMonitor()
    lost = Account(100, 0, {}, {"wrong_size": 100}, 0)
    monitor.update({"top": Account()}, 0.0)
    assert monitor.update({"top": lost}, 1.0) == [
        "camera top: 0 of 100 frames inspected: frames do not have the expected size"
    ]
    well = Account(150, 50, {}, {"wrong_size": 100}, 0)
    for second in range(2, 2 + 2 * int(WINDOW_SECONDS)):
        sentences = monitor.update({"top": well}, float(second))
    assert sentences == []


def test_frames_that_are_inspected_or_in_flight_are_not_lost() -> None:
    monitor = DropMonitor()
    for second in range(30):
        account = Account(captured=10 * second + 4, inspected=10 * second, in_flight=4)
        assert monitor.update({"top": account}, float(second)) == []


def test_a_loss_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heatline.edge.service.status")
    monitor = DropMonitor()
    monitor.update({"top": Account()}, 0.0)
    lost = Account(10, 0, {"overload": 10}, {}, 0)
    for second in (1.0, 2.0, 3.0):
        monitor.update({"top": lost}, second)
    for second in range(20, 60):
        monitor.update({"top": Account(10 + second, second, {"overload": 10}, {}, 0)}, float(second))
    assert [record.getMessage() for record in caplog.records] == [
        "camera top: 0 of 10 frames inspected: frames came faster than they could be inspected",
        "camera top: its frames are inspected again",
    ]
