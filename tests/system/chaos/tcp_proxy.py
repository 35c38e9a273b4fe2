"""A TCP proxy on loopback whose links can be cut, reset, half-closed, silenced and slowed down."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Literal

CHUNK_BYTES, SLOW_BYTES = 16 << 10, 2 << 10
"""Bytes that are passed on at once; through a slow link, fewer."""
RETRY_S = 0.05
"""Until a stopped server is tried again."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, and discards the socket's buffers."""

Toward = Literal["client", "server"]


@contextlib.contextmanager
def proxy() -> Iterator[Callable[[int], "Link"]]:
    """Yield a function that makes a link to a port on this host, whose server may start later. All links run in one
    thread until the context ends."""
    loop, links = asyncio.new_event_loop(), list[Link]()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()

    def link(port: int) -> Link:
        links.append(Link(loop, port))
        links[-1].heal()
        return links[-1]

    try:
        yield link
    finally:
        for each in links:
            each.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Link:
    """A port of the proxy, and all connections through it. Any thread may call its methods.

    Bytes always come unchanged and in order; if some are lost, all later bytes of the connection are lost too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, server_port: int) -> None:
        self._loop, self._server_port = loop, server_port
        self._reserved = _bound(0)  # never listens, so connections are refused without a listener
        self.port: int = self._reserved.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], dict[Toward, asyncio.StreamWriter]] = {}
        self._half_closed: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._pause_s = 0.0

    @property
    def address(self) -> str:
        """Address of the port, for ZeroMQ."""
        return f"tcp://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close every connection, and refuse new ones until `heal`."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def silence(self) -> None:
        """Hold all bytes back, like a pulled cable: no connection is closed, and the bytes come later."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def slow_down(self, pause_s: float) -> None:
        """Pause before each of the small pieces in which bytes are passed on."""
        self._pause_s = pause_s

    def half_close(self, toward: Toward) -> None:
        """End every connection in one direction only, as a program does that has sent everything."""
        self._loop.call_soon_threadsafe(self._end_all, toward)

    def reset(self) -> None:
        """End every connection by RST on both sides. New ones are accepted."""
        self._loop.call_soon_threadsafe(self._close_connections, RESET)

    def heal(self) -> None:
        """Accept connections, and pass all bytes on at once, also those that were held back."""
        asyncio.run_coroutine_threadsafe(self._heal(), self._loop).result()

    def close(self) -> None:
        """End all connections and free the port."""
        self.cut()
        self._reserved.close()

    async def _heal(self) -> None:
        self._pause_s = 0.0
        self._passes.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, sock=_bound(self.port))

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._close_connections()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _end_all(self, toward: Toward) -> None:
        for writers in self._connections.values():
            if (writer := writers.get(toward)) is not None:
                self._end(writer)

    def _close_connections(self, linger: bytes | None = None) -> None:
        for serving, writers in self._connections.items():
            for writer in writers.values():
                if linger is not None:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()  # the kernel still sends its buffered bytes
            serving.cancel()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        writers = self._connections[serving] = {"client": to_client}
        try:
            await self._passes.wait()  # through a silent link, no connection reaches the server
            from_server, to_server = await self._reach_server()
            writers["server"] = to_server
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pass_on(from_client, to_server))
                both_ways.create_task(self._pass_on(from_server, to_client))
        except* (OSError, asyncio.CancelledError):
            pass  # one side reset it, or the proxy ended it
        finally:
            for writer in writers.values():
                writer.transport.abort()
            self._half_closed -= set(writers.values())
            del self._connections[serving]

    async def _reach_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server, as soon as it listens: a client that is accepted and then closed would take it for a
        line that requires keys."""
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._server_port)
            await asyncio.sleep(RETRY_S)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on all bytes of one direction, and their end."""
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has all bytes
        while piece := await reader.read(SLOW_BYTES if self._pause_s else CHUNK_BYTES):
            await asyncio.sleep(self._pause_s)
            await self._passes.wait()
            if writer not in self._half_closed:
                writer.write(piece)
                await writer.drain()
        self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        """Close one direction."""
        if writer not in self._half_closed and not writer.is_closing():
            self._half_closed.add(writer)
            with contextlib.suppress(OSError):
                writer.write_eof()


def _bound(port: int) -> socket.socket:
    """Return a socket on loopback whose port other sockets of this user may share."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
