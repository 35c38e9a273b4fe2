"""Sockets that other machines can reach: only clients with an allowed key are admitted, and each refusal is counted.

Over real sockets, bound at every address of this machine.
"""

import contextlib
import socket as sockets
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from heatline.edge.delivery import auth, client
from heatline.edge.delivery.auth import ROLE_OF, ROLES, Access, Authenticator, ClientKeys, SocketName
from tests.edge.secured import WITHIN_MS, WITHIN_SECONDS, Secured, connected, free_port, until
from tests.edge.socket_servers import SOCKET_SERVERS


@pytest.fixture(autouse=True)
def _refresh_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the list for each client; otherwise a client that was allowed a moment ago is refused once."""
    monkeypatch.setattr(auth, "AS_OF_SECONDS", 0.0)
    monkeypatch.setattr(auth, "LOOK_EVERY_SECONDS", 0.1)


class ReachableSocket:
    """One of a line's sockets, reachable by other machines, and the keys of its clients."""

    def __init__(self, name: SocketName, folder: Path) -> None:
        self.name, self.role, self.kind = name, ROLE_OF[name], SOCKET_SERVERS[name].kind
        self.port, self.secured = free_port(), Secured(folder)
        self.access = self.secured.access()
        self.keys = self.secured.client(self.role)
        self.server = SOCKET_SERVERS[name](self.port.bound, self.access, folder)
        self.close = self.server.close

    def connected(self, keys: ClientKeys | None) -> "contextlib.AbstractContextManager[zmq.Socket[bytes]]":
        return connected(self.port.reached, self.kind, keys)

    def wait_until_served(self, client: "zmq.Socket[bytes]") -> None:
        """Wait until a client is served."""
        until(lambda: self.server.serves(client, 100))

    def expect_served(self, keys: ClientKeys | None) -> None:
        with self.connected(keys) as client:
            self.wait_until_served(client)

    def expect_refused(self, keys: ClientKeys | None, *reasons: str) -> None:
        """Check that a client is refused for one of these reasons and receives nothing."""
        before = self.refused(*reasons)
        with self.connected(keys) as client:
            until(lambda: self.refused(*reasons) > before)
            assert not client.poll(0)

    def refused(self, *reasons: str) -> int:
        """Count the refusals for these reasons."""
        return sum(self.access.refusals.counts().get(f"{self.name}.{reason}", 0) for reason in reasons)


@pytest.fixture(params=SOCKET_SERVERS)
def name(request: pytest.FixtureRequest) -> SocketName:
    return request.param


@pytest.fixture
def opened(name: SocketName, tmp_path: Path) -> Iterator[ReachableSocket]:
    with contextlib.closing(ReachableSocket(name, tmp_path)) as reachable:
        yield reachable


def test_only_keys_of_role_and_line_are_served(opened: ReachableSocket, caplog: pytest.LogCaptureFixture) -> None:
    for keys in (opened.keys, ClientKeys(opened.secured.line, opened.secured.line.public)):
        opened.expect_served(keys)
    assert opened.access.refusals.counts() == {}
    opened.expect_refused(opened.secured.client(), "auth")
    opened.expect_refused(opened.secured.client(*[each for each in ROLES if each != opened.role]), "auth")
    own = opened.keys.own
    for keys in (ClientKeys(own, own.public), None):  # a wrong key of the line
        assert client.describe_refusal(opened.port.reached, keys, opened.kind) is not None
    assert f"refused ({opened.name}.auth): the key with the fingerprint " in caplog.text
    opened.expect_served(opened.keys)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"


def wait_until_closed(connection: sockets.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass


def test_an_unfinished_handshake_is_ended(name: SocketName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HANDSHAKE_WITHIN_MS", 500)
    with (
        contextlib.closing(ReachableSocket(name, tmp_path)) as opened,
        sockets.create_connection(("127.0.0.1", opened.port.number), WITHIN_SECONDS) as half,
    ):
        half.sendall(GREETING + b"CURVE".ljust(52, b"\0"))
        opened.expect_served(opened.keys)  # at the same time
        wait_until_closed(half)


def test_a_client_with_a_key_is_refused_at_a_plain_port(name: SocketName, address: str, tmp_path: Path) -> None:
    server, keys = SOCKET_SERVERS[name](address, Access(), tmp_path), Secured(tmp_path).client()
    with contextlib.closing(server):
        assert client.describe_refusal(address, keys, server.kind) is not None
        with connected(address, server.kind) as plain:
            until(lambda: server.serves(plain, 100))


def test_allowing_and_revoking_a_key_needs_no_restart_and_disturbs_no_other(opened: ReachableSocket) -> None:
    keys = opened.secured.client()
    with opened.connected(opened.keys) as other, opened.connected(keys) as client:
        until(lambda: opened.refused("auth"))
        assert not client.poll(0)
        opened.secured.allow(keys.own, opened.role)
        opened.wait_until_served(client)
        opened.secured.revoke(keys.own, opened.role)

        def is_refused() -> bool:
            opened.server.serves(client, 0)
            return opened.refused("revoked") > 0

        if opened.name != "events":  # a subscriber that is connected asks for nothing
            until(is_refused)
        until(lambda: not opened.access.allows(opened.role, keys.own.public))
        opened.expect_refused(keys, "auth")
        opened.wait_until_served(other)


def test_a_silent_authenticator_admits_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, ZeroMQ admits every client if no ZAP handler answers."""
    secured, port = Secured(tmp_path), free_port()

    def stop_answering(_: Authenticator, questions: "zmq.Socket[bytes]") -> None:
        questions.close(0)

    monkeypatch.setattr(Authenticator, "_answer_all", stop_answering)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        Authenticator(router, secured.access(), "commands", port.bound).join()
        router.bind(port.bound)
        with connected(port.reached, zmq.DEALER, secured.client("command")) as client:
            failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            with client.get_monitor_socket(failed | zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
                client.send(b"let me in")
                assert monitor.poll(WITHIN_MS)
                assert recv_monitor_message(monitor)["event"] == failed
                assert not router.poll(0)
                client.disable_monitor()
