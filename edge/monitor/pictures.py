"""Judged frames with their pixels, from a running line to other programs of this PC: what a picture is, the messages
that bring it, and the end of the program that receives it. It also sends marks to the line.

A message is a packet of a Unix socket that only the line's user and root can open. The event, the heatmap, the tiles
and the pixels of a picture lie in shared memory.
"""

import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from heatline.edge.delivery.journal import JournalReader
from heatline.edge.errors import DeliveryError
from heatline.edge.heatmap_picture import ColourScale, png
from heatline.edge.inspection.verdict import TileScores
from heatline.edge.util.channel import Channel, Message, ReleaseSlot, RingReader
from heatline.edge.util.systemd import LINES, RUNTIME_FOLDERS, runtime_folder
from heatline.edge.wire.events import (
    CollectState,
    EvidenceState,
    HeatmapPng,
    Mark,
    ReviewEvent,
    ShadowState,
    StepKind,
    VerdictEvent,
    event_from,
)
from heatline.edge.wire.requests import ShortText

MOST_SLOTS = 16
ALIGNED_TO = 64
"""Arrays begin at multiples of a cache line."""

Count = Annotated[int, Meta(ge=0, le=1 << 31)]
_decode_event = msgspec.json.Decoder(VerdictEvent).decode
SOCKET_NAME = "pictures"
JOURNALLED_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.05
LONGEST_STEM = 40
"""Characters of a line's name in a socket's name: the path of a Unix socket has at most 107 bytes."""


@dataclass(frozen=True)
class Evidence:
    """What the verdict of a frame rests on."""

    heatmap: NDArray[np.float32]
    """[H, W] cells, logits; NaN where no tile was inspected."""
    scale: HeatmapPng
    """From end to end of the bundle's colour scale; the evidence threshold lies in its middle."""
    tiles: TileScores

    @property
    def png(self) -> bytes:
        """The heatmap on its scale, one grey pixel per cell."""
        return png(ColourScale(self.scale.logit_at_0, self.scale.logit_at_255).grey(self.heatmap))


@dataclass(frozen=True)
class Picture:
    """A frame with its verdict. The arrays are views of shared memory until `release` is called."""

    event: VerdictEvent
    """The frame's event as it is published, but not numbered: `seq` and `previous_seq` are 0, `journal_id` is None."""
    image: NDArray[np.uint8]
    """Grey [H, W], or RGB [H, W, 3]."""
    evidence: Evidence | None
    """None: the frame was not judged, e.g. because it does not show the product."""
    skipped: int = 0
    """Pictures that the line could not send to this program just before, as it held too many."""
    release: Callable[[], None] = field(default=lambda: None, compare=False)
    """Call this when the arrays are no longer used; the line can then send another picture."""


class Hello(Message, frozen=True):
    """The first message of a client: how many pictures it can hold, and which it wants."""

    slots: Annotated[int, Meta(ge=1, le=MOST_SLOTS)] = 1
    """While it holds as many, the line skips others."""
    good_every: Count = 1
    """Of the GOOD frames of each camera, send each n-th; 0: none. All others are wanted."""
    good_interval_ms: Count = 0
    """Least time between the captures of two GOOD frames of a camera that are sent."""
    collected: Literal["too", "not", "only"] = "too"
    """Whether it wants frames of a line that collects. They are counted as GOOD ones are."""
    triggered: frozenset[str] = frozenset()
    """Cameras of which it wants each such frame."""


class Report(Message, frozen=True):
    """What a process beside the line works at. What it says nothing of is as it was; for some seconds only, of an
    evidence store.
    """

    evidence: EvidenceState | None = None
    web_fault: str | None = None
    """Why the line's page is not served, as a sentence. Comes with `evidence`."""
    collect: CollectState | None = None
    shadow: ShadowState | None = None


class AddMark(Message, frozen=True):
    """A person marked a verdict. A program that sends nothing else needs no `Hello`."""

    mark: Mark


class AskReload(Message, frozen=True):
    """A person asks the line to read its file again. Like a mark, it needs no `Hello`."""

    by: ShortText


class AddStep(Message, frozen=True):
    """A person did something on the page that the line journals. Like a mark, it needs no `Hello`."""

    step: StepKind
    by: ShortText | None
    detail: Annotated[str, Meta(max_length=1000)]


class Array(msgspec.Struct, frozen=True, array_like=True):
    """Where an array lies in a slot."""

    kind: str
    """Of NumPy."""
    shape: tuple[int, ...]
    at: int
    """Bytes after the slot's start."""


class PictureReady(Message, frozen=True):
    """A picture lies in a slot."""

    generation: int
    slot: int
    arrays: list[Array]
    """Its event as JSON, its image, and if it was judged, its heatmap and the origins and logits of its tiles."""
    scale: HeatmapPng | None = None
    tile_px: int = 0
    skipped: int = 0


