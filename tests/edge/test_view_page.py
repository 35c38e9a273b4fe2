"""Who may see the page, and its live view: newest pictures only, as fast as each viewer draws them."""

import contextlib
import socket
import ssl
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from heatline.edge.config import WebConfig
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.monitor.memory import ROWS, Memory
from heatline.edge.monitor.page import listening_socket, read_token
from tests.command import WITHIN_SECONDS
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import (
    Answer,
    Clock,
    Page,
    acknowledge,
    frame,
    make_certificates,
    memory_with,
    next_message,
    next_picture,
    page,
    picture,
    verdict,
)

TOKEN = "0123456789abcdef0123456789abcdef"
PROTECTED = "/", "/static/index.html", "/metrics", "/readyz", "/api/state", "/api/pictures/x/frame.jpg"


def token_file(folder: Path, token: str = TOKEN, mode: int = 0o600) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "token"
    path.write_text(f"{token}\n")
    path.chmod(mode)
    return path


def log_in(served: Page, token: str, **headers: str) -> Answer:
    form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return served.request("POST", "/login", urlencode({"token": token}), form)


def test_without_a_token_the_page_answers_only_under_a_name_of_this_pc_and_forbids_what_it_does_not_need() -> None:
    with page() as served:
        for host in ("localhost", f"localhost:{served.port}", "127.0.0.1:1", f"[::1]:{served.port}"):
            assert served.get("/", Host=host).status == 200, host
        for host in ("attacker.example", "attacker.example:8420", "10.0.0.1", "localhost.attacker.example", ""):
            refused = served.get("/api/state", Host=host)
            assert (refused.status, "only under the name of this PC" in refused.json["error"]) == (421, True), host
        for path in ("/", "/api/state", "/nothing"):
            headers = served.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'self'; ")
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


