"""The proxy between a line and its clients: each fault has its effect, and none changes a byte."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.system.chaos.tcp_proxy import Link, Proxy

WITHIN_SECONDS = 30.0
FOR_EVER = 1e6


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture
def link(server: socket.socket) -> Iterator[Link]:
    with Proxy() as proxy:
        yield linked(proxy, server)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WITHIN_SECONDS)
    return listener


def linked(proxy: Proxy, server: socket.socket) -> Link:
    return proxy.link("127.0.0.1", server.getsockname()[1])


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), WITHIN_SECONDS)


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(WITHIN_SECONDS)
    return connection


@contextlib.contextmanager
def connected(link: Link, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect through the link; return the client's socket and the server's."""
    before = link.connected
    with connect(link) as client, accept(server) as at_server:
        until(lambda: link.connected > before)  # the proxy has connected both sides
        yield client, at_server


def received(end: socket.socket, count: int) -> bytes:
    """Receive this many bytes, or fewer if the connection ends before."""
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def until(done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WITHIN_SECONDS
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def nothing_came(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    finally:
        end.settimeout(WITHIN_SECONDS)
    return False


def test_bytes_pass_in_both_directions_and_so_does_their_end(server: socket.socket, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        client.sendall(b"to the line")
        at_server.sendall(b"to the client")
        assert (received(at_server, 11), received(client, 13)) == (b"to the line", b"to the client")
        client.shutdown(socket.SHUT_WR)
        assert at_server.recv(1) == b""
        at_server.sendall(b"still open")
        assert received(client, 10) == b"still open"
    assert link.connected == 1


def test_a_cut_link_ends_both_and_refuses_connections_until_it_is_healed(server: socket.socket, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.cut()
        assert (client.recv(1), at_server.recv(1)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    link.heal()
    with connected(link, server) as (client, at_server):
        client.sendall(b"again")
        assert received(at_server, 5) == b"again"


def test_a_reset_by_the_proxy_or_by_the_server_reaches_the_other_ends(server: socket.socket, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.reset()
        for end in (client, at_server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    with connected(link, server) as (client, at_server):
        at_server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        at_server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_half_closed_link_ends_one_direction_and_keeps_the_other(server: socket.socket, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.half_close("client")
        assert client.recv(1) == b""
        at_server.sendall(b"discarded")
        client.sendall(b"still open!")
        assert received(at_server, 11) == b"still open!"
    with connected(link, server) as (client, at_server):
        link.half_close("server")
        assert at_server.recv(1) == b""
        at_server.sendall(b"still open!")
        assert received(client, 11) == b"still open!"


@pytest.mark.parametrize(
    ("hold", "release"),
    [
        (Link.silence, Link.heal),
        (lambda link: link.delay(FOR_EVER), lambda link: link.delay(0.01)),
        (lambda link: link.throttle(1 / FOR_EVER), Link.heal),
    ],
    ids=["silent", "delayed", "throttled"],
)
def test_bytes_that_a_link_holds_back_come_completely_later(
    hold: Callable[[Link], None], release: Callable[[Link], None], server: socket.socket, link: Link
) -> None:
    with connected(link, server) as (client, at_server):
        hold(link)
        client.sendall(b"a pulled cable")
        until(lambda: link.held_bytes >= 13)  # a throttled link lets the first byte through
        through = received(at_server, 14 - link.held_bytes) if link.held_bytes < 14 else b""
        assert nothing_came(at_server)
        release(link)
        assert through + received(at_server, 14 - len(through)) == b"a pulled cable"


CHANGES: dict[str, Callable[[Link], None]] = {
    "silence": Link.silence,
    "delay": lambda link: link.delay(0.001),
    "throttle": lambda link: link.throttle(1e7),
    "heal": Link.heal,
}


@given(st.lists(st.tuples(st.sampled_from(list(CHANGES)), st.binary(max_size=40_000)), max_size=12))
def test_bytes_pass_unchanged_whatever_happens_to_an_open_link(changes: list[tuple[str, bytes]]) -> None:
    whole = b"".join(data for _, data in changes)
    came = []
    with listening() as server, Proxy() as proxy:
        link = linked(proxy, server)
        with connected(link, server) as (client, at_server):
            reading = threading.Thread(target=lambda: came.append(received(at_server, len(whole) + 1)))
            reading.start()
            for change, data in changes:
                CHANGES[change](link)
                client.sendall(data)
            link.heal()
            client.shutdown(socket.SHUT_WR)
            reading.join()
    assert came == [whole]
