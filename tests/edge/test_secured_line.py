"""Sockets that other machines can reach: who has a key that is allowed is let in, nobody else is, and each is counted.

All over real sockets, bound at every address of this machine.
"""

import contextlib
import os
import signal
import socket as sockets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import click
import pytest
import zmq
from click.testing import CliRunner
from zmq.utils.monitor import recv_monitor_message

from edge.cli.reload import reload
from edge.cli.status import status
from edge.cli.watch import watch
from edge.delivery.commander import Commander
from edge.delivery.security import knocking, socket_guard
from edge.delivery.security.access import Access
from edge.delivery.security.allow_list import ROLES, Role
from edge.delivery.security.curve import ClientKeys, make_key_pair, read_key_pair
from edge.delivery.security.socket_guard import ROLE_OF, SocketGuard, SocketName
from edge.errors import AccessError
from tests.edge.doors import DOORS, Commands, Door, Events
from tests.edge.hostile import Stranger
from tests.edge.secured import WITHIN_MS, WITHIN_SECONDS, Port, Secured, connected, free_port, until

SOON = "--timeout", "0.3"


class Told(Protocol):
    def __call__(self, command: click.Command, *options: str) -> str: ...


@pytest.fixture(autouse=True)
def _lists_are_read_for_each_who_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who was allowed a moment ago is turned away once, and waits until it tries again."""
    monkeypatch.setattr(socket_guard, "AS_OF_SECONDS", 0.0)


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


@pytest.fixture
def port() -> Port:
    return free_port()


@pytest.fixture
def access(secured: Secured) -> Access:
    return secured.access()


@pytest.fixture
def keys(secured: Secured, role: Role) -> ClientKeys:
    """A client's that is allowed before the door is opened, so that nobody looks a moment too early."""
    return secured.client(role)


@pytest.fixture(params=DOORS)
def name(request: pytest.FixtureRequest) -> SocketName:
    found: SocketName = request.param
    return found


@pytest.fixture
def role(name: SocketName) -> Role:
    return ROLE_OF[name]


