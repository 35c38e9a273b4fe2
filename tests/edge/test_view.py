"""The page of a line: who may see it, its live view, its API, its words and its metrics."""

import contextlib
import json
import platform
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus

from heatline.edge import __version__
from heatline.edge.bridge.modbus.registers import RESULT_REASONS
from heatline.edge.bundle import open_bundle
from heatline.edge.config import WebConfig
from heatline.edge.delivery.auth import allow, make_key_pair, revoke
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.errors import AccessError
from heatline.edge.monitor.collector import Collector
from heatline.edge.monitor.held_picture import PictureMemory
from heatline.edge.monitor.login import PERSON_SECONDS, Logins, make_code
from heatline.edge.monitor.marks import mark_of
from heatline.edge.monitor.memory import ROWS, Memory, describe, row_of
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.server import read_token
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import (
    Account,
    CameraState,
    DriftReading,
    EvidenceState,
    Message,
    PartAccount,
    Screened,
    StatusEvent,
    Verdict,
)
from tests.command import ROOT, WITHIN_SECONDS
from tests.edge.journals import Clocks, good, make_writer
from tests.edge.lines import write_line
from tests.edge.secured import begun, until
from tests.edge.status_only_line import a_status
from tests.edge.view_pages import (
    NAME,
    Answer,
    Page,
    acknowledge,
    frame,
    line_with_marks,
    make_certificates,
    marked,
    memory_with,
    next_message,
    next_picture,
    page,
    picture,
    review_of,
    stored,
    verdict,
)
from tests.edge.wire_examples import GOLDEN, JOURNAL_STATUS
from tests.golden import assert_golden
from tests.needs import need
from tests.small_bundle import bundle_in, edit_manifest

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def clock() -> Clocks:
    return Clocks()


@pytest.fixture
def memory(clock: Clocks) -> Memory:
    """The memory of a page, by the test's own clock."""
    return memory_with(clock)


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
        for host in ("attacker.example:8420", "10.0.0.1", "localhost.attacker.example", ""):
            refused = served.get("/api/state", Host=host)
            assert (refused.status, "only under the name of this PC" in refused.json["error"]) == (421, True), host
        for path in ("/", "/api/state", "/nothing"):
            headers = served.get(path).headers
            policy = headers["content-security-policy"]
            assert (policy.startswith("default-src 'self'; "), "unsafe" in policy) == (True, False)
            assert (headers["x-content-type-options"], "server" in headers) == ("nosniff", False)


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
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        for path in ("/", "/static/index.html", "/metrics", "/readyz", "/api/state", "/api/pictures/x/frame.jpg"):
            assert served.get(path).status == 401, path
            assert served.get(path, Authorization="Bearer wrong").status == 401, path
        assert served.request("POST", "/api/marks", "{}", {}).status == 401
        with pytest.raises(InvalidStatus, match="401"):
            served.live()
        assert [served.get(path).status for path in ("/healthz", "/login")] == [200, 200]
        assert served.get("/", Authorization=f"Bearer {TOKEN}").status == 200
        sent_to = served.get("/", Accept="text/html,*/*")
        assert (sent_to.status, sent_to.headers["location"]) == (303, "/login")
        for wrong in ("", TOKEN[:-1], "x" * 10_000):
            answer = log_in(served, wrong)
            assert (answer.status, answer.headers.get("set-cookie")) == (401, None), wrong
        assert log_in(served, TOKEN, Origin="https://attacker.example").status == 403
        answer = log_in(served, TOKEN)
        cookie = answer.headers["set-cookie"]
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert [part in cookie.lower() for part in ("httponly", "samesite=strict", TOKEN)] == [True, True, False]
        name, _, content = cookie.partition(";")[0].partition("=")
        with served.live(additional_headers={"Cookie": f"{name}={content}"}) as viewer:
            next_message(viewer, "state")
        for tried, status in ((content, 200), (content[:-1], 401), (f"{content}é", 401), (TOKEN, 401), ("", 401)):
            assert served.get("/api/state", Cookie=f"{name}={tried}").status == status, tried
    with page(web=WebConfig(token_file=token_file(tmp_path / "other", TOKEN[::-1])), only_local=False) as served:
        assert served.get("/api/state", Cookie=f"heatline-{served.port}={content}").status == 401, "a new token"


