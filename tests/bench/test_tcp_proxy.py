"""The proxy between a line and its clients: each fault is what it says, and none changes a byte."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.chaos.tcp_proxy import CHUNK_BYTES, CHUNKS_HELD, Link, Proxy

WITHIN_SECONDS = 30.0
FOR_EVER = 1e6


class Server:
    """Takes connections one by one, and whatever a test does with them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WITHIN_SECONDS)
        self.port: int = self._listener.getsockname()[1]

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(WITHIN_SECONDS)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    with Proxy() as proxy:
        yield proxy.link("127.0.0.1", server.port)


@contextlib.contextmanager
def connected(link: Link, server: Server) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection through the link: the client's, the server's."""
    before = link.connected
    with connect(link) as client, server.accept() as at_server:
        until(lambda: link.connected > before)  # the proxy knows of both
        yield client, at_server


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), WITHIN_SECONDS)


def received(end: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the other end has no more."""
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


def test_bytes_pass_in_both_directions_and_so_does_their_end(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        client.sendall(b"to the line")
        assert received(at_server, 11) == b"to the line"
        at_server.sendall(b"to the client")
        assert received(client, 13) == b"to the client"
        client.shutdown(socket.SHUT_WR)
        assert at_server.recv(1) == b""
        at_server.sendall(b"still")
        assert received(client, 5) == b"still"
    assert link.connected == 1


def test_a_link_that_is_cut_closes_both_ends_and_refuses_whoever_comes_until_it_is_healed(
    server: Server, link: Link
) -> None:
    with connected(link, server) as (client, at_server):
        link.cut()
        assert client.recv(1) == b""
        assert at_server.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    link.heal()
    with connected(link, server) as (client, at_server):
        client.sendall(b"again")
        assert received(at_server, 5) == b"again"


def test_a_link_that_is_reset_breaks_off_at_both_ends_and_takes_connections_at_once(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.reset()
        for end in (client, at_server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    with connected(link, server) as (client, at_server):
        client.sendall(b"again")
        assert received(at_server, 5) == b"again"


def test_a_reset_of_one_end_resets_the_other(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        at_server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        at_server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_half_closed_link_ends_one_direction_and_keeps_the_other(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.half_close("client")
        assert client.recv(1) == b""
        at_server.sendall(b"goes nowhere")
        client.sendall(b"still heard")
        assert received(at_server, 11) == b"still heard"
    with connected(link, server) as (client, at_server):
        link.half_close("server")
        assert at_server.recv(1) == b""
        at_server.sendall(b"still heard")
        assert received(client, 11) == b"still heard"


def test_through_a_silent_link_nothing_passes_until_it_is_healed_and_then_all_of_it(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.silence()
        client.sendall(b"a cable that is pulled")
        until(lambda: link.held_bytes == 22)
        assert nothing_came(at_server)
        link.heal()
        assert received(at_server, 22) == b"a cable that is pulled"


def test_whoever_connects_through_a_silent_link_reaches_the_server_once_it_is_healed(
    server: Server, link: Link
) -> None:
    link.silence()
    with connect(link) as client:
        client.sendall(b"late")
        link.heal()
        with server.accept() as at_server:
            assert received(at_server, 4) == b"late"


def test_what_is_delayed_comes_later_or_when_the_link_is_healed(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.delay(FOR_EVER)
        client.sendall(b"late")
        until(lambda: link.held_bytes == 4)
        assert nothing_came(at_server)
        link.delay(0.01)
        assert received(at_server, 4) == b"late"


def test_a_throttled_link_lets_bytes_through_one_by_one(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.throttle(1 / FOR_EVER)
        client.sendall(b"slow")
        assert received(at_server, 1) == b"s"
        until(lambda: link.held_bytes == 3)
        assert nothing_came(at_server)
        link.heal()
        assert received(at_server, 3) == b"low"


def test_a_link_that_passes_nothing_on_does_not_read_without_end(server: Server, link: Link) -> None:
    with connected(link, server) as (client, at_server):
        link.silence()
        client.setblocking(False)
        sent = 0

        def no_more_room() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 16))
            return link.held_bytes > (CHUNKS_HELD - 1) * CHUNK_BYTES // 2

        until(no_more_room)
        assert link.held_bytes <= (CHUNKS_HELD + 2) * CHUNK_BYTES
        link.heal()
        client.shutdown(socket.SHUT_WR)
        assert len(received(at_server, sent + 1)) == sent


def test_a_client_finds_a_server_that_is_not_there_closed_and_one_that_has_come(link: Link, server: Server) -> None:
    server.close()
    with connect(link) as client:
        assert client.recv(1) == b""
    assert link.connected == 0


def test_at_the_end_nothing_is_connected_and_nobody_listens(server: Server) -> None:
    with Proxy() as proxy:
        link = proxy.link("127.0.0.1", server.port)
        client, at_server = connect(link), server.accept()
        link.silence()
        client.sendall(b"never to arrive")
    with client, at_server:
        assert received(at_server, 1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(link)


DOINGS = st.sampled_from(["silence", "delay", "throttle", "heal"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(DOINGS, st.binary(max_size=40_000)), max_size=12))
def test_whatever_is_done_to_a_link_that_stays_connected_bytes_are_those_that_were_sent_in_order(
    doings: list[tuple[str, bytes]],
) -> None:
    server, whole = Server(), b"".join(data for _, data in doings)
    came = []
    with Proxy() as proxy:
        link = proxy.link("127.0.0.1", server.port)
        with connected(link, server) as (client, at_server):
            reading = threading.Thread(target=lambda: came.append(received(at_server, len(whole) + 1)))
            reading.start()
            for doing, data in doings:
                match doing:
                    case "silence":
                        link.silence()
                    case "delay":
                        link.delay(0.001)
                    case "throttle":
                        link.throttle(1e7)
                    case "heal":
                        link.heal()
                client.sendall(data)
            link.heal()
            client.shutdown(socket.SHUT_WR)
            reading.join()
    server.close()
    assert came == [whole]
