"""Who may connect, as files say it; what is made of what ZeroMQ says; what is counted and logged."""

import contextlib
import logging
import os
import resource
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from edge.delivery.security import zap
from edge.delivery.security.access import Access
from edge.delivery.security.addresses import is_local
from edge.delivery.security.allow_list import ROLES, AllowList, Role, allow, allowed_keys
from edge.delivery.security.arrivals import Arrivals
from edge.delivery.security.curve import fingerprint, make_key_pair
from edge.delivery.security.refusals import SECONDS_BETWEEN_LOGGED, Refusals
from edge.errors import AccessError
from tests.edge.secured import Secured

KEY = z85.encode(bytes(range(32)))
OWN = z85.encode(bytes(32))


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


# Addresses.


@pytest.mark.parametrize(
    "local",
    [
        "tcp://127.0.0.1:5557",
        "tcp://127.8.9.10:5557",
        "tcp://localhost:5557",
        "tcp://[::1]:5557",
        "ipc:///run/heatline/commands",
        "ipc://@commands",
    ],
)
def test_addresses_of_this_machine_alone_need_no_key(local: str) -> None:
    assert is_local(local)
    Access().require_protected("commands.bind", local)


@pytest.mark.parametrize(
    "open_to_others",
    [
        "tcp://*:5557",
        "tcp://0.0.0.0:5557",
        "tcp://[::]:5557",
        "tcp://[::ffff:192.0.2.1]:5557",
        "tcp://192.168.0.4:5557",
        "tcp://eth0:5557",
        "tcp://localhost.example.com:5557",
        "tcp://127.0.0.1.example.com:5557",
        "tcp://127.0.0.1;192.0.2.1:5557",
        "tcp://:5557",
        "tcp://5557",
        "udp://127.0.0.1:5557",
        "127.0.0.1:5557",
        "",
    ],
)
def test_addresses_that_others_can_reach_need_one(secured: Secured, open_to_others: str) -> None:
    with pytest.raises(AccessError, match=r"heatline keys new .* --owner heatline and set key = .* under") as caught:
        Access().require_protected("commands.bind", open_to_others)
    assert "\n" not in str(caught.value)
    secured.access().require_protected("commands.bind", open_to_others)


# Files.


def test_a_line_without_a_folder_of_allowed_keys_is_refused_and_told_what_to_type(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "line.key")
    with pytest.raises(AccessError, match=r"there is no folder .*allowed.*heatline keys allow CLIENT\.key\.pub"):
        Access.read(tmp_path / "line.key", tmp_path / "allowed")


def test_the_lines_own_key_may_do_everything_and_another_what_it_is_allowed(secured: Secured) -> None:
    client = secured.client("follow").own.public
    allow_list = secured.access().allow_list
    allow_list.look()
    assert [allow_list.allows(role, secured.line.public) for role in ROLES] == [True] * 3
    assert [role for role in ROLES if allow_list.allows(role, client)] == ["follow"]
    assert not any(allow_list.allows(role, KEY) for role in ROLES)
    assert not any(allow_list.allows(role, b"") for role in ROLES)


def test_what_is_allowed_and_revoked_is_seen_at_the_next_look(secured: Secured) -> None:
    client = secured.client()
    allow_list = AllowList(secured.allowed, OWN)
    allow_list.look()
    assert not allow_list.allows("listen", client.own.public)
    secured.allow(client.own, "listen")
    allow_list.look(at_most_s_old=3600.0)
    assert not allow_list.allows("listen", client.own.public), "it has not looked"
    allow_list.look()
    assert allow_list.allows("listen", client.own.public)
    secured.revoke(client.own, "listen")
    allow_list.look()
    assert not allow_list.allows("listen", client.own.public)