def test_from_another_machine_only_people_whose_keys_have_the_role_change_something(tmp_path: Path) -> None:
    clock, allowed, memory = Clocks(), tmp_path / "allowed", memory_of("DEFECT")
    clock.now_s = time.time()
    line, ada, bob, eve = (make_key_pair(tmp_path / f"{name}.key") for name in ("line", "ada", "bob", "eve"))
    allow(ada.public, "ada", allowed, "reviewer")
    allow(bob.public, "bob", allowed, "engineer")
    (allowed / "reviewer" / "damaged.pub").write_text("nothing")
    logins, web = Logins(line, allowed, lambda: clock.now_s), WebConfig(token_file=token_file(tmp_path))
    far = {"Host": "line1.plant"}
    with (
        line_with_marks(tmp_path, memory) as (socket, came),
        page(memory, web, only_local=False, logins=logins, line_socket=socket) as served,
    ):

        def entered(code: str) -> dict[str, str]:
            """The cookies of a login."""
            answer = log_in(served, code, **far)
            assert answer.status == 303
            return {**far, "Cookie": answer.cookies}

        def statuses(**headers: str) -> list[int]:
            """Of a mark, and of a request that only an engineer may send and that is not complete."""
            activated = served.request("POST", "/api/activate", "{}", headers)
            return [mark(served, by="Mallory", headers=headers).status, activated.status]

        code = make_code(ada, line.public)
        as_ada, as_bob = entered(code), entered(make_code(bob, line.public))
        assert [statuses(**as_ada), came[-1].by] == [[200, 403], "ada"]
        assert [statuses(**as_bob), came[-1].by] == [[200, 400], "bob"]
        assert statuses(**entered(TOKEN)) == [403, 403], "who knows the token may look"
        assert served.get("/api/state", **as_ada).status == 200
        assert statuses(Authorization=f"Bearer {TOKEN}") == [200, 400], "somebody at this machine"
        for wrong in (code, make_code(eve, line.public), make_code(ada, eve.public), code[:-4], "", "é", "A" * 96):
            assert log_in(served, wrong, **far).status == 401, wrong
        assert statuses(**{**far, "Cookie": as_ada["Cookie"].replace("person=", "person=A")}) == [401, 401]
        restarted = Logins(line, allowed, lambda: clock.now_s + 5)
        assert restarted.cookie_for(make_code(bob, line.public)) is None, "it may have been used before"
        late = make_code(ada, line.public)
        clock.now_s += 700
        assert log_in(served, late, **far).status == 401
        revoke("bob", allowed)
        assert [statuses(**as_ada), statuses(**as_bob)] == [[200, 403], [401, 401]]
        clock.now_s += PERSON_SECONDS
        assert statuses(**as_ada) == [401, 401]
    with page(memory, web, only_local=False) as served:
        refused = mark(served, headers={**far, "Authorization": f"Bearer {TOKEN}"})
        assert (refused.status, "nobody can log in: set key" in refused.json["error"]) == (403, True)