ToLine = Hello | ReleaseSlot | Report | AddMark | AskReload | AddStep


class PictureClient(contextlib.AbstractContextManager["PictureClient"]):
    """A connection to a line's socket for pictures, with the wishes of a `Hello`. One thread uses it; any thread may
    report and release pictures. A DeliveryError: the line does not run, or this user may not connect.
    """

    def __init__(self, path: Path, **wishes: Any) -> None:
        self._line: Channel[ToLine, PictureReady] = _connect(path)
        with contextlib.suppress(ConnectionError):  # `receive` then says that the line has ended
            self._line.send(Hello(**wishes))

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, timeout_s: float | None) -> Picture | None:
        """Return the next picture; None if none came in time; a DeliveryError if the line has ended."""
        if not wait([self._line.socket], timeout_s):
            return None
        message: PictureReady | None = None
        try:
            with contextlib.suppress(OSError):
                message = self._line.receive()
        except msgspec.MsgspecError as error:
            raise DeliveryError("the line sent what this version does not know; update this program") from error
        if message is None:
            raise DeliveryError("the line has ended")
        assert self._line.ring is not None  # it comes before the first picture
        return self._picture(message, self._line.ring)

    def report(self, report: Report) -> None:
        """Send the line what its status then shows. Any thread."""
        with contextlib.suppress(OSError):  # `receive` then says that the line has ended
            self._line.send(report)

    def close(self) -> None:
        """Close the connection. Pictures that were received can still be read."""
        self._line.close()

    def _picture(self, ready: PictureReady, ring: RingReader) -> Picture:
        event, image, *rest = (ring.view(ready.slot, each.shape, each.kind, each.at) for each in ready.arrays)
        evidence = None
        if ready.scale is not None:
            heatmap, origins, logits = rest
            evidence = Evidence(heatmap, ready.scale, TileScores(origins, logits, ready.tile_px))
        released = [ReleaseSlot(ready.generation, ready.slot)]

        def release() -> None:
            with contextlib.suppress(OSError, IndexError):  # the line has ended, or it was released before
                self._line.send(released.pop())

        return Picture(_decode_event(event.data), image, evidence, ready.skipped, release)


def ask_to_reload(path: Path, by: str) -> None:
    """Ask a line to read its file again; a DeliveryError if it does not run, or this user may not connect."""
    with contextlib.closing(_connect(path)) as line, contextlib.suppress(ConnectionError):
        line.send(AskReload(by))


def add_step(path: Path, step: StepKind, by: str | None, detail: str) -> None:
    """Have a line journal what a person did, if it runs."""
    with contextlib.suppress(DeliveryError, OSError), contextlib.closing(_connect(path)) as line:
        line.send(AddStep(step, by, detail[:1000]))


def add_mark(path: Path, journal: Path, mark: Mark) -> ReviewEvent:
    """Send a mark to a line's socket, and return its event once the line's journal has it.

    Raises:
        DeliveryError: the line does not run, this user may not connect, or the journal does not have it in time.
        JournalError: the line has no journal, or it cannot be read.
    """
    with contextlib.closing(_connect(path)) as line, JournalReader.open_file(journal) as reader:
        after = reader.contents().last_seq
        with contextlib.suppress(ConnectionError):
            line.send(AddMark(mark))
        give_up_s = time.monotonic() + JOURNALLED_WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            page = reader.read(after, topics=["review"])
            for record in page.records:
                event = event_from(record.header)
                if isinstance(event, ReviewEvent) and event.mark.id == mark.id:
                    return event
            after = page.through_seq
            time.sleep(POLL_SECONDS)
    raise DeliveryError(
        f"the line did not journal the mark of picture {mark.picture} within {JOURNALLED_WITHIN_SECONDS:g} s, so it "
        "may be lost; see heatline status, and mark the picture again if it does not show the mark in a moment"
    )


def _connect(path: Path) -> Channel[ToLine, PictureReady]:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        found.connect(os.fspath(path))
    except OSError as error:
        found.close()
        raise DeliveryError(
            f"there are no pictures at {path} ({error.strerror or error}); check that the line runs, and that this "
            "user is the line's user or root"
        ) from error
    return Channel(found, PictureReady)


def picture_socket(line: Path) -> Path:
    """Return the socket of the line that a file configures: in the service's runtime folder, or in one of the user."""
    service = runtime_folder()
    if service is None and line.absolute().parent == LINES and (RUNTIME_FOLDERS / line.stem).is_dir():
        service = RUNTIME_FOLDERS / line.stem
    if service is not None:
        return service / SOCKET_NAME
    digest = hashlib.sha256(os.fsencode(line.resolve())).hexdigest()[:12]
    runtime, folder = os.environ.get("XDG_RUNTIME_DIR", ""), Path(tempfile.gettempdir()) / f"heatline-{os.geteuid()}"
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "heatline"
    return folder / f"{line.stem[:LONGEST_STEM]}-{digest}"
