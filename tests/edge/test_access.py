"""Access to a line's sockets: addresses, key files, and the log of refusals."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from zmq.utils import z85

from heatline.edge.delivery import auth
from heatline.edge.delivery.auth import ROLES, Access, Refusals, allow, allow_list, is_local, unprotected
from heatline.edge.errors import AccessError
from heatline.edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED
from tests.edge.secured import Secured

KEY = z85.encode(bytes(range(32)))


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


# Addresses.


def test_addresses_that_only_this_machine_reaches_need_no_key() -> None:
    for host in ("127.0.0.1", "127.8.9.10", "localhost", "[::1]"):
        assert is_local(f"tcp://{host}:5557")
    assert is_local("ipc://@commands")


@pytest.mark.parametrize(
    "reachable_address",
    [
        *(f"tcp://{host}:5557" for host in ("*", "0.0.0.0", "[::]", "[::ffff:192.0.2.1]", "192.168.0.4")),
        *(f"tcp://{host}:5557" for host in ("localhost.example.com", "127.0.0.1;192.0.2.1")),
        *("tcp://5557", "udp://127.0.0.1:5557", "127.0.0.1:5557", ""),
    ],
)
def test_addresses_that_other_machines_reach_need_a_key(reachable_address: str) -> None:
    assert not is_local(reachable_address)
    sentence = unprotected("commands.bind", reachable_address)
    assert re.search(r"heatline keys new .*chown heatline .*and set key = .* under", sentence)
    assert "\n" not in sentence


# Files.


def test_a_line_without_a_folder_of_allowed_keys_is_refused(tmp_path: Path) -> None:
    auth.make_key_pair(tmp_path / "line.key")
    with pytest.raises(AccessError, match=r"there is no folder .*allowed.*heatline keys allow CLIENT\.key\.pub"):
        Access.read(tmp_path / "line.key", tmp_path / "allowed")


def test_the_lines_own_key_has_every_role_and_others_their_own(secured: Secured) -> None:
    client = secured.client("follow").own.public
    allow_list = secured.access()
    allow_list.refresh()
    assert [allow_list.allows(role, secured.line.public) for role in ROLES] == [True] * 3
    assert [role for role in ROLES if allow_list.allows(role, client)] == ["follow"]
    assert not any(allow_list.allows(role, KEY) for role in ROLES)
    assert not any(allow_list.allows(role, b"") for role in ROLES)


def test_allowed_and_revoked_keys_are_seen_at_the_next_refresh(secured: Secured) -> None:
    client = secured.client()
    allow_list = secured.access()
    allow_list.refresh()
    assert not allow_list.allows("listen", client.own.public)
    secured.allow(client.own, "listen")
    allow_list.refresh(at_most_s_old=3600.0)
    assert not allow_list.allows("listen", client.own.public), "the list is not read again yet"
    for remove in (lambda: secured.revoke(client.own, "listen"), lambda: shutil.rmtree(secured.allowed)):
        allow_list.refresh()
        assert allow_list.allows("listen", client.own.public)
        remove()
        allow_list.refresh()
        assert not allow_list.allows("listen", client.own.public)
        assert allow_list.allows("listen", secured.line.public)
        secured.allow(client.own, "listen")


UNTRUSTWORTHY: dict[str, tuple[Callable[[Path], object], str]] = {
    "secret": (lambda bad: bad.write_bytes((bad.parents[2] / "line.key").read_bytes()), "holds a private key"),
    "damaged": (lambda bad: bad.write_text("nonsense"), "holds no CurveZMQ public key"),
    "folder": (lambda bad: bad.mkdir(), "Is a directory"),
}
"""Key files that a line must not trust: how to create each at a path, and the message."""


@pytest.mark.parametrize("kind", UNTRUSTWORTHY)
def test_an_untrustworthy_key_file_stops_a_start_and_later_excludes_no_other(
    secured: Secured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access()
    create, excerpt = UNTRUSTWORTHY[kind]
    create(secured.allowed / "listen" / "bad.pub")
    for _ in range(3):
        allow_list.refresh()
        assert allow_list.allows("listen", client.own.public)
    assert not allow_list.allows("listen", KEY)
    (logged,) = caplog.messages
    assert excerpt in logged
    with pytest.raises(AccessError, match=excerpt):
        secured.access()


def test_a_key_file_being_written_is_not_read(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def list_first(path: Path, to: Path) -> Path:
        seen.append([each.name for each in allow_list(secured.allowed, "listen").all()])
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", list_first)
    allow(KEY, "mes", secured.allowed, "listen")
    assert seen == [[]]
    assert [(each.name, each.key) for each in allow_list(secured.allowed, "listen").all()] == [("mes", KEY)]


# Refusals.


def test_refusals_of_a_kind_are_logged_at_a_limited_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    refusals = Refusals(lambda: now_s)
    for number in range(1000):
        refusals.note("events", "auth", f"number {number}")
    refusals.note("commands", "malformed", "nonsense")
    assert caplog.messages == ["refused (events.auth): number 0", "refused (commands.malformed): nonsense"]
    now_s += SECONDS_BETWEEN_LOGGED - 0.1
    refusals.note("events", "auth", "number 1000")
    assert len(caplog.messages) == 2
    now_s += 0.2
    refusals.note("events", "auth", "number 1001")
    assert caplog.messages[2:] == ["refused (events.auth): number 1001"]
    assert refusals.counts() == {"events.auth": 1002, "commands.malformed": 1}


def test_control_characters_of_a_client_are_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Refusals().note("commands", "malformed", "field `\nERROR edge: all is lost\x1b[2J`")
    assert caplog.messages == [r"refused (commands.malformed): field `\nERROR edge: all is lost\x1b[2J`"]


def test_a_fingerprint_is_the_digest_of_the_raw_key() -> None:
    assert auth.fingerprint(KEY) == hashlib.sha256(bytes(range(32))).hexdigest()