@pytest.mark.parametrize(
    ("token", "mode", "words"),
    [
        (TOKEN, 0o640, "can be used by others than its owner (mode 0640, expected 0600)"),
        ("short", 0o600, "holds no token; expected one line of at least 16"),
        ("two words in one file", 0o600, "holds no token"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, token: str, mode: int, words: str) -> None:
    with pytest.raises(AccessError, match=re.escape(words)):
        read_token(token_file(tmp_path, token, mode))


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


def test_two_viewers_get_the_same_picture_with_its_heatmap_and_age(clock: Clocks, memory: Memory) -> None:
    memory.add_picture(picture(verdict(1, clock), frame(90, (1000, 2000))))
    clock.now_s += 4
    with page(memory) as served, served.live() as one, served.live() as other:
        (message, *shown), (second, *also_shown) = next_picture(one), next_picture(other)
    assert (message["id"], shown) == (second["id"], also_shown)
    assert (message["hw"], message["shown_hw"], message["age_ms"]) == ([1000, 2000], [800, 1600], 4000)
    assert (message["sent_ms"], message["event"]["frame_number"]) == (clock.monotonic_ns() / 1e6, 1)
    jpeg, grey = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in shown)  # type: ignore[arg-type]
    assert (jpeg.shape, int(jpeg.mean())) == ((800, 1600, 3), pytest.approx(90, abs=2))  # type: ignore[union-attr]
    scale = message["heatmap"]
    logits = scale["logit_at_0"] + grey / 255 * (scale["logit_at_255"] - scale["logit_at_0"])  # type: ignore[operator]
    assert (logits[2, 5], logits[0, 0]) == (pytest.approx(9.5, abs=0.05), scale["logit_at_0"])


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
    def fill() -> int:
        """Add verdicts in the server's loop: it sends nothing meanwhile, as to a browser that does not read."""
        if not memory.rows(1):
            for number in range(1, ROWS + 8):
                memory.add_verdict(verdict(number), live=True)
        return 0

    memory = Memory(wall_ns=fill)
    with page(memory) as served, served.live(close_timeout=0.1) as viewer:
        assert next_message(viewer, "verdict")["frame_number"] == 8


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x" * 10_000_000, 1009),
        ("[" * 4000, 1008),
        (b"\xff\xfe", 1008),
        ('{"type":"reject","camera":"top","id":"1"}', 1008),
    ],
    ids=["10 MB", "deep", "no text", "another type"],
)
def test_a_hostile_message_ends_its_own_connection_only(message: str | bytes, code: int) -> None:
    with page() as served, served.live() as other, served.live() as hostile:
        next_message(hostile, "state")
        with contextlib.suppress(ConnectionClosed):  # it is closed while it sends
            hostile.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            next_message(hostile, "nothing more")
        # The kernel's reset may overtake the reason of a long one.
        assert (closed.value.rcvd is None and len(message) > 1_000_000) or closed.value.rcvd.code == code  # type: ignore[union-attr]
        for _ in range(2000):  # a flood does no harm either
            acknowledge(other, {"camera": "top", "id": "1"})
        served.memory.add_verdict(verdict(1), live=True)
        assert next_message(other, "verdict")["frame_number"] == 1


JSON = {"Content-Type": "application/json"}
SPECKLED = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., ::-1]  # type: ignore[return-value]


