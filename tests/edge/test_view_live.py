"""The live view's WebSocket: newest pictures only, as fast as each viewer draws them, and bounded in all it holds."""

import contextlib
import socket

import cv2
import msgspec
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from heatline.edge.monitor.memory import ROWS, Memory
from tests.command import WITHIN_SECONDS
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import (
    Clock,
    acknowledge,
    frame,
    memory_with,
    next_message,
    next_picture,
    page,
    picture,
    verdict,
)


def test_a_page_gets_the_last_verdicts_the_state_and_then_each_verdict() -> None:
    memory = Memory()
    for number in range(1, 61):
        memory.add_verdict(verdict(number), live=True)
    with page(memory) as served, served.live() as viewer:
        rows = next_message(viewer, "verdicts")["rows"]
        assert [row["frame_number"] for row in rows] == list(range(11, 61))
        state = next_message(viewer, "state")
        assert (state["line"], state["running"]) == ("line1", False)
        assert state["words"][0].startswith("The line does not run, or has not reported yet")
        memory.add_verdict(verdict(61, kind="GOOD"), live=True)
        row = next_message(viewer, "verdict")
        assert (row["frame_number"], row["verdict"], row["id"]) == (61, "GOOD", "01234567-top-61")


def test_a_change_of_the_lines_state_is_sent() -> None:
    memory = Memory()
    with page(memory) as served, served.live() as viewer:
        assert next_message(viewer, "state")["running"] is False
        memory.add_status(a_status())
        while not (state := next_message(viewer, "state"))["running"]:
            pass
        assert state["handshake"]["state"] == a_status().handshake.state


def test_a_picture_comes_with_its_heatmap_and_its_age() -> None:
    clock = Clock()
    memory = memory_with(clock)
    event = verdict(1, clock)
    memory.add_picture(picture(event, frame(90, (1000, 2000))))
    clock.now_s += 4
    with page(memory) as served, served.live() as viewer:
        message, jpeg, heatmap = next_picture(viewer)
    assert (message["hw"], message["shown_hw"], message["age_ms"]) == ([1000, 2000], [800, 1600], 4000)
    assert message["sent_ms"] == clock.monotonic_ns() / 1e6
    assert (message["verdict"], message["event"]["frame_number"]) == ("DEFECT", 1)
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == (800, 1600, 3)
    assert abs(int(shown.mean()) - 90) <= 2
    assert heatmap is not None
    grey = cv2.imdecode(np.frombuffer(heatmap, np.uint8), cv2.IMREAD_UNCHANGED)
    scale = message["heatmap"]
    assert grey is not None
    logits = scale["logit_at_0"] + grey / 255 * (scale["logit_at_255"] - scale["logit_at_0"])
    assert logits[2, 5] == pytest.approx(9.5, abs=0.05)
    assert grey[0, 0] == 0


def test_after_an_acknowledgement_only_the_newest_picture_is_sent() -> None:
    memory = Memory()
    memory.add_picture(picture(verdict(1)))
    with page(memory) as served, served.live() as viewer:
        first, _, _ = next_picture(viewer)
        for number in range(2, 6):
            memory.add_picture(picture(verdict(number)))
        memory.add_verdict(verdict(5), live=True)
        next_message(viewer, "verdict")  # no picture before it: the first one is not drawn yet
        acknowledge(viewer, {"camera": "top", "id": "another"})  # not this one's
        memory.add_verdict(verdict(6), live=True)
        next_message(viewer, "verdict")
        acknowledge(viewer, first)
        newest, _, _ = next_picture(viewer)
        assert newest["event"]["frame_number"] == 5
        acknowledge(viewer, newest)
        memory.add_verdict(verdict(7), live=True)
        next_message(viewer, "verdict")  # the same picture does not come twice


def test_two_viewers_get_the_same_picture_and_it_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encode = [], cv2.imencode

    def counted(ending: str, *arguments: object) -> object:
        encoded.append(ending)
        return encode(ending, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "imencode", counted)
    memory = Memory()
    with page(memory) as served:
        memory.add_picture(picture(verdict(1)))
        assert encoded == [], "nobody looks"
        with served.live() as one, served.live() as other:
            (first, *shown), (second, *also_shown) = next_picture(one), next_picture(other)
            assert first["id"] == second["id"]
            assert shown == also_shown
    assert encoded == [".jpg", ".png"]


def test_a_viewer_that_never_acknowledges_holds_nobody_up() -> None:
    memory = Memory()
    memory.add_picture(picture(verdict(1)))
    with page(memory) as served, served.live() as lazy, served.live() as quick:
        next_picture(lazy)
        seen = []
        for number in range(2, 12):
            message, _, _ = next_picture(quick)
            seen.append(message["event"]["frame_number"])
            memory.add_picture(picture(verdict(number)))
            acknowledge(quick, message)
        assert seen == list(range(1, 11))
        assert served.get("/healthz").status == 200


def test_a_viewer_that_reads_nothing_misses_the_oldest_rows() -> None:
    memory = Memory()
    with page(memory) as served, served.live() as viewer:
        next_message(viewer, "state")
        with memory.lock:  # the server cannot read between these, as it cannot write to a browser that does not read
            for number in range(1, ROWS + 8):
                memory.add_verdict(verdict(number), live=True)
        assert next_message(viewer, "verdict")["frame_number"] == 8


@pytest.mark.parametrize("origin", ["http://[", "null", "http://127.0.0.1.example", "127.0.0.1"])
def test_an_origin_that_is_not_the_pages_own_is_refused_and_leaves_no_trace_in_the_log(
    origin: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with page() as served:
        with pytest.raises(InvalidStatus) as refused, served.live(additional_headers={"Origin": origin}):
            pass
        assert refused.value.response.status_code == 403
        with socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as hostile:
            hostile.sendall(b"not HTTP\r\n\r\n")
            assert hostile.recv(100).startswith(b"HTTP/1.1 400 ")
    assert (caplog.text, capsys.readouterr().err) == ("", "")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x" * 10_000_000, 1009),
        (b"\xff" * 10_000_000, 1009),
        ("garbage", 1008),
        ("[" * 4000, 1008),
        (b"\xff\xfe", 1008),
        ('{"type":"ack","camera":1,"id":2}', 1008),
        ('{"type":"reject","camera":"top","id":"1"}', 1008),
    ],
    ids=["10 MB", "10 MB of bytes", "no JSON", "deep", "no text", "no names", "another type"],
)
def test_a_hostile_message_ends_its_own_connection_only(message: str | bytes, code: int) -> None:
    with page() as served, served.live() as other, served.live() as hostile:
        next_message(hostile, "state")
        with contextlib.suppress(ConnectionClosed):  # it is closed while it sends
            hostile.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            next_message(hostile, "nothing more")
        if closed.value.rcvd is None:  # the kernel's reset has overtaken the reason
            assert len(message) > 1_000_000
        else:
            assert closed.value.rcvd.code == code
        served.memory.add_verdict(verdict(1), live=True)
        assert next_message(other, "verdict")["frame_number"] == 1


def test_a_flood_of_acknowledgements_does_no_harm() -> None:
    ack = msgspec.json.encode({"type": "ack", "camera": "top", "id": "1"}).decode()
    with page() as served, served.live() as viewer:
        for _ in range(2000):
            viewer.send(ack)
        served.memory.add_verdict(verdict(1), live=True)
        assert next_message(viewer, "verdict")["frame_number"] == 1
