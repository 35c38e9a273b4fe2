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
"""In each direction of a connection. With more to pass on, the proxy stops reading, and the sender blocks."""
PIECES_PER_S = 20
"""Pieces per second in which throttled bytes are passed on."""
HUNG_UP_AFTER_S = 0.1
"""Delay before a connection to a stopped server is closed: at once, ZeroMQ would retry as fast as it can."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, and what is in the socket's buffers is gone."""

Toward = Literal["client", "server"]


class _Conditions(NamedTuple):
    """How bytes pass through a link."""

    silent: bool = False
    delay_s: float = 0.0
    bytes_per_s: float | None = None


class Proxy:
    """Links, in a thread of their own. Running between `with` and its end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: list[Link] = []

    def link(self, host: str, port: int) -> "Link":
        """A new way to a server, which need not be there yet."""
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
    """A port of the proxy, and all connections through it. Any thread.

    Only one of `silence`, `delay` and `throttle` is in force, the last one. Whatever was done, bytes that come out at
    the other end are those that went in, in order; what is gone is gone from some byte on, with the connection.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, None]], None], host: str, port: int) -> None:
        self._run, self._upstream = run, (host, port)
        self._reserved = _bound(0)  # never listens: while there is no listener beside it, connections are refused
        self.port: int = self._reserved.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._conditions = _Conditions()
        self._changed = asyncio.Event()
        self.connected = 0
        """Connections that reached the server so far."""

    @property
    def address(self) -> str:
        """For ZeroMQ."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def held_bytes(self) -> int:
        """That were read and are not passed on yet."""
        return sum(connection.held_bytes for connection in list(self._connections))

    def cut(self) -> None:
        """Close every connection, and refuse new ones, until it is healed."""
        self._run(self._cut())

    def silence(self) -> None:
        """Let nothing through, as a cable that is pulled: no connection is closed, and what was sent comes later."""
        self._set(_Conditions(silent=True))

    def delay(self, seconds: float) -> None:
        """Let every byte come so much later."""
        self._set(_Conditions(delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Let no more through than this, in each direction."""
        self._set(_Conditions(bytes_per_s=bytes_per_s))

    def half_close(self, toward: Toward) -> None:
        """End every connection in one direction alone, as a program does that has no more to say."""

        async def do() -> None:
            for connection in self._connections:
                connection.half_close(toward)

        self._run(do())

    def reset(self) -> None:
        """Break every connection off by RST, to both sides. New ones are taken."""

        async def do() -> None:
            self._end_all(_Connection.reset)

        self._run(do())

    def heal(self) -> None:
        """Take connections and let everything through; what was held back goes at once."""

        async def do() -> None:
            await self._change(_Conditions())
            if self._listener is None:
                self._listener = await asyncio.start_server(self._serve, sock=_bound(self.port))

        self._run(do())

    def close(self) -> None:
        """End all of it."""
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
            await self._due(0.0)  # word of it reaches no server through a link that is silent
            try:
                from_server, to_server = await asyncio.open_connection(*self._upstream)
            except OSError:
                await asyncio.sleep(HUNG_UP_AFTER_S)
                return
            connection.to_server = _draining(to_server)
            self.connected += 1
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pass_on(connection, from_client, to_server))
                both_ways.create_task(self._pass_on(connection, from_server, to_client))
        except* (OSError, asyncio.CancelledError):
            connection.reset()  # one side broke it off; or it was ended here, and this does nothing
        finally:
            connection.close()
            del self._connections[connection]

    async def _pass_on(
        self, connection: "_Connection", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """All that comes in one direction, and its end."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_HELD)
        now = asyncio.get_running_loop().time

        async def take() -> None:
            chunk = b"more"
            while chunk:
                chunk = await reader.read(CHUNK_BYTES)
                connection.held_bytes += len(chunk)
                await held.put((now(), chunk))

        async def give() -> None:
            while True:
                came_s, chunk = await held.get()
                await self._due(came_s)
                if not chunk:
                    break
                while chunk:
                    piece, chunk = self._cut_off(chunk)
                    if not writer.is_closing() and not connection.is_half_closed(writer):
                        writer.write(piece)
                        await writer.drain()
                    connection.held_bytes -= len(piece)
                    if (rate := self._conditions.bytes_per_s) is not None:
                        await self._wait(len(piece) / rate)
                    await self._due(came_s)
            connection.end(writer)

        async with asyncio.TaskGroup() as both:
            both.create_task(take())
            both.create_task(give())

    def _cut_off(self, chunk: bytes) -> tuple[bytes, bytes]:
        """What may pass now, and the rest."""
        rate = self._conditions.bytes_per_s
        at = len(chunk) if rate is None else max(1, int(rate / PIECES_PER_S))
        return chunk[:at], chunk[at:]

    async def _due(self, came_s: float) -> None:
        """Wait until what came then may pass."""
        now = asyncio.get_running_loop().time
        while self._conditions.silent:
            await self._wait(None)
        while (left_s := came_s + self._conditions.delay_s - now()) > 0 or self._conditions.silent:
            await self._wait(None if self._conditions.silent else left_s)

    async def _wait(self, seconds: float | None) -> None:
        """Wait so long, or until the conditions change."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


class _Connection:
    """A client's, and its other half, to the server, as soon as there is one."""

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
        """Say that nothing more comes."""
        if not self.is_half_closed(writer) and not writer.is_closing():
            self._half_closed.add(writer)
            with contextlib.suppress(OSError):
                writer.write_eof()

    def is_half_closed(self, writer: asyncio.StreamWriter) -> bool:
        return writer in self._half_closed

    def close(self) -> None:
        for writer in self._writers():
            writer.transport.abort()  # what the kernel has is still sent

    def reset(self) -> None:
        for writer in self._writers():
            if not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.to_client, self.to_server) if writer is not None]


def _draining(writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
    """One whose `drain` waits until the kernel has all of it."""
    writer.transport.set_write_buffer_limits(0)
    return writer


def _bound(port: int) -> socket.socket:
    """A socket on loopback that shares its port with others of ours."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