def test_the_state_and_the_history_have_the_lines_own_figures(clock: Clocks, memory: Memory) -> None:
    memory.add_status(JOURNAL_STATUS.event)  # type: ignore[arg-type]
    for number in range(1, 21):
        clock.now_s += 0.5
        memory.add_verdict(verdict(number, clock, latency_ms=float(number)), live=True)
    with page(memory) as served:
        state = served.get("/api/state").json
        clock.now_s += 1.0
        history = served.get("/api/history?seconds=3").json
    assert (state["product"], state["thresholds"]) == ("4711", {"score": 1.5, "evidence": 4.125})
    top = state["cameras"]["top"]
    assert (top["frame_period_ms"], top["ledger"]["captured"]) == (500, 131_080)
    assert top["latency_ms"] == {"median": 10.5, "p95": pytest.approx(19.05)}
    assert history["t"] == [clock.wall_ns() // 10**9 - back for back in (3, 2, 1)]
    assert (history["rate"], history["latency_ms"]) == ({"top": [2, 2, 1]}, {"top": [16.5, 18.5, 20.0]})


def test_readyz_says_why_not_in_words(clock: Clocks, memory: Memory) -> None:
    with page(memory) as served:

        def is_ready() -> tuple[int, str]:
            answer = served.get("/readyz")
            return answer.status, answer.json["reason"] or answer.json["detail"]

        assert is_ready() == (503, "unreachable")
        for state, status in (("READY", 200), ("BUSY", 200), ("DEGRADED", 503), ("NOT_READY", 503)):
            now = msgspec.structs.replace(a_status().handshake, state=state, reason=None, detail="as it is")
            memory.add_status(a_status(handshake=now))
            assert is_ready() == (status, "as it is")
        clock.now_s += 5
        assert is_ready() == (503, "unreachable")
        memory.add_status(a_status(state="STOPPED"))
        assert (is_ready(), served.get("/healthz").status) == ((503, "stopped"), 200)


def test_the_scores_of_a_camera_have_their_threshold_and_what_it_is_known_to_miss(tmp_path: Path) -> None:
    missed = [{"kind": "Blowhole", "missed": 18, "frames": 18, "by": "class"}]
    folder = edit_manifest(bundle_in(tmp_path / "dark").path, lambda each: each["calibration"].update(missed=missed))
    opened = open_bundle(folder)
    file = write_line(tmp_path, folder, "tcp://127.0.0.1:5555", {"top": f'path = "{tmp_path}"'})
    threshold, memory = opened.manifest.calibration.score_threshold, memory_with(Clocks())
    for number, score in enumerate((0.5, 2.5, -1.0), 1):
        memory.add_verdict(verdict(number, frame_score=score), live=True)
    memory.add_verdict(verdict(4, camera="side", frame_score=9.0), live=True)
    memory.add_verdict(verdict(5, kind="NO_VERDICT", frame_score=None), live=True)
    with page(memory, file=file) as served:
        found = served.get("/api/scores?camera=top&n=2").json
        assert (found["scores"], found["score_threshold"]) == ([2.5, -1.0], 1.5)
        for digest, used, words in (
            (opened.digest, threshold, "At the line's limit, whole kinds of defects pass: Blowhole 18 of 18. "),
            (opened.digest, threshold + 1, "None"),  # the line's file sets another threshold
            ("0" * 64, threshold, "None"),  # the line runs another bundle than its file names now
        ):
            name = msgspec.structs.replace(a_status().bundle, digest=digest)
            memory.add_status(a_status(bundle=name, product=None))
            memory.add_verdict(verdict(6, score_threshold=used), live=True)
            assert str(served.get("/api/scores?camera=top").json["missed"]).startswith(words)


def test_a_wrong_question_is_answered_in_a_sentence(tmp_path: Path) -> None:
    with page(store=EvidenceStore(tmp_path)) as served:
        for query, status in (
            ("verdicts?limit=0", 400), ("history?seconds=9999999999999", 400), ("history?seconds=", 400),
            ("scores?n=1", 404),
        ):  # fmt: skip
            answer = served.get(f"/api/{query}")
            assert (answer.status, "expected" in answer.json["error"]) == (status, True), query
        for name in ("..%2f..%2fetc%2fpasswd", "%00", "x" * 4000, "..", "%C3%A9"):
            assert served.get(f"/api/pictures/{name}").status == 404, name
        assert served.get("/static/../server.py").status == 404
        assert served.request("POST", "/api/state", "", {}).status == 405


@pytest.mark.parametrize("is_stored", [False, True], ids=["in memory", "stored"])
def test_a_picture_tells_why(tmp_path: Path, is_stored: bool) -> None:
    memory = Memory()
    if is_stored:
        stored(tmp_path, SPECKLED)
    else:
        memory.add_picture(picture(verdict(1), SPECKLED))
    memory.add_picture(picture(verdict(2), frame()[..., 0], is_judged=False))
    with page(memory, store=EvidenceStore(tmp_path)) as served:
        path, unjudged = f"/api/pictures/{NAME}", "/api/pictures/01234567-top-2"
        why = served.get(path).json
        assert [row["id"] for row in why["others"]] == ([] if is_stored else [NAME]) + ["01234567-top-2"]
        assert why["event"]["frame_number"] == 1
        assert (why["tiles"], why["tile_px"]) == ([{"yx": [0, 32], "logit": 3.25}, {"yx": [0, 0], "logit": -2.0}], 32)
        assert why["cells"][0] == {"xy": [44, 20], "logit": pytest.approx(9.5, abs=0.05)}
        assert len(why["cells"]) == 16
        np.testing.assert_array_equal(decoded(served.get(f"{path}/frame.png").body), SPECKLED)
        for box, part in (("10&y0=20&x1=30&y1=44", SPECKLED[20:44, 10:30]), ("-5&y0=40&x1=999&y1=999", SPECKLED[40:])):
            np.testing.assert_array_equal(decoded(served.get(f"{path}/crop.png?x0={box}").body), part)
        assert decoded(served.get(f"{path}/frame.jpg").body).shape == SPECKLED.shape
        assert decoded(served.get(f"{path}/heatmap.png").body).shape == (6, 8)
        outside = served.get(f"{path}/crop.png?x0=100&y0=0&x1=90&y1=9")
        assert (outside.status, "has no pixel of the frame" in outside.json["error"]) == (400, True)
        why = served.get(unjudged).json
        assert [why[each] for each in ("heatmap", "tiles", "cells", "tile_px")] == [None, [], [], None]
        assert "was not judged" in served.get(f"{unjudged}/heatmap.png").json["error"]
        assert decoded(served.get(f"{unjudged}/frame.png").body).ndim == 2


def test_damage_of_the_store_is_a_sentence_and_a_picture_is_shown_without_its_heatmap(tmp_path: Path) -> None:
    stored(tmp_path)
    heatmap, frame_file = sorted(tmp_path.glob("*/*-1*.png"))
    with page(store=EvidenceStore(tmp_path)) as served:
        heatmap.write_bytes(heatmap.read_bytes()[:40])
        assert served.get(f"/api/pictures/{NAME}").json["heatmap"] is None
        frame_file.write_bytes(b"\x89PNG")
        answer = served.get(f"/api/pictures/{NAME}/frame.png")
        assert (answer.status, str(frame_file) in answer.json["error"]) == (500, True)
        (tmp_path / "index.sqlite").write_bytes(b"no index")
        for path in (f"/api/pictures/{NAME}", "/api/review"):
            assert "cannot be read" in served.get(path).json["error"]


def mark(served: Page, name: str = NAME, kind: str = "right", by: str = "Anna", **more: Any) -> Answer:
    headers = JSON | more.pop("headers", {})
    return served.request("POST", "/api/marks", json.dumps({"picture": name, "kind": kind, "by": by, **more}), headers)


def memory_of(*kinds: Verdict) -> Memory:
    """A memory of frames with these verdicts, and their pictures."""
    memory = Memory()
    for number, kind in enumerate(kinds, 1):
        memory.add_verdict(marked(number, kind), live=True)
        memory.add_picture(picture(marked(number, kind)))
    return memory


def test_a_mark_is_answered_once_the_line_has_journalled_it_and_sent_to_all_pages(tmp_path: Path) -> None:
    memory, places = memory_of("DEFECT", "GOOD"), [[3, 4], [63, 47]]
    areas = {"boxes_xywh": [[3, 4, 61, 44]], "strokes": [{"points_xy": [[0, 47], [63, 0]], "width_px": 900}]}
    with (
        line_with_marks(tmp_path, memory) as (socket, came),
        page(memory, line_socket=socket) as served,
        served.live() as one,
        served.live() as other,
    ):
        for viewer in (one, other):
            rows = next_message(viewer, "verdicts")["rows"]
            assert [(row["picture"], row["review"]) for row in rows] == [(NAME, None), ("01234567-top-2", None)]
            next_picture(viewer)
        answer = mark(served, kind="missed", by=" Anna ", at_xy=places, **areas)
        assert (answer.status, answer.json["id"]) == (200, came[0].id)
        assert answer.json["seq"] == 2, "the first event says that the journal began"
        review = served.get(f"/api/pictures/{NAME}").json["review"]
        assert (review["kind"], review["truth"], review["by"]) == ("missed", "defective", ["Anna"])
        assert review["missed_xy"] == review["marks"][0]["at_xy"] == places
        for name, each in areas.items():
            assert review[name] == review["marks"][0][name] == each
        for viewer in (one, other):
            assert next_message(viewer, "review") == {"type": "review", "id": NAME, "review": review}
        assert [row["review"] for row in served.get("/api/verdicts").json["rows"]] == [review, None]
        assert mark(served, by="Ben").status == mark(served, kind="withdrawn").status == 200
        assert served.get(f"/api/pictures/{NAME}").json["review"]["by"] == ["Ben"]
        again = mark(served, kind="withdrawn")
        assert (again.status, again.json["error"]) == (409, "Anna has no mark of this picture to take back")
    made = mark_of(marked(), "missed", "Anna", came[0].at_xy, came[0].boxes_xywh, came[0].strokes)
    assert came[0] == msgspec.structs.replace(made, id=came[0].id)


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "../../etc/passwd"}, 404, "there is no picture"),
    ({"name": "01234567-top-3"}, 400, "the frame has no verdict, so there is nothing to mark"),
    ({"name": "01234567-top-2", "kind": "false_alarm"}, 400, "is GOOD, which is not a false alarm; mark it as right"),
    ({"kind": "missed", "at_xy": [[-1, 0]]}, 400, "(-1, 0) lies outside the frame"),
    ({"kind": "missed", "at_xy": [[1, 1]] * 65}, 400, "Expected `array` of length <= 64"),
    ({"kind": "missed", "boxes_xywh": [[60, 1, 5, 5]]}, 400, "(64, 5) lies outside the frame"),
    ({"kind": "missed", "strokes": [{"points_xy": [[1, 48]], "width_px": 4}]}, 400, "(1, 48) lies outside the frame"),
    ({"kind": "missed"}, 400, "give a point, a box or a stroke"),
    ({"kind": "right", "at_xy": [[1, 1]]}, 400, "Expected positions for `missed` only"),
    ({"by": "x" * 65}, 400, "length <= 64 - at `$.by`"),
    ({"by": "Jo\nhn"}, 400, "Expected printable characters"),
    ({"note": " " * (256 << 10)}, 413, "more than 262144 bytes"),
    ({"headers": {"Origin": "https://attacker.example"}}, 403, "use the line's own page"),
    ({"headers": {"Host": "attacker.example"}}, 421, "under the name of this PC"),
]