def test_a_folder_that_is_deleted_lets_nobody_in(secured: Secured) -> None:
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    for path in sorted(secured.allowed.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    allow_list.look()
    assert not allow_list.allows("listen", client.own.public)
    assert allow_list.allows("listen", secured.line.public)


def spoilt(secured: Secured, how: str) -> None:
    """What should not be believed, in the folder of those who may listen."""
    folder = secured.allowed / "listen"
    bad = folder / "bad.pub"
    match how:
        case "loose folder":
            folder.chmod(0o777)
        case "loose above":
            secured.allowed.chmod(0o777)
        case "loose file":
            secured.client("listen")
            next(folder.glob("*.pub")).chmod(0o666)
        case "secret":
            bad.write_bytes((secured.folder / "line.key").read_bytes())
        case "damaged":
            bad.write_text("nonsense")
        case "link":
            bad.symlink_to(secured.folder / "line.key.pub")
        case "pipe":
            os.mkfifo(bad)
        case "folder":
            bad.mkdir()


SPOILT = {
    "loose folder": "can be written by others",
    "loose above": "can be written by others",
    "loose file": "can be written by others",
    "secret": "holds a private key",
    "damaged": "holds no CurveZMQ public key",
    "link": "it is a symbolic link",
    "pipe": "it is a pipe",
    "folder": "it is a folder",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_line_does_not_start_with_an_allow_list_that_cannot_be_believed(secured: Secured, how: str) -> None:
    secured.access()
    spoilt(secured, how)
    with pytest.raises(AccessError, match=SPOILT[how]):
        secured.access()


@pytest.mark.parametrize("how", ["secret", "damaged", "link", "pipe", "folder"])
def test_a_running_line_lets_the_others_in_and_says_once_what_it_does_not_believe(
    secured: Secured, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    spoilt(secured, how)
    for _ in range(3):
        allow_list.look()
        assert allow_list.allows("listen", client.own.public)
    (logged,) = caplog.messages
    assert SPOILT[how] in logged


@pytest.mark.parametrize("how", ["loose folder", "loose above"])
def test_a_running_line_believes_nothing_that_others_can_write(
    secured: Secured, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    spoilt(secured, how)
    allow_list.look()
    assert not allow_list.allows("listen", client.own.public)
    assert "nobody is let in to listen" in caplog.text
    secured.allowed.chmod(0o755)
    (secured.allowed / "listen").chmod(0o755)
    allow_list.look()
    assert allow_list.allows("listen", client.own.public)


def test_want_of_descriptors_cuts_nobody_off_and_lets_nobody_else_in(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever opens many connections brings that about."""
    client = secured.client("listen")
    allow_list = secured.access().allow_list
    allow_list.look()
    other = secured.client("listen")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.open("/dev/null", os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held, limits[1]))  # no new one fits below it
        with contextlib.ExitStack() as taken:
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(open("/dev/null"))
            allow_list.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(held)
    assert allow_list.allows("listen", client.own.public)
    assert not allow_list.allows("listen", other.own.public)
    assert "who may listen stays as it was" in caplog.text
    allow_list.look()
    assert allow_list.allows("listen", other.own.public)


def test_a_key_that_is_being_written_is_not_seen_by_halves(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    rename = Path.rename

    def looked_first(path: Path, to: Path) -> Path:
        seen.append([each.name for each in allowed_keys(secured.allowed, "listen")])
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", looked_first)
    allow(KEY, "mes", secured.allowed, "listen")
    assert seen == [[]]
    assert [(each.name, each.key) for each in allowed_keys(secured.allowed, "listen")] == [("mes", KEY)]


# ZAP.


def question(**changes: bytes) -> list[bytes]:
    parts = {
        "version": b"1.0", "request_id": b"7", "domain": b"listen", "address": b"192.0.2.7", "identity": b"",
        "mechanism": b"CURVE", "key": z85.decode(KEY),
    }  # fmt: skip
    return list((parts | changes).values())


def test_who_is_allowed_is_let_in_under_its_key() -> None:
    asked: list[zap.Peer] = []
    assert zap.answer(question(), lambda peer: not asked.append(peer)) == [b"1.0", b"7", b"200", b"OK", KEY, b""]
    assert asked == [zap.Peer("192.0.2.7", KEY)]


def test_who_is_not_allowed_is_hung_up_on_and_may_try_again() -> None:
    assert zap.answer(question(), lambda _: False)[:3] == [b"1.0", b"7", b"300"]


@pytest.mark.parametrize(
    "asked",
    [
        [],
        [b"1.0"],
        [b"1.0", b"7"],
        question()[:-1],
        [*question(), b"more"],
        question(version=b"2.0"),
        question(mechanism=b"NULL"),
        question(mechanism=b"PLAIN"),
        question(key=b""),
        question(key=bytes(31)),
        question(key=bytes(33)),
        question(key=KEY),
    ],
    ids=range(12),
)
def test_a_question_that_is_none_lets_nobody_in(asked: list[bytes]) -> None:
    answer = zap.answer(asked, lambda _: True)
    assert (len(answer), answer[2], answer[4]) == (6, b"300", b"")


@given(st.lists(st.binary(max_size=40) | st.sampled_from(question()), max_size=9))
def test_no_question_does_more_than_be_answered(asked: list[bytes]) -> None:
    answer = zap.answer(asked, lambda _: True)
    assert answer[2] in (b"200", b"300")
    assert (answer[2] == b"200") == (
        len(asked) == 7 and asked[0] == b"1.0" and asked[5] == b"CURVE" and len(asked[6]) == 32
    )


# Arrivals.


def refusals_of(*events: tuple[int, int] | str) -> Counter[str]:
    counted: Counter[str] = Counter()
    arrivals = Arrivals(lambda reason, _: counted.update([reason]))
    for event in events:
        match event:
            case "not allowed":
                arrivals.note_not_allowed()
            case "all gone":
                arrivals.note_all_gone()
            case (kind, value):
                arrivals.note(int(kind), int(value))
    return counted


def came(fd: int) -> tuple[int, int]:
    return zmq.EVENT_ACCEPTED, fd


def went(fd: int) -> tuple[int, int]:
    return zmq.EVENT_DISCONNECTED, fd


GOT_IN = (zmq.EVENT_HANDSHAKE_SUCCEEDED, 0)
MISMATCH = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, 0x11000002)
GAVE_UP = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 104)


@pytest.mark.parametrize(
    ("events", "refused"),
    [
        ([came(7), GOT_IN, went(7)], {}),
        ([came(7), MISMATCH, went(7)], {"protocol": 1}),
        ([came(7), GAVE_UP, went(7)], {"handshake": 1}),
        ([came(7), went(7)], {"protocol": 1}),  # no ZeroMQ at all
        ([came(7), "not allowed", went(7)], {}),  # told of when ZeroMQ asked
        ([came(7), "not allowed", GAVE_UP, went(7)], {}),
        ([came(7), came(8), GOT_IN, went(8), went(7)], {"protocol": 1}),
        ([came(7), came(8), GOT_IN, GOT_IN, went(8), went(7)], {}),
        ([came(7), came(8), GOT_IN, GAVE_UP, went(8), went(7)], {"handshake": 1}),
        ([came(7), came(8), GOT_IN, went(7), went(8)], {"protocol": 1}),
        ([came(7), GOT_IN, MISMATCH, went(7), came(7), went(7)], {"protocol": 2}),  # one went wrong later
        ([came(7), "all gone", came(7), GOT_IN, went(7)], {}),
        ([came(7), "not allowed", "all gone", came(8), went(8)], {"protocol": 1}),
        ([GOT_IN, went(3)], {}),
    ],
)
def test_each_connection_that_got_in_nowhere_is_counted_once(
    events: list[tuple[int, int] | str], refused: dict[str, int]
) -> None:
    assert refusals_of(*events) == refused


@given(st.data())
def test_whatever_the_order_the_sums_are_right(data: st.DataObject) -> None:
    """Connections that get in and stay, that give up, and that are no ZeroMQ, all at the same time."""
    kinds = data.draw(st.lists(st.sampled_from(["gets in", "gives up", "garbage"]), max_size=8))
    steps = {"gets in": [GOT_IN], "gives up": ["gave up"], "garbage": ["went"]}
    left = [[came(fd), *steps[kind]] for fd, kind in enumerate(kinds)]
    events: list[tuple[int, int] | str] = []
    while any(left):
        fd = data.draw(st.sampled_from([fd for fd, steps in enumerate(left) if steps]))
        step = left[fd].pop(0)
        events += {"went": [went(fd)], "gave up": [GAVE_UP, went(fd)]}.get(str(step), [step])
    refused = refusals_of(*events, *(went(fd) for fd, kind in enumerate(kinds) if kind == "gets in"))
    assert refused["handshake"] == kinds.count("gives up")
    assert refused["protocol"] == kinds.count("garbage")


def test_what_was_wrong_with_a_handshake_is_said_in_words() -> None:
    told: list[str] = []
    arrivals = Arrivals(lambda _, detail: told.append(detail))
    for value in (0x11000002, 0x10000000, 0x7FFFFFFF, 0):
        arrivals.note(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, value)
    assert "mechanism mismatch" in told[0]
    assert len(told) == 4


# Refusals.


def test_refusals_are_counted_and_logged_at_once_and_then_in_sums(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    refusals = Refusals(lambda: now_s)
    for number in range(1000):
        refusals.note("events", "auth", f"number {number}")
    refusals.note("commands", "malformed", "nonsense")
    assert caplog.messages == ["refused (events.auth): number 0", "refused (commands.malformed): nonsense"]
    now_s += SECONDS_BETWEEN_LOGGED - 0.1
    refusals.tend()
    assert len(caplog.messages) == 2
    now_s += 0.2
    refusals.tend()
    refusals.tend()
    assert caplog.messages[2:] == ["refused (events.auth): 999 times, the last time: number 999"]
    assert refusals.counts() == {"events.auth": 1000, "commands.malformed": 1}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_what_strangers_send_does_not_write_lines_of_its_own_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Refusals().note("commands", "malformed", "field `\nERROR edge: all is lost\x1b[2J`")
    assert caplog.messages == [r"refused (commands.malformed): field `\nERROR edge: all is lost\x1b[2J`"]


def test_every_role_has_its_socket() -> None:
    from edge.delivery.security.socket_guard import ROLE_OF

    assert sorted(ROLE_OF.values()) == sorted(get_args(Role))


def test_a_fingerprint_is_of_the_raw_key() -> None:
    import hashlib

    assert fingerprint(KEY) == hashlib.sha256(bytes(range(32))).hexdigest()