@pytest.fixture
def door(name: SocketName, port: Port, access: Access, keys: ClientKeys, tmp_path: Path) -> Iterator[Door]:
    opened = DOORS[name](port.bound, access, tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def kind_of(name: SocketName) -> int:
    return DOORS[name].kind


def is_let_in(door: Door, name: SocketName, port: Port, keys: ClientKeys | None) -> None:
    """Checks that a client is served in the end."""
    with connected(port.reached, kind_of(name), keys) as client:
        until(lambda: door.serves(client, 100))


def is_kept_out(name: SocketName, port: Port, access: Access, keys: ClientKeys | None, reasons: set[str]) -> None:
    """Checks that a client is refused for one of these reasons, and that nothing comes through to it."""
    before = dict(access.refusals.counts())
    wanted = {f"{name}.{reason}" for reason in reasons}
    with connected(port.reached, kind_of(name), keys) as client:
        until(lambda: any(access.refusals.counts().get(each, 0) > before.get(each, 0) for each in wanted))
        assert not client.poll(0)


# Who is let in.


def test_each_door_is_of_one_role() -> None:
    assert ROLE_OF == {"events": "listen", "commands": "command", "journal": "follow"}


def test_who_is_allowed_is_served(door: Door, name: SocketName, role: Role, port: Port, secured: Secured) -> None:
    is_let_in(door, name, port, secured.client(role))


def test_the_lines_own_key_opens_every_door(door: Door, name: SocketName, port: Port, secured: Secured) -> None:
    is_let_in(door, name, port, ClientKeys(secured.line, secured.line.public))


def test_who_is_let_in_is_no_refusal(
    door: Door, name: SocketName, port: Port, keys: ClientKeys, access: Access
) -> None:
    for _ in range(3):
        is_let_in(door, name, port, keys)
    assert access.refusals.counts() == {}


def test_a_key_of_no_list_or_of_another_roles_is_kept_out(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access
) -> None:
    others = [each for each in ROLES if each != role]
    for keys in (secured.client(), secured.client(*others)):
        is_kept_out(name, port, access, keys, {"auth"})
    is_let_in(door, name, port, secured.client(role))


def test_who_takes_another_for_the_line_is_kept_out(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access
) -> None:
    own = secured.client(role).own
    is_kept_out(name, port, access, ClientKeys(own, own.public), {"protocol"})
    is_let_in(door, name, port, secured.client(role))


def test_who_shows_no_key_is_kept_out(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access
) -> None:
    is_kept_out(name, port, access, None, {"protocol", "handshake"})
    is_let_in(door, name, port, secured.client(role))


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"
GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: line\r\n\r\n",
    "zeros": bytes(500),
    "noise": os.urandom(500),
    "zmtp 1": b"\x01\x00" + b"\x05\x00hell" * 20,
    "null": GREETING + b"NULL".ljust(52, b"\0"),
    "plain": GREETING + b"PLAIN".ljust(52, b"\0"),
    "curve, then noise": GREETING + b"CURVE".ljust(52, b"\0") + os.urandom(300),
    "curve, then a huge frame": GREETING + b"CURVE".ljust(52, b"\0") + b"\x06\x7f" + b"\xff" * 7,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_bytes_that_are_no_handshake_are_counted_and_harm_nobody(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access, garbage: str
) -> None:
    with sockets.create_connection(("127.0.0.1", port.number), WITHIN_SECONDS) as stranger:
        stranger.sendall(GARBAGE[garbage])
        with contextlib.suppress(ConnectionError):
            while stranger.recv(4096):
                pass
    until(lambda: sum(access.refusals.counts().values()) >= 1)
    assert set(access.refusals.counts()) <= {f"{name}.protocol", f"{name}.handshake"}
    is_let_in(door, name, port, secured.client(role))


@pytest.mark.long
def test_who_does_not_finish_the_handshake_is_hung_up_on(
    door: Door, name: SocketName, port: Port, keys: ClientKeys, access: Access
) -> None:
    with contextlib.ExitStack() as opened:
        half = [
            opened.enter_context(sockets.create_connection(("127.0.0.1", port.number), WITHIN_SECONDS))
            for _ in range(10)
        ]
        for stranger in half:
            stranger.sendall(GREETING + b"CURVE".ljust(52, b"\0"))
        is_let_in(door, name, port, keys)  # meanwhile
        for stranger in half:
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass
    until(lambda: access.refusals.counts() == {f"{name}.handshake": 10})


def test_a_client_with_a_key_gets_nowhere_at_a_plain_port(
    name: SocketName, address: str, secured: Secured, tmp_path: Path
) -> None:
    access = Access()
    door = DOORS[name](address, access, tmp_path)
    try:
        with connected(address, kind_of(name), secured.client()) as client:
            until(lambda: sum(access.refusals.counts().values()) >= 1)
            assert not client.poll(0)
        with connected(address, kind_of(name)) as client:
            until(lambda: door.serves(client, 100))
    finally:
        door.close()


# Without a restart.


def test_who_is_allowed_while_it_tries_gets_in_by_itself(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access
) -> None:
    keys = secured.client()
    with connected(port.reached, kind_of(name), keys) as client:
        until(lambda: access.refusals.counts().get(f"{name}.auth", 0) >= 1)
        assert not client.poll(0)
        secured.allow(keys.own, role)
        until(lambda: door.serves(client, 100))


@pytest.mark.long
def test_who_is_revoked_while_it_is_connected_is_cut_off_and_the_others_are_not(
    door: Door, name: SocketName, role: Role, port: Port, secured: Secured, access: Access
) -> None:
    keys = secured.client(role)

    def refused() -> int:
        """By the next message that it sends, or when it has been hung up on and comes back."""
        return sum(access.refusals.counts().get(f"{name}.{reason}", 0) for reason in ("revoked", "auth"))

    with (
        connected(port.reached, kind_of(name), keys) as client,
        connected(port.reached, kind_of(name), secured.client(role)) as other,
    ):
        for each in (client, other):
            until(lambda each=each: door.serves(each, 100))  # type: ignore[misc]
        before = refused()

        def asks_and_is_refused() -> bool:
            door.serves(client, 0)
            return refused() > before

        secured.revoke(keys.own, role)
        until(asks_and_is_refused)
        until(lambda: door.serves(other, 100))
        door.serves(client, 0)  # what came until then is let go; where one asks, it asks once more
        for _ in range(3):
            until(lambda: door.serves(other, 100))
        assert not client.poll(0)
        secured.allow(keys.own, role)
        until(lambda: door.serves(client, 100))


def test_a_guard_that_does_not_answer_lets_nobody_in(
    secured: Secured, access: Access, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ would let in everybody where nobody answers its question, were it not told otherwise."""

    def ends(_: SocketGuard, *sockets: "zmq.Socket[bytes]") -> None:
        for each in sockets:
            each.close(0)

    monkeypatch.setattr(SocketGuard, "_watch", ends)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        guard = SocketGuard(router, access, "commands", port.bound)
        guard.join()
        router.disable_monitor()
        guard.bind()
        with connected(port.reached, zmq.DEALER, secured.client("command")) as client:
            failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            with client.get_monitor_socket(failed | zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
                client.send(b"let me in")
                assert monitor.poll(WITHIN_MS)
                assert recv_monitor_message(monitor)["event"] == failed
                assert not router.poll(0)
                client.disable_monitor()


def test_a_guard_that_fails_at_a_question_lets_nobody_in_and_goes_on(
    secured: Secured, access: Access, port: Port, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    look, fail = access.allow_list.look, True

    def failing(at_most_s_old: float = 0.0) -> None:
        if fail:
            raise ZeroDivisionError("boom")
        look(at_most_s_old)

    monkeypatch.setattr(access.allow_list, "look", failing)
    door = Commands(port.bound, access, tmp_path)
    try:
        with connected(port.reached, zmq.DEALER, secured.client("command")) as client:
            with client.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) as monitor:
                assert monitor.poll(WITHIN_MS)
                assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
                client.disable_monitor()
            until(lambda: "its guard failed" in caplog.text)
            fail = False
            until(lambda: door.serves(client, 100))
    finally:
        door.close()


# Subscriptions.


@contextlib.contextmanager
def published(address: str, access: Access, folder: Path) -> Iterator[Events]:
    events = Events(address, access, folder)
    try:
        yield events
    finally:
        events.close()


def test_too_many_subscriptions_end_all_connections_and_who_comes_back_is_served(address: str, tmp_path: Path) -> None:
    access = Access()
    with published(address, access, tmp_path) as events, connected(address, zmq.SUB) as listener:
        until(lambda: events.serves(listener, 100))
        with connected(address, zmq.XSUB) as hostile:
            hostile.setsockopt(zmq.SNDHWM, 0)
            number = 0

            def flood() -> int:
                nonlocal number
                for _ in range(1000):
                    number += 1
                    with contextlib.suppress(zmq.Again):
                        hostile.send(b"\x01%d" % number, zmq.NOBLOCK)
                        hostile.send(b"\x00%d" % (number - 5), zmq.NOBLOCK)  # given up again
                return access.refusals.counts().get("events.subscriptions", 0)

            until(flood)
        until(lambda: events.serves(listener, 100))


def test_a_few_long_subscriptions_are_too_many_as_well(port: Port, tmp_path: Path) -> None:
    """ZeroMQ takes some 50 bytes of memory for each byte of them."""
    access = Access()
    with published(f"tcp://127.0.0.1:{port.number}", access, tmp_path):
        hostile = Stranger(port.number, "SUB", WITHIN_SECONDS)
        for _ in range(300):
            hostile.send([b"\x01" + os.urandom(1000)])
        until(lambda: access.refusals.counts().get("events.subscriptions"))
        hostile.close()


def test_a_subscription_that_is_too_long_is_hung_up_on(address: str, tmp_path: Path) -> None:
    with published(address, Access(), tmp_path) as events, connected(address, zmq.SUB) as listener:
        until(lambda: events.serves(listener, 100))
        with connected(address, zmq.XSUB) as other, other.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            other.send(b"\x01status" + bytes(1100))
            assert monitor.poll(WITHIN_MS)
            other.disable_monitor()
        until(lambda: events.serves(listener, 100))


# What a client is told.


@pytest.mark.long
def test_a_commander_that_is_not_let_in_says_so(secured: Secured, access: Access, port: Port, tmp_path: Path) -> None:
    door = Commands(port.bound, access, tmp_path)
    good = secured.client("command")
    try:
        for keys, words in [
            (None, "hung up: it takes keys"),
            (secured.client("listen"), "your key is not allowed there"),
            (ClientKeys(good.own, good.own.public), "is not the line of this --line-key"),
        ]:
            with (
                Commander(port.reached, 0.5, keys) as line,
                pytest.raises(AccessError, match=f"{words}.*nothing was asked of it"),
            ):
                line.trigger("top")
        with Commander(port.reached, WITHIN_SECONDS, good) as line:
            assert line.trigger("top")
    finally:
        door.close()


@pytest.fixture
def told(
    secured: Secured, access: Access, port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Told]:
    """What a command says that listens there, with a key that is allowed to do something else."""
    monkeypatch.setattr(socket_guard, "HANDSHAKE_WITHIN_MS", 300)
    pair = make_key_pair(tmp_path / "mes.key")
    secured.allow(pair, "follow")
    keys = ["--key", f"{tmp_path}/mes.key", "--line-key", f"{tmp_path}/line.key.pub"]

    def ask(command: click.Command, *options: str) -> str:
        error = CliRunner().invoke(command, [port.reached, *options, *keys]).exception
        return str(error) if isinstance(error, AccessError) else f"no AccessError: {error!r}"

    with published(port.bound, access, tmp_path):
        yield ask


def test_a_command_that_listens_in_vain_says_that_it_is_not_let_in(told: Told) -> None:
    assert "your key is not allowed there for this" in told(watch), "it does not wait for ever"
    for command in (status, reload):
        assert "your key is not allowed there for this" in told(command, *SOON)
    told_to_reload: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: told_to_reload.append(number))
    try:
        said = told(reload, *SOON, "--pid", str(os.getpid()))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "was told to reload, and what became of it is not known, as" in said
    assert "your key is not allowed there for this" in said
    assert told_to_reload == [signal.SIGHUP]


def test_a_watch_whose_key_is_revoked_says_so_at_its_end(
    told: Told, secured: Secured, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = read_key_pair(tmp_path / "mes.key")
    secured.allow(pair, "listen")
    require_let_in = knocking.require_let_in
    let_in: list[str] = []

    def then_revoke(address: str, keys: ClientKeys | None, socket_type: int) -> None:
        require_let_in(address, keys, socket_type)
        let_in.append(address)
        secured.revoke(pair, "listen")

    monkeypatch.setattr(
        "edge.cli.watch.require_let_in", lambda *given: (require_let_in if let_in else then_revoke)(*given)
    )
    assert "your key is not allowed there for this" in told(watch, *SOON)
    assert len(let_in) == 1


# Ends.


def test_a_door_that_is_closed_leaves_no_thread_and_no_descriptor(
    name: SocketName, secured: Secured, role: Role, tmp_path: Path
) -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    keys, before = secured.client(role), None
    for round_ in range(4):
        port = free_port()
        door = DOORS[name](port.bound, secured.access(), tmp_path / str(round_))
        is_let_in(door, name, port, keys)
        door.close()
        before = before or count()
    assert count() == before