def test_what_cannot_be_marked_is_refused_in_a_sentence_and_never_reaches_the_line(tmp_path: Path) -> None:
    memory = memory_of("DEFECT", "GOOD", "NO_VERDICT")
    with line_with_marks(tmp_path, memory) as (socket, came), page(memory, line_socket=socket) as served:
        for wanted, status, words in REFUSED:
            answer = mark(served, **wanted)
            assert (answer.status, words in answer.json["error"]) == (status, True), (wanted, answer.body)
        for body in ('{"picture":' + "[" * 4000 + "]" * 4000 + "}", '{"picture":"\\ud800","kind":"right","by":"A"}'):
            answer = served.request("POST", "/api/marks", body, JSON)
            assert answer.status == 400, answer.body
            assert "this is not a request for /api/marks" in answer.json["error"]
        assert came == []
        assert (mark(served, headers={"Origin": f"http://127.0.0.1:{served.port}"}).status, len(came)) == (200, 1)


MONITORING = ROOT / "examples" / "monitoring"


def ready(**what: object) -> StatusEvent:
    """A status of a line that is READY, with the camera `top`."""
    status = a_status()
    handshake = msgspec.structs.replace(status.handshake, state="READY", reason=None, detail=None)
    live = CameraState(state="LIVE", since_at_ns=1)
    keys = {"handshake": handshake, "cameras": {"top": live}, "journal": None, "acting": True, "state": "RUNNING"}
    return msgspec.structs.replace(status, **(keys | what))