def test_a_page_of_another_address_cannot_open_the_live_view_and_leaves_no_trace_in_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with page() as served:
        with served.live(origin=f"http://127.0.0.1:{served.port}") as viewer:
            next_message(viewer, "state")
        for origin in ("https://attacker.example", "null", "http://127.0.0.1:1", "http://[", "127.0.0.1"):
            with pytest.raises(InvalidStatus) as refused:
                served.live(additional_headers={"Origin": origin})
            assert refused.value.response.status_code == 403, origin
        for hostile in (b"not HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000):
            with (
                contextlib.suppress(OSError),  # it is closed while it sends
                socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as client,
            ):
                client.sendall(hostile)
                assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert (caplog.text, capsys.readouterr().err) == ("", "")


def test_everything_but_the_login_and_healthz_needs_the_token_or_the_cookie_of_a_login(tmp_path: Path) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        for path in PROTECTED:
            assert served.get(path).status == 401, path
            assert served.get(path, Authorization="Bearer wrong").status == 401, path
        assert served.request("POST", "/api/marks", "{}", {}).status == 401
        with pytest.raises(InvalidStatus, match="401"):
            served.live()
        assert [served.get(path).status for path in ("/healthz", "/login")] == [200, 200]
        assert served.get("/", **bearer).status == 200
        sent_to = served.get("/", Accept="text/html,*/*")
        assert (sent_to.status, sent_to.headers["location"]) == (303, "/login")
        for wrong in ("", "wrong", TOKEN[:-1], "x" * 10_000):
            answer = log_in(served, wrong)
            assert (answer.status, answer.headers.get("set-cookie")) == (401, None), wrong
        assert log_in(served, TOKEN, Origin="https://attacker.example").status == 403
        answer = log_in(served, TOKEN)
        cookie = answer.headers["set-cookie"]
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert [part in cookie.lower() for part in ("httponly", "samesite=strict", TOKEN)] == [True, True, False]
        name, _, content = cookie.partition(";")[0].partition("=")
        assert served.get("/api/state", Cookie=f"{name}={content}").status == 200
        with served.live(additional_headers={"Cookie": f"{name}={content}"}) as viewer:
            next_message(viewer, "state")
        for wrong in (content[:-1], f"{content}é", TOKEN, ""):
            assert served.get("/api/state", Cookie=f"{name}={wrong}").status == 401, wrong
    other = WebConfig(token_file=token_file(tmp_path / "other", TOKEN[::-1]))
    with page(web=other, only_local=False) as served:
        assert served.get("/api/state", Cookie=f"heatline-{served.port}={content}").status == 401, "a new token"


@pytest.mark.parametrize(
    ("token", "mode", "words"),
    [
        (TOKEN, 0o640, "can be used by others than its owner (mode 0640, expected 0600)"),
        ("short", 0o600, "holds no token; expected one line of at least 16"),
        ("two words in one file", 0o600, "holds no token"),
        ("ümlaute-ümlaute-ümlaute", 0o600, "holds no token"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, token: str, mode: int, words: str) -> None:
    with pytest.raises(AccessError) as refused:
        read_token(token_file(tmp_path, token, mode))
    assert words in str(refused.value)


def test_with_tls_the_cookie_is_never_sent_in_clear_and_only_browsers_of_the_authority_see_the_page(
    tmp_path: Path,
) -> None:
    authority, certificate, key, other = make_certificates(tmp_path)
    trusting, known = (ssl.create_default_context(cafile=str(authority)) for _ in range(2))
    known.load_cert_chain(certificate, key)
    web = WebConfig(token_file=token_file(tmp_path), certificate=certificate, key=key)
    with page(web=web, only_local=False, tls=trusting) as served:
        answer = log_in(served, TOKEN)
        assert (answer.status, "secure" in answer.headers["set-cookie"].lower()) == (303, True)
    with page(
        web=WebConfig(certificate=certificate, key=key, client_ca=authority), only_local=False, tls=known
    ) as served:
        assert served.get("/api/state").status == 200
        without = Page(served.port, served.memory, served.metrics, trusting)
        with pytest.raises(OSError):  # noqa: PT011  # OpenSSL reports a refusal in many ways
            without.get("/api/state")
        assert served.get("/api/state").status == 200
    for web in (
        WebConfig(certificate=tmp_path / "none", key=key),
        WebConfig(certificate=other, key=key),
        WebConfig(certificate=certificate, key=key, client_ca=key),
    ):
        with pytest.raises(AccessError, match=r"cannot be served with TLS from .*expected PEM files"), page(web=web):
            pass


def test_an_address_in_use_is_reported_with_what_to_do() -> None:
    in_use = pytest.raises(DeliveryError, match=r"cannot listen on .*in use.*set web\.listen \(of heatline view: ")
    with listening_socket("127.0.0.1:0") as bound, in_use:
        listening_socket(f"127.0.0.1:{bound.getsockname()[1]}")
    with pytest.raises(DeliveryError, match=r"cannot listen on no\.such\.host\.example:1"):
        listening_socket("no.such.host.example:1")


# The live view.


def test_a_page_gets_the_last_verdicts_the_state_and_then_each_change() -> None:
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
        memory.add_status(a_status())
        while not (state := next_message(viewer, "state"))["running"]:
            pass
        assert state["handshake"]["state"] == a_status().handshake.state


def test_two_viewers_get_the_same_picture_with_its_heatmap_and_age_and_it_is_encoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded, encode = [], cv2.imencode

    def counted(ending: str, *arguments: object) -> object:
        encoded.append(ending)
        return encode(ending, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "imencode", counted)
    clock = Clock()
    memory = memory_with(clock)
    memory.add_picture(picture(verdict(1, clock), frame(90, (1000, 2000))))
    clock.now_s += 4
    with page(memory) as served:
        assert encoded == [], "nobody looks"
        with served.live() as one, served.live() as other:
            (message, *shown), (second, *also_shown) = next_picture(one), next_picture(other)
            assert (message["id"], shown) == (second["id"], also_shown)
    assert encoded == [".jpg", ".png"]
    assert (message["hw"], message["shown_hw"], message["age_ms"]) == ([1000, 2000], [800, 1600], 4000)
    assert message["sent_ms"] == clock.monotonic_ns() / 1e6
    assert (message["verdict"], message["event"]["frame_number"]) == ("DEFECT", 1)
    jpeg, grey = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in shown)  # type: ignore[arg-type]
    assert jpeg.shape == (800, 1600, 3)  # type: ignore[union-attr]
    assert abs(int(jpeg.mean()) - 90) <= 2  # type: ignore[union-attr]
    scale = message["heatmap"]
    logits = scale["logit_at_0"] + grey / 255 * (scale["logit_at_255"] - scale["logit_at_0"])  # type: ignore[operator]
    assert logits[2, 5] == pytest.approx(9.5, abs=0.05)
    assert logits[0, 0] == scale["logit_at_0"]


def test_each_viewer_gets_only_the_newest_picture_once_it_has_drawn_the_one_before() -> None:
    memory = Memory()
    memory.add_picture(picture(verdict(1)))
    with page(memory) as served, served.live() as slow, served.live() as quick:
        first, _, _ = next_picture(slow)
        seen = []
        for number in range(2, 7):
            message, _, _ = next_picture(quick)
            seen.append(message["event"]["frame_number"])
            memory.add_picture(picture(verdict(number)))
            acknowledge(quick, message)
        assert seen == [1, 2, 3, 4, 5], "one that never acknowledges holds nobody up"
        acknowledge(slow, {"camera": "top", "id": "another"})  # not this one's
        memory.add_verdict(verdict(6), live=True)
        next_message(slow, "verdict")  # no picture before it: the first one is not drawn yet
        acknowledge(slow, first)
        newest, _, _ = next_picture(slow)
        assert newest["event"]["frame_number"] == 6
        acknowledge(slow, newest)
        memory.add_verdict(verdict(7), live=True)
        next_message(slow, "verdict")  # the same picture does not come twice


def test_a_viewer_that_reads_nothing_misses_the_oldest_rows() -> None:
    memory = Memory()
    with page(memory) as served, served.live(close_timeout=0.1) as viewer:
        next_message(viewer, "state")
        with memory.lock:  # the server cannot read between these, as it cannot write to a browser that does not read
            for number in range(1, ROWS + 8):
                memory.add_verdict(verdict(number), live=True)
        assert next_message(viewer, "verdict")["frame_number"] == 8


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x" * 10_000_000, 1009),
        ("garbage", 1008),
        ("[" * 4000, 1008),
        (b"\xff\xfe", 1008),
        ('{"type":"ack","camera":1,"id":2}', 1008),
        ('{"type":"reject","camera":"top","id":"1"}', 1008),
    ],
    ids=["10 MB", "no JSON", "deep", "no text", "no names", "another type"],
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
        for _ in range(2000):  # a flood does no harm either
            acknowledge(other, {"camera": "top", "id": "1"})
        served.memory.add_verdict(verdict(1), live=True)
        assert next_message(other, "verdict")["frame_number"] == 1
