"""Who may see the page: names of this PC, tokens, cookies, certificates; and clients that are slow."""

import contextlib
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from websockets.exceptions import InvalidStatus

from heatline.edge.config import WebConfig
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.monitor import connection
from heatline.edge.monitor.access import ATTEMPTS_PER_MINUTE, Attempts, read_token
from heatline.edge.monitor.connection import listening_socket
from tests.command import WITHIN_SECONDS
from tests.edge.brokers import Authority
from tests.edge.view_pages import Answer, Page, next_message, page

TOKEN = "0123456789abcdef0123456789abcdef"
PROTECTED = "/", "/static/index.html", "/metrics", "/readyz", "/api/state", "/api/pictures/x/frame.jpg"


def token_file(folder: Path, token: str = TOKEN, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(f"{token}\n")
    path.chmod(mode)
    return path


def log_in(served: Page, token: str, **headers: str) -> Answer:
    form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return served.request("POST", "/login", urlencode({"token": token}), form)


def test_without_a_token_the_page_answers_only_under_a_name_of_this_pc() -> None:
    with page() as served:
        for host in ("localhost", f"localhost:{served.port}", "127.0.0.1:1", f"[::1]:{served.port}"):
            assert served.get("/", Host=host).status == 200, host
        for host in ("attacker.example", "attacker.example:8420", "10.0.0.1", "localhost.attacker.example", ""):
            refused = served.get("/api/state", Host=host)
            assert refused.status == 421, host
            assert "only under the name of this PC" in refused.json["error"]


def test_a_page_of_another_address_cannot_open_the_live_view() -> None:
    with page() as served:
        with served.live(origin=f"http://127.0.0.1:{served.port}") as viewer:
            next_message(viewer, "state")
        for origin in ("https://attacker.example", "null", "http://127.0.0.1:1"):
            with pytest.raises(InvalidStatus) as refused:
                served.live(origin=origin)
            assert refused.value.response.status_code == 403, origin


def test_everything_but_the_login_and_healthz_needs_the_token(tmp_path: Path) -> None:
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        for path in PROTECTED:
            assert served.get(path).status == 401, path
            assert served.get(path, Authorization="Bearer wrong").status == 401, path
        with pytest.raises(InvalidStatus) as refused:
            served.live()
        assert refused.value.response.status_code == 401
        assert served.get("/healthz").status == 200
        assert served.get("/login").status == 200
        assert served.get("/", Authorization=f"Bearer {TOKEN}").status == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        with served.live(additional_headers=bearer) as viewer:
            next_message(viewer, "state")
        sent_to = served.get("/", Accept="text/html,*/*")
        assert (sent_to.status, sent_to.headers["location"]) == (303, "/login")


def test_the_login_gives_a_cookie_that_is_not_the_token(tmp_path: Path) -> None:
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        answer = log_in(served, TOKEN)
        cookie = answer.headers["set-cookie"]
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        value = cookie.partition(";")[0]
        assert served.get("/api/state", Cookie=value).status == 200
        with served.live(additional_headers={"Cookie": value}) as viewer:
            next_message(viewer, "state")
        name, _, content = value.partition("=")
        until, _, mac = content.partition(".")
        for wrong in (f"{int(until) + 1}.{mac}", f"{until}.{mac[:-1]}", f"1.{mac}", until, "", f"{until}.{mac}é"):
            assert served.get("/api/state", Cookie=f"{name}={wrong}").status == 401, wrong


def test_wrong_tokens_are_refused_and_after_some_the_right_one_too(tmp_path: Path) -> None:
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        foreign = log_in(served, TOKEN, Origin="https://attacker.example")
        assert foreign.status == 403
        assert log_in(served, "x" * 10_000).status == 401
        for _ in range(ATTEMPTS_PER_MINUTE - 1):
            assert log_in(served, "wrong").status == 401
        assert log_in(served, TOKEN).status == 429
        assert "try again in a minute" in served.get("/", Authorization=f"Bearer {TOKEN}").json["error"]


def test_a_client_may_try_again_after_a_minute_and_others_at_once() -> None:
    now_s = [1000.0]
    attempts = Attempts(lambda: now_s[0])
    for _ in range(ATTEMPTS_PER_MINUTE):
        assert attempts.allowed("10.0.0.1")
        attempts.failed("10.0.0.1")
    assert not attempts.allowed("10.0.0.1")
    assert attempts.allowed("10.0.0.2")
    now_s[0] += 61
    assert attempts.allowed("10.0.0.1")


def test_attempts_of_very_many_addresses_are_forgotten() -> None:
    attempts = Attempts()
    for number in range(5000):
        attempts.failed(str(number))
    assert len(attempts._failed) <= 1000


@pytest.mark.parametrize(
    ("token", "mode", "words"),
    [
        (TOKEN, 0o640, "can be used by others than its owner (mode 0640, expected 0600)"),
        (TOKEN, 0o604, "chmod 600"),
        ("short", 0o600, "holds no token; expected one line of at least 16"),
        ("two words in one file", 0o600, "holds no token"),
        ("", 0o600, "holds no token"),
        ("ümlaute-ümlaute-ümlaute", 0o600, "holds no token"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, token: str, mode: int, words: str) -> None:
    with pytest.raises(AccessError) as refused:
        read_token(token_file(tmp_path, token, mode))
    assert words in str(refused.value)


def test_a_missing_token_file_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="openssl rand -hex 24 > "):
        read_token(tmp_path / "none")


def test_every_answer_forbids_what_the_page_does_not_need(tmp_path: Path) -> None:
    with page() as served:
        for path in ("/", "/api/state", "/nothing"):
            headers = served.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'self'; ")
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


# TLS.


def make_certificates(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Return an authority's certificate, a certificate that it signed and its key, and another authority's."""
    authority = Authority(folder)
    return authority.certificate, *authority.sign("own"), Authority(folder, "other-ca").certificate


def test_with_tls_the_cookie_is_never_sent_in_clear(tmp_path: Path) -> None:
    authority, certificate, key, _ = make_certificates(tmp_path)
    web = WebConfig(token_file=token_file(tmp_path), certificate=certificate, key=key)
    tls = ssl.create_default_context(cafile=str(authority))
    with page(web=web, only_local=False, tls=tls) as served:
        answer = log_in(served, TOKEN)
        assert answer.status == 303
        assert "secure" in answer.headers["set-cookie"].lower()


def test_with_an_authority_only_browsers_with_its_certificates_see_the_page(tmp_path: Path) -> None:
    authority, certificate, key, _ = make_certificates(tmp_path)
    web = WebConfig(certificate=certificate, key=key, client_ca=authority)
    with_certificate = ssl.create_default_context(cafile=str(authority))
    with_certificate.load_cert_chain(certificate, key)
    with page(web=web, only_local=False, tls=with_certificate) as served:
        assert served.get("/api/state").status == 200
        without = Page(served.port, served.memory, served.metrics, ssl.create_default_context(cafile=str(authority)))
        with pytest.raises(OSError):  # noqa: PT011  # OpenSSL reports a refusal in many ways
            without.get("/api/state")
        assert served.get("/api/state").status == 200


def test_tls_files_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    _, certificate, key, other = make_certificates(tmp_path)
    for web in (
        WebConfig(certificate=tmp_path / "none", key=key),
        WebConfig(certificate=other, key=key),
        WebConfig(certificate=certificate, key=key, client_ca=key),
    ):
        with pytest.raises(AccessError, match=r"cannot be served with TLS from .*expected PEM files"), page(web=web):
            pass


# Slow clients.


def test_an_address_in_use_is_reported_with_what_to_do() -> None:
    in_use = pytest.raises(DeliveryError, match=r"cannot listen on .*in use.*set web\.listen \(of heatline view: ")
    with listening_socket("127.0.0.1:0") as bound, in_use:
        listening_socket(f"127.0.0.1:{bound.getsockname()[1]}")
    with pytest.raises(DeliveryError, match=r"cannot listen on no\.such\.host\.example:1"):
        listening_socket("no.such.host.example:1")


def until_closed(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return data


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"\x16\x03\x01",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\ntoken=",
    ],
    ids=["nothing", "a part", "TLS", "a form without its end"],
)
def test_a_client_that_does_not_send_its_request_is_disconnected(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PAGE_REQUEST_SECONDS", 0.2)
    web = WebConfig(token_file=token_file(tmp_path))
    with page(web=web) as served, socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as slow:
        slow.sendall(sent)
        assert b"200 OK" not in until_closed(slow)
        assert served.get("/healthz").status == 200


def test_a_client_that_does_not_end_its_tls_handshake_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PAGE_REQUEST_SECONDS", 0.2)
    _, certificate, key, _ = make_certificates(tmp_path)
    web = WebConfig(token_file=token_file(tmp_path), certificate=certificate, key=key)
    with page(web=web) as served, socket.create_connection(("127.0.0.1", served.port), 20.0) as silent:
        assert until_closed(silent) == b""


def test_a_client_that_sends_byte_by_byte_is_disconnected_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAGE_REQUEST_SECONDS", 0.3)
    with page() as served, socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # its first request is complete
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        slow.settimeout(0.01)
        give_up = time.monotonic() + WITHIN_SECONDS
        closed = False
        while not closed and time.monotonic() < give_up:
            try:
                slow.sendall(b"G")
                closed = slow.recv(65536) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
        assert closed


def test_a_head_without_end_is_refused() -> None:
    with page() as served, socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as client:
        with contextlib.suppress(OSError):  # it is closed while it sends
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000)
        assert b"200 OK" not in until_closed(client)