def running(clock: Clocks, period_s: float = 0.1) -> Memory:
    """The memory of a line that gives verdicts."""
    memory = memory_with(clock)
    for number in range(1, 31):
        clock.now_s += period_s
        memory.add_verdict(verdict(number, clock), live=True)
    memory.add_status(ready())
    return memory


def test_a_line_that_works_needs_no_words_and_a_late_frame_makes_its_picture_stale(clock: Clocks) -> None:
    memory = running(clock)
    state = describe(memory, "line1")
    assert (state["running"], state["handshake"].state, state["words"]) == (True, "READY", [])
    top = state["cameras"]["top"]
    assert (top["state"], top["stale"], top["newest_age_ms"]) == ("LIVE", False, 0)
    assert (top["frame_period_ms"], top["rate_fps"]) == (pytest.approx(100), pytest.approx(10.0, abs=1.0))
    clock.now_s += 1.9
    memory.add_verdict(verdict(31, clock, "NO_VERDICT", reason="dropped.overload"), live=True)  # no new picture
    assert not describe(memory, "line1")["cameras"]["top"]["stale"]
    clock.now_s += 0.2
    memory.add_status(ready())
    state = describe(memory, "line1")
    assert (state["cameras"]["top"]["stale"], state["words"]) == (True, ["Camera top (LIVE): no frame for 2 s."])
    clock.now_s += 4
    state = describe(memory, "line1")
    top = state["cameras"]["top"]
    assert (state["running"], state["handshake"].state) == (False, "NOT_READY"), "one that falls silent"
    assert (top["state"], top["rate_fps"], top["stale"]) == ("UNKNOWN", 0, True)
    assert state["words"][0].startswith("Nothing came from the line for 4 s: it was killed, it hangs")
    slow = running(clock, period_s=10)
    for seconds, is_stale in ((29, False), (2, True)):
        clock.now_s += seconds
        assert describe(slow, "line1")["cameras"]["top"]["stale"] == is_stale, "after three of its periods"


