"""Access to a line's sockets: addresses, key files, ZAP requests, handshakes, and the log of refusals."""

import contextlib
import hashlib
import logging
import os
import resource
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from edge.delivery.security import curve, zap
from edge.delivery.security.access import Access
from edge.delivery.security.allow_list import ROLES, allow, allowed_keys
from edge.delivery.security.handshakes import Handshakes
from edge.delivery.security.refusals import Refusals
from edge.errors import AccessError
from edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED
from tests.edge.secured import Secured

KEY = z85.encode(bytes(range(32)))


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


# Addresses.


def test_addresses_that_only_this_machine_reaches_need_no_key() -> None:
    for host in ("127.0.0.1", "127.8.9.10", "localhost", "[::1]"):
        Access().require_protected("commands.bind", f"tcp://{host}:5557")
    Access().require_protected("commands.bind", "ipc://@commands")


@pytest.mark.parametrize(
    "reachable_address",
    [
        *(f"tcp://{host}:5557" for host in ("*", "0.0.0.0", "[::]", "[::ffff:192.0.2.1]", "192.168.0.4")),
        *(f"tcp://{host}:5557" for host in ("localhost.example.com", "127.0.0.1;192.0.2.1")),
        *("tcp://5557", "udp://127.0.0.1:5557", "127.0.0.1:5557", ""),
    ],
)
def test_addresses_that_other_machines_reach_need_a_key(secured: Secured, reachable_address: str) -> None:
    with pytest.raises(AccessError, match=r"heatline keys new .* --owner heatline and set key = .* under") as caught:
        Access().require_protected("commands.bind", reachable_address)
    assert "\n" not in str(caught.value)
    secured.access().require_protected("commands.bind", reachable_address)


# Files.


def test_a_line_without_a_folder_of_allowed_keys_is_refused(tmp_path: Path) -> None:
    curve.make_key_pair(tmp_path / "line.key")
    with pytest.raises(AccessError, match=r"there is no folder .*allowed.*heatline keys allow CLIENT\.key\.pub"):
        Access.read(tmp_path / "line.key", tmp_path / "allowed")


def test_the_lines_own_key_has_every_role_and_others_their_own(secured: Secured) -> None:
    client = secured.client("follow").own.public
    allow_list = secured.access().allow_list
    allow_list.refresh()
    assert [allow_list.allows(role, secured.line.public) for role in ROLES] == [True] * 3
    assert [role for role in ROLES if allow_list.allows(role, client)] == ["follow"]
    assert not any(allow_list.allows(role, KEY) for role in ROLES)
    assert not any(allow_list.allows(role, b"") for role in ROLES)


def test_allowed_and_revoked_keys_are_seen_at_the_next_refresh(secured: Secured) -> None:
    client = secured.client()
    allow_list = secured.access().allow_list
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
    "link": (lambda bad: bad.symlink_to(bad.parents[2] / "line.key.pub"), "it is a symbolic link"),
    "pipe": (os.mkfifo, "it is a pipe"),
    "folder": (lambda bad: bad.mkdir(), "it is a folder"),
    "loose file": (lambda bad: (bad.write_bytes(curve.to_file(KEY)), bad.chmod(0o666)), "can be written by others"),
}
"""Key files that a line must not trust: how to create each at a path, and the message."""


