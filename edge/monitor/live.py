"""Sends what is new to each open page over a WebSocket: state, verdicts, and the newest picture once it is wanted."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.memory import ROWS, Memory, Row, describe

logger = logging.getLogger(__name__)

ROWS_AT_START = 50
STATE_EVERY_SECONDS = 1.0
LARGEST_MESSAGE = 4096
"""Bytes that a browser may send at once."""
ENDED_OR_WRONG = 1008


class Ack(msgspec.Struct, frozen=True, tag="ack", forbid_unknown_fields=True):
    """The browser has drawn a picture, and wants the next."""

    camera: str
    id: str


_ack = msgspec.json.Decoder(Ack)


@dataclass
class _Viewer:
    """An open page."""

    socket: WebSocket
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: dict[str, str] = field(default_factory=dict)
    """The last picture that was sent, by camera."""
    unacked: dict[str, str] = field(default_factory=dict)
    """The picture that the browser has not drawn yet, by camera."""
    news: deque[Row] = field(default_factory=lambda: deque(maxlen=ROWS))
    """Messages that wait. Of very many, the oldest are left out."""

    def take(self, news: Row | None) -> None:
        """Note a message, or a new picture; in the loop."""
        if news is not None:
            self.news.append(news)
        self.changed.set()

    async def send(self, message: Mapping[str, object]) -> None:
        await self.socket.send_text(msgspec.json.encode(message).decode())


class Live:
    """All open pages of a line."""

    def __init__(self, line: str, memory: Memory) -> None:
        self._line, self._memory = line, memory
        self._viewers: list[_Viewer] = []

    def notify(self, news: Row | None) -> None:
        """Give all viewers a message, or None: a picture came. Any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            for viewer in tuple(self._viewers):
                viewer.loop.call_soon_threadsafe(viewer.take, news)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one page until it is closed."""
        viewer = _Viewer(socket)
        self._viewers.append(viewer)
        try:
            await socket.accept()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._read(viewer))
                both.create_task(self._write(viewer))
        except* (WebSocketDisconnect, OSError):
            pass
        except* Exception as bugs:
            logger.error("the connection of a page is closed", exc_info=bugs)
        finally:
            self._viewers.remove(viewer)

    async def _read(self, viewer: _Viewer) -> None:
        """Take acknowledgements until the page is closed, or sends something else, which is a WebSocketDisconnect."""
        while True:
            try:
                ack = _ack.decode(await viewer.socket.receive_text())
            except (KeyError, msgspec.MsgspecError, UnicodeError, RecursionError):  # bytes have no text
                reason = 'a message came that is not valid; expected {"type":"ack","camera":NAME,"id":ID}'
                await viewer.socket.close(ENDED_OR_WRONG, reason)
                raise WebSocketDisconnect from None
            if viewer.unacked.get(ack.camera) == ack.id:
                del viewer.unacked[ack.camera]
                viewer.changed.set()

    async def _write(self, viewer: _Viewer) -> None:
        memory, loop = self._memory, asyncio.get_running_loop()
        state_at_s = 0.0
        viewer.news.clear()
        await viewer.send({"type": "verdicts", "rows": memory.rows(ROWS_AT_START)})
        while True:
            viewer.changed.clear()
            if loop.time() >= state_at_s:
                sent = {"type": "state", "sent_ms": memory.clock_ns() / 1e6}
                await viewer.send(sent | describe(memory, self._line))
                state_at_s = loop.time() + STATE_EVERY_SECONDS
            for _ in range(len(viewer.news)):
                await viewer.send(viewer.news.popleft())
            for picture in memory.pictures.newest():
                camera = picture.event.camera
                if camera not in viewer.unacked and viewer.sent.get(camera) != picture.id:
                    await self._send_picture(viewer, picture)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(state_at_s):
                    await viewer.changed.wait()

    async def _send_picture(self, viewer: _Viewer, picture: HeldPicture) -> None:
        event = picture.event
        jpeg, heatmap = await asyncio.to_thread(lambda: picture.shown)
        viewer.sent[event.camera] = viewer.unacked[event.camera] = picture.id
        height, width = picture.image.shape[:2]
        now_ns = self._memory.clock_ns()
        message = {
            "type": "picture",
            "camera": event.camera,
            "id": picture.id,
            "verdict": event.verdict,
            "age_ms": max(0, now_ns - event.times.captured_monotonic_ns) / 1e6,
            "sent_ms": now_ns / 1e6,  # by this PC's monotonic clock: a browser detects from it how late messages come
            "hw": (height, width),
            "shown_hw": jpeg.hw,
            "event": event,
            "heatmap": picture.evidence and picture.evidence.scale,
        }
        await viewer.send(message)
        await viewer.socket.send_bytes(jpeg.data)
        if heatmap is not None:
            await viewer.socket.send_bytes(heatmap)