def test_reasons_faults_and_drift_are_plain_words_and_what_matters_most_comes_first() -> None:
    for reason in RESULT_REASONS:
        detail = row_of(verdict(kind="NO_VERDICT", reason=reason, detail=None))["detail"]
        assert not re.search("[._]", str(detail)), detail
    memory = running(Clocks())
    dead = CameraState(state="DEAD", reason="silent", since_at_ns=1)
    shift = DriftReading(value=36.0, calibrated=0.0, low=-3.0, high=3.0, frames=30, drifted=True)
    memory.add_status(ready(cameras={"top": dead}, drift={"top": {"shift_x": shift}}))
    state = describe(memory, "line1")
    assert state["cameras"]["top"]["detail"] == "no frames come"
    drifted = "Camera top, compared with the calibration: the part lies further right (36, -3 to 3 expected)."
    assert drifted in state["words"]
    memory.pictures_fault = "the line refuses"
    memory.add_status(msgspec.structs.replace(JOURNAL_STATUS.event, acting=False))  # type: ignore[arg-type]
    words = describe(memory, "line1")["words"]
    begins = (
        "DEGRADED: camera side is dead",
        "Consumer mes1 is away, and 3 events are stored for it.",
        "No pictures come from the line: the line refuses.",
        "The line is being commissioned",
    )
    assert all(word.startswith(begin) for word, begin in zip(words, begins, strict=True)), words


# What is remembered.


def test_pictures_are_bounded_by_number_and_by_bytes() -> None:
    pictures = PictureMemory(per_camera=5, most_bytes=10 * picture(verdict()).size_bytes)
    for number in range(1, 10):
        pictures.add(picture(verdict(number)))
    assert pictures.all().keys() == {f"01234567-top-{number}" for number in range(5, 10)}
    for camera in ("side", "back") * 9:
        number += 1
        pictures.add(picture(verdict(number, camera=camera)))
    assert (len(pictures.newest()), len(pictures.all())) == (3, 10)
    large = picture(verdict(99), frame(1, (480, 640)))
    pictures.add(large)
    assert pictures.newest()[0] is large, "one that is too large alone is still shown"
    assert len(pictures.newest()) == 3


# What is read of a line.


@contextlib.contextmanager
def collecting(folder: Path, address: str) -> Iterator[tuple[Memory, Metrics, Publisher]]:
    """A page that reads the journal in a folder, and a line that publishes."""
    memory, journal, pictures = Memory(), folder / "journal.db", folder / "no-pictures"
    metrics = Metrics(memory)
    with (
        begun(Publisher(address)) as publisher,
        Collector(memory, metrics, address=address, keys=None, journal=journal, pictures=pictures),
    ):
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        yield memory, metrics, publisher


def numbers(memory: Memory) -> list[int]:
    return [row["frame_number"] for row in memory.rows(100)]


def published(messages: list[Message], topic: str = "verdict.") -> list[Message]:
    return [message for message in messages if message.event.topic.startswith(topic)]


def test_verdicts_and_marks_that_did_not_come_live_are_read_in_the_journal_each_once(
    tmp_path: Path, address: str
) -> None:
    with contextlib.closing(make_writer(tmp_path)) as writer:
        reviews = [Message(review_of(by, number=number)) for number in (1, 2, 3) for by in ("Anna", "Ben")]
        held = published(writer.commit([good(number=1), good(number=2), *reviews[:2]]))
        with collecting(tmp_path, address) as (memory, metrics, publisher):

            def reviewers() -> list[list[str]]:
                found = [memory.review_of(f"01234567-top-{number}") for number in (1, 2, 3)]
                return [each.by if each else [] for each in found]

            until(lambda: numbers(memory) == [1, 2] and reviewers()[0] == ["Anna", "Ben"])
            publisher.send(held[1])  # it has read this already
            publisher.send(published(writer.commit([good(number=3)]))[0])
            until(lambda: 3 in numbers(memory))
            publisher.send(published(writer.commit([good(number=4), good(number=5), good(number=6)]))[2])
            until(lambda: 6 in numbers(memory))
            publisher.send(published(writer.commit(reviews[2:]), "review")[-1])
            until(lambda: reviewers() == [["Anna", "Ben"]] * 3)
            assert numbers(memory) == [1, 2, 3, 4, 5, 6]
            assert 'heatline_reviews_total{camera="top",kind="right"} 4.0' in metrics.exposition().decode()
            until(lambda: "check that the line runs" in str(memory.pictures_fault))


