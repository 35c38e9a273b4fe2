"""Who may see the page: names of this PC, tokens, cookies, certificates; and clients that are slow."""

import contextlib
import socket
import ssl
from pathlib import Path
from urllib.parse import urlencode

import pytest
from websockets.exceptions import InvalidStatus

from heatline.edge.config import WebConfig
from heatline.edge.errors import AccessError, DeliveryError
from heatline.edge.monitor.page import listening_socket, read_token
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
        for wrong in (content[:-1], f"{content}é", TOKEN, ""):
            assert served.get("/api/state", Cookie=f"{name}={wrong}").status == 401, wrong
    (tmp_path / "other").mkdir()
    with page(web=WebConfig(token_file=token_file(tmp_path / "other", TOKEN[::-1])), only_local=False) as served:
        assert served.get("/api/state", Cookie=f"heatline-{served.port}={content}").status == 401, "a new token"


def test_wrong_tokens_and_logins_of_other_sites_are_refused(tmp_path: Path) -> None:
    with page(web=WebConfig(token_file=token_file(tmp_path)), only_local=False) as served:
        assert log_in(served, TOKEN, Origin="https://attacker.example").status == 403
        for wrong in ("", "wrong", TOKEN[:-1], "x" * 10_000):
            answer = log_in(served, wrong)
            assert (answer.status, answer.headers.get("set-cookie")) == (401, None), wrong


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


def test_a_head_without_end_is_refused() -> None:
    with page() as served, socket.create_connection(("127.0.0.1", served.port), WITHIN_SECONDS) as client:
        with contextlib.suppress(OSError):  # it is closed while it sends
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000)
        assert b"200 OK" not in until_closed(client)