@pytest.mark.parametrize("kind", UNTRUSTWORTHY)
def test_an_untrustworthy_key_file_stops_a_start_and_later_excludes_no_other(
    secured: Secured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access().allow_list
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


@pytest.mark.parametrize("loose", [".", "listen"])
def test_a_folder_that_others_can_write_admits_no_client(
    secured: Secured, loose: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    (secured.allowed / loose).chmod(0o777)
    allow_list.refresh()
    assert not allow_list.allows("listen", client.own.public)
    assert "nobody is allowed to listen" in caplog.text
    with pytest.raises(AccessError, match="can be written by others"):
        secured.access()
    (secured.allowed / loose).chmod(0o755)
    allow_list.refresh()
    assert allow_list.allows("listen", client.own.public)


def test_running_out_of_descriptors_changes_no_access(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    """A client that opens many connections can cause this."""
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    allow_list.refresh()
    other = secured.client("listen")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.open("/dev/null", os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held, limits[1]))  # no new one fits below it
        with contextlib.ExitStack() as taken:
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(open("/dev/null"))
            allow_list.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(held)
    assert allow_list.allows("listen", client.own.public)
    assert not allow_list.allows("listen", other.own.public)
    assert "the keys that may listen stay as they were" in caplog.text
    allow_list.refresh()
    assert allow_list.allows("listen", other.own.public)


def test_a_key_file_being_written_is_not_read(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    rename = Path.rename

    def list_first(path: Path, to: Path) -> Path:
        seen.append([each.name for each in allowed_keys(secured.allowed, "listen")])
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", list_first)
    allow(KEY, "mes", secured.allowed, "listen")
    assert seen == [[]]
    assert [(each.name, each.key) for each in allowed_keys(secured.allowed, "listen")] == [("mes", KEY)]


# ZAP.


def zap_request(**changes: bytes) -> list[bytes]:
    parts = {
        "version": b"1.0", "request_id": b"7", "domain": b"listen", "address": b"192.0.2.7", "identity": b"",
        "mechanism": b"CURVE", "key": z85.decode(KEY),
    }  # fmt: skip
    return list((parts | changes).values())


def test_an_allowed_peer_gets_200_and_another_gets_300() -> None:
    peers: list[zap.Peer] = []
    assert zap.answer(zap_request(), lambda peer: not peers.append(peer)) == [b"1.0", b"7", b"200", b"OK", KEY, b""]
    assert peers == [zap.Peer("192.0.2.7", KEY)]
    assert zap.answer(zap_request(), lambda _: False)[:3] == [b"1.0", b"7", b"300"]


def test_invalid_zap_requests_are_denied() -> None:
    keys = (zap_request(key=key) for key in (b"", bytes(31), bytes(33), KEY))
    others = zap_request(version=b"2.0"), zap_request(mechanism=b"NULL")
    for request in ([], [b"1.0"], zap_request()[:-1], [*zap_request(), b"more"], *others, *keys):
        answer = zap.answer(request, lambda _: True)
        assert (len(answer), answer[2], answer[4]) == (6, b"300", b"")


# Handshakes.


def refusals_of(*events: tuple[int, int] | str) -> Counter[str]:
    counted: Counter[str] = Counter()
    handshakes = Handshakes(lambda reason, _: counted.update([reason]))
    for event in events:
        if event == "not allowed":
            handshakes.note_not_allowed()
        elif event == "all gone":
            handshakes.note_all_disconnected()
        else:
            handshakes.note(*map(int, event))
    return counted


def accepted(fd: int) -> tuple[int, int]:
    return zmq.EVENT_ACCEPTED, fd


def disconnected(fd: int) -> tuple[int, int]:
    return zmq.EVENT_DISCONNECTED, fd


SUCCEEDED = (zmq.EVENT_HANDSHAKE_SUCCEEDED, 0)
MISMATCH = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, 0x11000002)
GAVE_UP = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 104)


@pytest.mark.parametrize(
    ("events", "refused"),
    [
        ([accepted(7), SUCCEEDED, disconnected(7)], {}),
        ([accepted(7), MISMATCH, disconnected(7)], {"protocol": 1}),
        ([accepted(7), GAVE_UP, disconnected(7)], {"handshake": 1}),
        ([accepted(7), disconnected(7)], {"protocol": 1}),  # no ZeroMQ at all
        ([accepted(7), "not allowed", disconnected(7)], {}),  # counted at the ZAP request
        ([accepted(7), "not allowed", GAVE_UP, disconnected(7)], {}),
        ([accepted(7), accepted(8), SUCCEEDED, disconnected(8), disconnected(7)], {"protocol": 1}),
        ([accepted(7), accepted(8), SUCCEEDED, SUCCEEDED, disconnected(8), disconnected(7)], {}),
        ([accepted(7), accepted(8), SUCCEEDED, GAVE_UP, disconnected(8), disconnected(7)], {"handshake": 1}),
        ([accepted(7), accepted(8), SUCCEEDED, disconnected(7), disconnected(8)], {"protocol": 1}),
        ([accepted(7), SUCCEEDED, MISMATCH, disconnected(7), accepted(7), disconnected(7)], {"protocol": 2}),
        ([accepted(7), "all gone", accepted(7), SUCCEEDED, disconnected(7)], {}),
        ([accepted(7), "not allowed", "all gone", accepted(8), disconnected(8)], {"protocol": 1}),
        ([SUCCEEDED, disconnected(3)], {}),
    ],
)
def test_each_failed_connection_is_counted_once(events: list[tuple[int, int] | str], refused: dict[str, int]) -> None:
    assert refusals_of(*events) == refused


@given(st.data())
def test_counts_are_right_in_any_order_of_events(data: st.DataObject) -> None:
    """Connections that succeed, that give up, and that do not speak ZeroMQ, all at the same time."""
    kinds = data.draw(st.lists(st.sampled_from(["gets in", "gives up", "garbage"]), max_size=8))
    steps = {"gets in": [SUCCEEDED], "gives up": ["gave up"], "garbage": ["went"]}
    left = [[accepted(fd), *steps[kind]] for fd, kind in enumerate(kinds)]
    events: list[tuple[int, int] | str] = []
    while any(left):
        fd = data.draw(st.sampled_from([fd for fd, steps in enumerate(left) if steps]))
        step = left[fd].pop(0)
        events += {"went": [disconnected(fd)], "gave up": [GAVE_UP, disconnected(fd)]}.get(str(step), [step])
    refused = refusals_of(*events, *(disconnected(fd) for fd, kind in enumerate(kinds) if kind == "gets in"))
    assert refused["handshake"] == kinds.count("gives up")
    assert refused["protocol"] == kinds.count("garbage")


def test_a_scan_is_counted_and_only_a_certain_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.delivery.security.handshakes._peer_address", lambda fd: f"10.0.0.{fd}")
    details: list[str] = []
    handshakes = Handshakes(lambda _, detail: details.append(detail))

    def note(*events: tuple[int, int]) -> list[str]:
        details.clear()
        for event in events:
            handshakes.note(*event)
        return details

    assert not note(accepted(7), SUCCEEDED)
    (scan,) = note(accepted(8), disconnected(8))
    assert "from 10.0.0.8 " in scan
    assert not note(disconnected(7))
    (one_of_two,) = note(accepted(7), accepted(8), SUCCEEDED, disconnected(7))
    assert "from an unknown address " in one_of_two
    (mismatch,) = note(accepted(9), MISMATCH, disconnected(9))
    assert "from 10.0.0.9 " in mismatch


def test_a_handshake_failure_names_its_cause_and_address() -> None:
    details: list[str] = []
    handshakes = Handshakes(lambda _, detail: details.append(detail))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        peer, _ = server.accept()
        with peer:
            for value in (0x11000002, 0x10000000, 0x7FFFFFFF, 0):
                for event in (
                    accepted(peer.fileno()),
                    (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, value),
                    disconnected(peer.fileno()),
                ):
                    handshakes.note(*event)
            peer.getpeername()  # the descriptor is still open
    assert "from 127.0.0.1" in details[0]
    assert "mechanism mismatch" in details[0]
    assert len(details) == 4


# Refusals.


def test_the_first_refusal_is_logged_and_later_ones_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    refusals = Refusals(lambda: now_s)
    for number in range(1000):
        refusals.note("events", "auth", f"number {number}")
    refusals.note("commands", "malformed", "nonsense")
    assert caplog.messages == ["refused (events.auth): number 0", "refused (commands.malformed): nonsense"]
    now_s += SECONDS_BETWEEN_LOGGED - 0.1
    refusals.tick()
    assert len(caplog.messages) == 2
    now_s += 0.2
    refusals.tick()
    refusals.tick()
    assert caplog.messages[2:] == ["refused (events.auth): 999 times, the last time: number 999"]
    assert refusals.counts() == {"events.auth": 1000, "commands.malformed": 1}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_control_characters_of_a_client_are_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Refusals().note("commands", "malformed", "field `\nERROR edge: all is lost\x1b[2J`")
    assert caplog.messages == [r"refused (commands.malformed): field `\nERROR edge: all is lost\x1b[2J`"]


def test_a_fingerprint_is_the_digest_of_the_raw_key() -> None:
    assert curve.fingerprint(KEY) == hashlib.sha256(bytes(range(32))).hexdigest()