PARTS = PartAccount(announced=9, judged=6, no_verdict=2, open=1)


def full() -> tuple[Memory, Metrics, Clocks]:
    """Metrics with a value for everything."""
    clock = Clocks()
    memory = memory_with(clock)
    metrics = Metrics(memory)
    status, drifted = JOURNAL_STATUS.event, GOLDEN["status-drift"].event
    ledger = status.ledger | {"side": Account(captured=2, failed={"open": 1}, in_flight=1)}
    evidence = EvidenceState(kept=5, skipped=1, stored=40, size_bytes=1 << 20)
    memory.add_status(
        msgspec.structs.replace(
            status, ledger=ledger, evidence=evidence, drift=drifted.drift, parts=PARTS, screened=Screened(120, 108, 1)
        )
    )
    for number, kind in enumerate(("GOOD", "DEFECT", "DEFECT", "NO_VERDICT"), 1):
        event = verdict(number, clock, kind, latency_ms=240.0)
        memory.add_verdict(event, live=True)
        metrics.add(event)
    metrics.add(verdict(5, kind="NO_VERDICT", reason="dropped.lost_by_camera", frames=7, latency_ms=40.0))
    metrics.add(review_of(kind="missed"))
    return memory, metrics, clock


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Run Prometheus' own tool, which must find no fault."""
    result = subprocess.run(
        [need("prometheus"), *arguments], input=text, text=True, capture_output=True, check=False, timeout=60
    )
    assert (result.returncode, result.stderr.strip()) == (0, ""), result.stdout + result.stderr


def test_metrics_are_the_lines_own_figures_and_what_it_does_now_is_known_only_while_it_reports() -> None:
    memory, metrics, clock = full()
    exposition = metrics.exposition().decode()
    assert_golden("metrics", exposition, version=f'version="{__version__}"', python=platform.python_version())
    promtool("check", "metrics", text=exposition)
    clock.now_s += 4
    silent = metrics.exposition().decode()
    assert sorted(set(silent.splitlines()) - set(exposition.splitlines())) == [
        'heatline_handshake_state{state="DEGRADED"} 0.0',
        'heatline_handshake_state{state="NOT_READY"} 1.0',
        'heatline_newest_frame_age_seconds{camera="top"} 4.0',
        "heatline_up 0.0",
    ]
    of_now = "acting|camera_state|consumer_connected|journal_recording|evidence_recording|drift"
    assert not re.search(f"^heatline_({of_now})", silent, re.MULTILINE)
    bundle = msgspec.structs.replace(a_status().bundle, name='a"b\\c\nd')
    restarted = {"top": Account(captured=1, in_flight=1)}
    memory.add_status(a_status(boot_id="another", ledger=restarted, bundle=bundle, product='x"\n'))
    with page(memory) as served:
        answer = served.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    exposition = metrics.exposition().decode()
    promtool("check", "metrics", text=exposition)
    assert 'name="a\\"b\\\\c\\nd"' in exposition
    assert 'heatline_captured_frames_total{camera="top"} 1.0' in exposition
    of_all = 'heatline_frames_total{camera="top",reason="",verdict="DEFECT"} 2.0'
    assert of_all in exposition, "a restart of the line resets its own counts only"


def test_promtool_accepts_the_example_which_names_only_documented_metrics_and_every_alert_has_a_test() -> None:
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", MONITORING / "alerts.yml")
    promtool("test", "rules", MONITORING / "alerts_test.yml")
    _, metrics, _ = full()
    exist = {re.split(r"[{ ]", line)[0] for line in metrics.exposition().decode().splitlines() if line[0] != "#"}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exist}
    documented = (ROOT / "docs" / "monitoring.md").read_text()
    for text in (*(path.read_text() for path in sorted(MONITORING.iterdir())), documented):
        assert set(re.findall(r"\bheatline_[a-z_]+\b", text)) <= families | exist
    assert [name for name in sorted(families) if f"`{name}`" not in documented] == []
    tests = (MONITORING / "alerts_test.yml").read_text()
    rules = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert [rule for rule in rules if f"alertname: {rule}" not in tests or f"`{rule}`" not in documented] == []
