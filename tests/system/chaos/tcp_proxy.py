"""A TCP proxy whose links can be cut, silenced, delayed, throttled, half-closed and reset."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

CHUNK_BYTES = 16 << 10
CHUNKS_HELD = 64
"""Chunks that may wait in each direction of a connection; then the proxy stops reading, and the sender blocks."""
PIECES_PER_S = 20
"""Pieces per second in which throttled bytes are passed on."""
RETRY_S = 0.05
"""Until a stopped server is tried again."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, and discards the socket's buffers."""

Toward = Literal["client", "server"]


class _Conditions(NamedTuple):
    """How bytes pass through a link."""

    silent: bool = False
    delay_s: float = 0.0
    bytes_per_s: float | None = None


class Proxy:
    """Links, which run in one thread for the duration of the `with` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: list[Link] = []

    def link(self, host: str, port: int) -> "Link":
        """Make a link to a server, which may start later."""
        link = Link(self._run, host, port)
        self._links.append(link)
        link.heal()
        return link

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for link in self._links:
            link.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()


class Link:
    """A port of the proxy, and all connections through it. Any thread may call its methods.

    Of `silence`, `delay` and `throttle`, only the last one applies. Bytes always come unchanged and in order; if some
    are lost, all later bytes of the connection are lost too.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, None]], None], host: str, port: int) -> None:
        self._run, self._upstream = run, (host, port)
        self._reserved = _bound(0)  # never listens, so connections are refused without a listener
        self.port: int = self._reserved.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._conditions = _Conditions()
        self._changed = asyncio.Event()
        self.connected = 0
        """Number of connections that have reached the server."""

    @property
    def address(self) -> str:
        """Address of the port, for ZeroMQ."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def held_bytes(self) -> int:
        """Number of bytes that were read and wait to be passed on."""
        return sum(connection.held_bytes for connection in list(self._connections))

    def cut(self) -> None:
        """Close every connection, and refuse new ones until `heal`."""
        self._run(self._cut())

    def silence(self) -> None:
        """Hold all bytes back, like a pulled cable: no connection is closed, and the bytes come later."""
        self._set(_Conditions(silent=True))

    def delay(self, seconds: float) -> None:
        """Delay every byte by this time."""
        self._set(_Conditions(delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Limit the rate in each direction."""
        self._set(_Conditions(bytes_per_s=bytes_per_s))

    def half_close(self, toward: Toward) -> None:
        """End every connection in one direction only, as a program does that has sent everything."""

        async def do() -> None:
            for connection in self._connections:
                connection.half_close(toward)

        self._run(do())

    def reset(self) -> None:
        """End every connection by RST on both sides. New ones are accepted."""

        async def do() -> None:
            self._end_all(_Connection.reset)

        self._run(do())

    def heal(self) -> None:
        """Accept connections, and pass all bytes on at once, also those that were held back."""

        async def do() -> None:
            await self._change(_Conditions())
            if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, sock=_bound(self.port))

        self._run(do())

    def close(self) -> None:
        """End all connections and free the port."""
        self.cut()
        self._reserved.close()

    def _set(self, conditions: _Conditions) -> None:
        self._run(self._change(conditions))

    async def _change(self, conditions: _Conditions) -> None:
        self._conditions = conditions
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._end_all(_Connection.close)
        await asyncio.gather(*self._connections.values(), return_exceptions=True)

    def _end_all(self, end: "Callable[[_Connection], None]") -> None:
        for connection, serving in self._connections.items():
            end(connection)
            serving.cancel()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection, serving = _Connection(), asyncio.current_task()
        assert serving is not None
        self._connections[connection] = serving
        connection.to_client = _draining(to_client)
        try:
            await self._due(0.0)  # through a silent link, no connection reaches the server
            from_server, to_server = await self._reach_server()
            connection.to_server = _draining(to_server)
            self.connected += 1
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pass_on(connection, from_client, to_server))
                both_ways.create_task(self._pass_on(connection, from_server, to_client))
        except* (OSError, asyncio.CancelledError):
            connection.reset()  # one side reset it; after an end by the proxy, this does nothing
        finally:
            connection.close()
            del self._connections[connection]

    async def _reach_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the server, as soon as it listens: a client that is accepted and then closed would take it for a
        line that requires keys."""
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*self._upstream)
            await asyncio.sleep(RETRY_S)

    async def _pass_on(
        self, connection: "_Connection", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on all bytes of one direction, and their end."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_HELD)
        now = asyncio.get_running_loop().time

        async def receive() -> None:
            chunk = b"more"
            while chunk:
                chunk = await reader.read(CHUNK_BYTES)
                connection.held_bytes += len(chunk)
                await held.put((now(), chunk))

        async def send() -> None:
            while True:
                came_s, chunk = await held.get()
                await self._due(came_s)
                if not chunk:
                    break
                while chunk:
                    piece, chunk = self._split(chunk)
                    if not writer.is_closing() and not connection.is_half_closed(writer):
                        writer.write(piece)
                        await writer.drain()
                    connection.held_bytes -= len(piece)
                    if (rate := self._conditions.bytes_per_s) is not None:
                        await self._wait(len(piece) / rate)
                    await self._due(came_s)
            connection.end(writer)

        async with asyncio.TaskGroup() as both:
            both.create_task(receive())
            both.create_task(send())

    def _split(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Split a chunk into the bytes that may pass now, and the rest."""
        rate = self._conditions.bytes_per_s
        at = len(chunk) if rate is None else max(1, int(rate / PIECES_PER_S))
        return chunk[:at], chunk[at:]

    async def _due(self, came_s: float) -> None:
        """Wait until bytes that came at this time may pass."""
        now = asyncio.get_running_loop().time
        while self._conditions.silent:
            await self._wait(None)
        while (left_s := came_s + self._conditions.delay_s - now()) > 0 or self._conditions.silent:
            await self._wait(None if self._conditions.silent else left_s)

    async def _wait(self, seconds: float | None) -> None:
        """Wait this long, or until the conditions change."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


class _Connection:
    """A connection of a client to the proxy, and the proxy's connection to the server."""

    def __init__(self) -> None:
        self.to_client: asyncio.StreamWriter | None = None
        self.to_server: asyncio.StreamWriter | None = None
        self.held_bytes = 0
        self._half_closed: set[asyncio.StreamWriter] = set()

    def half_close(self, toward: Toward) -> None:
        writer = self.to_client if toward == "client" else self.to_server
        if writer is not None:
            self.end(writer)

    def end(self, writer: asyncio.StreamWriter) -> None:
        """Close one direction."""
        if not self.is_half_closed(writer) and not writer.is_closing():
            self._half_closed.add(writer)
            with contextlib.suppress(OSError):
                writer.write_eof()

    def is_half_closed(self, writer: asyncio.StreamWriter) -> bool:
        return writer in self._half_closed

    def close(self) -> None:
        for writer in self._writers():
            writer.transport.abort()  # the kernel still sends its buffered bytes

    def reset(self) -> None:
        for writer in self._writers():
            if not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.to_client, self.to_server) if writer is not None]


def _draining(writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
    """Make `drain` wait until the kernel has all bytes."""
    writer.transport.set_write_buffer_limits(0)
    return writer


def _bound(port: int) -> socket.socket:
    """Return a socket on loopback whose port other sockets of this user may share."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
