"""Pages of lines for tests: the real server on a real socket, with a memory that the test fills."""

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from heatline.edge.config import WebConfig
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.api import Choose
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.page import application, listening_socket, not_chosen, server_of
from heatline.edge.monitor.pictures import Evidence, Picture
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.wire_examples import DEFECT, GOOD, NO_VERDICT

LINE = "line1"
NS = 1_000_000_000


class Clock:
    """Both clocks of a PC; they stand still until a test moves them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_ns(self) -> int:
        return round(self.now_s * NS)

    def wall_ns(self) -> int:
        return 1_790_000_000 * NS + self.monotonic_ns()


def memory_with(clock: Clock) -> Memory:
    return Memory(clock.monotonic_ns, clock.wall_ns)


EXAMPLES = {"GOOD": GOOD, "DEFECT": DEFECT, "NO_VERDICT": NO_VERDICT}


def verdict(number: int = 1, clock: Clock | None = None, kind: str = "DEFECT", **what: Any) -> VerdictEvent:
    """A verdict on a frame that was captured now."""
    clock = clock or Clock()
    example = EXAMPLES[kind].event
    assert isinstance(example, VerdictEvent)
    times = msgspec.structs.replace(
        example.times, captured_at_ns=clock.wall_ns(), captured_monotonic_ns=clock.monotonic_ns()
    )
    keys = {"camera": "top", "frame_number": number, "seq": number, "times": times} | what
    return msgspec.structs.replace(example, **keys)


def frame(value: int = 200, hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*hw, 3), value, np.uint8)


def picture(event: VerdictEvent, image: NDArray[np.uint8] | None = None) -> HeldPicture:
    """A frame with two tiles, of which the second scores high, and one highest cell."""
    heatmap = np.full((6, 8), -2.0, np.float32)
    heatmap[2, 5] = 9.5
    heatmap[0, 0] = np.nan
    tiles = TileScores(np.array([[0, 0], [0, 32]], np.int32), np.array([-2.0, 3.25], np.float32), 32)
    made = Picture(event, frame() if image is None else image, Evidence(heatmap, 8, (-2.0, 10.25), tiles))
    return HeldPicture.copy_of(made)


@dataclass(frozen=True)
class Answer:
    """An answer of the page's server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """A page that is served."""

    port: int
    memory: Memory
    metrics: Metrics
    tls: ssl.SSLContext | None = None

    def connection(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WITHIN_SECONDS, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN_SECONDS)

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, headers)

    def request(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Answer:
        connection = self.connection()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def live(self, **options: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/live", **options)


@contextlib.contextmanager
def page(
    memory: Memory | None = None,
    web: WebConfig | None = None,
    store: EvidenceStore | None = None,
    *,
    only_local: bool = True,
    tls: ssl.SSLContext | None = None,
    line_socket: Path = Path("/no-line"),
    file: Path = Path("/no-line.toml"),
    choose: Choose = not_chosen,
) -> Iterator[Page]:
    """Serve a page until the context ends.

    Args:
        line_socket: where the line takes marks, in a folder beside its journal.
        file: the line's file.
        choose: takes the pictures that people choose.
    """
    memory = memory or Memory()
    metrics = Metrics(memory)
    with listening_socket("127.0.0.1:0") as bound:
        journal = line_socket.parent.parent / FILE_NAME
        app = application(file, LINE, memory, metrics, store, line_socket, journal, choose)
        server = server_of(app, bound, web or WebConfig(), only_local=only_local)
        port = bound.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Page(port, memory, metrics, tls)
        finally:
            server.should_exit = True
            thread.join(WITHIN_SECONDS)
            assert not thread.is_alive(), "the server has not ended"


def next_message(viewer: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next text message of a kind; binary ones before it are an error."""
    while True:
        message = viewer.recv(WITHIN_SECONDS)
        assert isinstance(message, str), f"a binary message came before {kind}"
        found: dict[str, Any] = json.loads(message)
        if found["type"] == kind:
            return found


def next_picture(viewer: ClientConnection) -> tuple[dict[str, Any], bytes, bytes | None]:
    """Return the next picture: its message, its JPEG, and its heatmap's PNG."""
    message = next_message(viewer, "picture")
    parts = [viewer.recv(WITHIN_SECONDS) for _ in range(1 if message["heatmap"] is None else 2)]
    assert all(isinstance(part, bytes) for part in parts)
    return message, parts[0], parts[1] if len(parts) == 2 else None  # type: ignore[return-value]


def acknowledge(viewer: ClientConnection, message: Mapping[str, Any]) -> None:
    viewer.send(json.dumps({"type": "ack", "camera": message["camera"], "id": message["id"]}))
