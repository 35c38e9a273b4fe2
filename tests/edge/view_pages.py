"""Pages of lines for tests: the real server on a real socket, a memory that the test fills, and a line for marks."""

import contextlib
import http.client
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from heatline.edge.config import WebConfig
from heatline.edge.delivery.journal import FILE_NAME
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.held_picture import HeldPicture
from heatline.edge.monitor.login import Logins
from heatline.edge.monitor.marks import mark_of
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.page import application, not_chosen
from heatline.edge.monitor.pictures import AddMark, AddStep, Evidence, Picture
from heatline.edge.monitor.server import listening_socket, server_of
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import HeatmapPng, Mark, Message, ReviewEvent, Verdict, VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.brokers import Authority
from tests.edge.evidences import ALL, EXAMPLES, writer
from tests.edge.journals import Clocks, make_writer
from tests.edge.lines import started

LINE = "line1"


def memory_with(clock: Clocks) -> Memory:
    return Memory(clock.monotonic_ns, clock.wall_ns)


def verdict(number: int = 1, clock: Clocks | None = None, kind: Verdict = "DEFECT", **what: Any) -> VerdictEvent:
    """A verdict on a frame that was captured now."""
    clock = clock or Clocks()
    now = {"captured_at_ns": clock.wall_ns(), "captured_monotonic_ns": clock.monotonic_ns()}
    times = msgspec.structs.replace(EXAMPLES[kind].times, **now)
    keys = {"camera": "top", "frame_number": number, "seq": number, "times": times} | what
    return msgspec.structs.replace(EXAMPLES[kind], **keys)


def frame(value: int = 200, hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*hw, 3), value, np.uint8)


def evidence_of_two_tiles() -> Evidence:
    """The second of two tiles scores high, and one cell is the highest."""
    heatmap = np.full((6, 8), -2.0, np.float32)
    heatmap[[2, 0], [5, 0]] = 9.5, np.nan
    tiles = TileScores(np.array([[0, 0], [0, 32]], np.int32), np.array([-2.0, 3.25], np.float32), 32)
    return Evidence(heatmap, HeatmapPng(hw=(6, 8), cell_px=8, logit_at_0=-2.0, logit_at_255=10.25), tiles)


def picture(event: VerdictEvent, image: NDArray[np.uint8] | None = None, *, is_judged: bool = True) -> HeldPicture:
    evidence = evidence_of_two_tiles() if is_judged else None
    return HeldPicture.copy_of(Picture(event, frame() if image is None else image, evidence))


def stored(folder: Path, image: NDArray[np.uint8] | None = None, **what: Any) -> str:
    """Store a picture as the recorder does; return its id."""
    event = marked(**what)
    with writer(folder, replace(ALL, keep_s=1e9)) as into:
        into.write(Picture(event, frame() if image is None else image, evidence_of_two_tiles()))
    return str(event.picture)


JOURNAL = "journal-1"
NAME = "01234567-top-1"
"""Of the first frame."""


def marked(number: int = 1, kind: Verdict = "DEFECT", **what: Any) -> VerdictEvent:
    """A verdict whose frame has a picture."""
    camera = what.get("camera", "top")
    return verdict(number, kind=kind, **({"picture": f"01234567-{camera}-{number}", "frame_hw": (48, 64)} | what))


def review_of(by: str = "Anna", kind: Any = "right", number: int = 1, seq: int = 1, **what: Any) -> ReviewEvent:
    """The event of a mark, as a journal holds it."""
    at_xy = [(number, 4)] if kind == "missed" else []
    return review_event(mark_of(marked(number), kind, by, at_xy), seq, **what)


def review_event(mark: Mark, seq: int, journal_id: str | None = JOURNAL) -> ReviewEvent:
    return ReviewEvent(
        boot_id="boot", seq=seq, at_ns=seq, line="line1", mark=mark, journal_id=journal_id, previous_seq=seq - 1
    )


@contextlib.contextmanager
def line_with_marks(folder: Path, memory: Memory) -> Iterator[tuple[Path, list[Mark]]]:
    """A line that journals each mark in `folder`; its socket, and the marks that came."""
    came: list[Mark] = []
    with contextlib.closing(make_writer(folder)) as journal:

        def take(action: AddMark | AddStep) -> None:
            assert isinstance(action, AddMark)
            came.append(action.mark)
            event = msgspec.structs.replace(review_event(action.mark, 0), journal_id=None)
            *_, sent = journal.commit([Message(event)])
            assert isinstance(sent.event, ReviewEvent)
            memory.add_review(sent.event)

        feed = PictureFeed(folder / "pictures" / "line")
        feed.on_user_action = take
        try:
            yield folder / "pictures" / "line", came
        finally:
            feed.close()


def make_certificates(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Return an authority's certificate, a certificate that it signed and its key, and another authority's."""
    authority = Authority(folder)
    return authority.certificate, *authority.sign("own"), Authority(folder, "other-ca").certificate


@dataclass(frozen=True)
class Answer:
    """An answer of the page's server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    cookies: str
    """As a browser sends them."""

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
            cookies = "; ".join(each.partition(";")[0] for each in answer.headers.get_all("set-cookie", ()))
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read(), cookies)
        finally:
            connection.close()

    def live(self, **options: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/live", **options)


def page_at(port: int) -> Page:
    """The page of a program that serves one."""
    memory = Memory()
    return Page(port, memory, Metrics(memory))


@contextlib.contextmanager
def serving(command: str, what: Path) -> Iterator[tuple[subprocess.Popen[str], Page]]:
    """A command that serves a page, and that page."""
    with started(HEATLINE, command, what, "--listen", "127.0.0.1:0") as process:
        announced = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", announced)
        assert found, announced
        yield process, page_at(int(found[1]))


@contextlib.contextmanager
def page(
    memory: Memory | None = None,
    web: WebConfig | None = None,
    store: EvidenceStore | None = None,
    *,
    only_local: bool = True,
    logins: Logins | None = None,
    tls: ssl.SSLContext | None = None,
    line_socket: Path = Path("/no-line"),
    file: Path = Path("/no-line.toml"),
) -> Iterator[Page]:
    """Serve a page until the context ends.

    Args:
        line_socket: where the line takes marks, in a folder beside its journal.
        file: the line's file.
    """
    memory = memory or Memory()
    metrics = Metrics(memory)
    with listening_socket("127.0.0.1:0") as bound:
        journal = line_socket.parent.parent / FILE_NAME
        app = application(file, LINE, memory, metrics, store, line_socket, journal, not_chosen)
        server = server_of(app, bound, web or WebConfig(), logins, only_local=only_local)
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
