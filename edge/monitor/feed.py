"""The line's side of the pictures: gives each program that connects the pictures that it wants.

No program can delay the line. Each has a ring of its own, whose slots it must release; a picture for which it has no
slot free is skipped. A program that sends anything unexpected is disconnected.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from heatline.edge.colour import to_rgb
from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.frames import Frame
from heatline.edge.inspection.inspector import Outcome, Setup
from heatline.edge.monitor.pictures import (
    ALIGNED_TO,
    AddMark,
    AddStep,
    Array,
    AskReload,
    Hello,
    PictureReady,
    Report,
    ToLine,
)
from heatline.edge.util.channel import Channel, NewRing, ReleaseSlot, RingWriter
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import (
    COLLECTING,
    CollectState,
    EvidenceState,
    HeatmapPng,
    ShadowState,
    VerdictEvent,
)
from heatline.edge.wire.requests import to_bytes

logger = logging.getLogger(__name__)

MOST_CLIENTS = 8
MOST_BYTES = 256 << 20
"""Memory of a client's ring, unless for its only slot; beyond it, it gets fewer slots than it wants."""
SLOT_STEP_BYTES = 1 << 20
"""Slots are rounded up to this, so that a longer event or another heatmap needs no new ring."""


class StoreReport(NamedTuple):
    """What an evidence store reported last."""

    state: EvidenceState
    """It counts since that store was started."""
    at_monotonic_s: float
    web_fault: str | None


class _Client:
    """A connected program. The feed's lock protects it."""

    def __init__(self, end: socket.socket) -> None:
        self.channel: Channel[PictureReady, ToLine] = Channel(end, ToLine)
        self.ring = RingWriter(self.send)
        self.wishes: Hello | None = None
        """None: it has not said yet what it wants, or is disconnected."""
        self.goods: Counter[str] = Counter()
        self.next_good_ns: dict[str, int] = {}
        """By camera: it wants no GOOD frame that was captured before this time, monotonic."""
        self.report: StoreReport | None = None
        self.skipped = 0
        """Pictures that it could not be given since the last one."""

    def wants(self, event: VerdictEvent) -> bool:
        """Return whether it wants the frame of an event; count it."""
        is_collected = event.reason == COLLECTING
        if self.wishes is None or self.wishes.collected == ("not" if is_collected else "only"):
            return False
        if event.camera in self.wishes.triggered or (event.verdict != "GOOD" and not is_collected):
            return True
        self.goods[event.camera] += 1
        if self.wishes.good_every == 0 or self.goods[event.camera] % self.wishes.good_every:
            return False
        captured_ns = event.times.captured_monotonic_ns
        if captured_ns < self.next_good_ns.get(event.camera, captured_ns):
            return False
        self.next_good_ns[event.camera] = captured_ns + self.wishes.good_interval_ms * 1_000_000
        return True

    def send(self, message: PictureReady | NewRing, fd: int | None = None) -> None:
        """Send a message, or disconnect a client that cannot take it."""
        try:
            self.channel.send(message, fd)
        except OSError:
            self.disconnect()

    def disconnect(self) -> None:
        """Make the feed's thread notice that the client has ended."""
        self.wishes = None
        with contextlib.suppress(OSError):  # it has ended
            self.channel.socket.shutdown(socket.SHUT_RDWR)


class PictureFeed:
    """Gives a line's pictures to programs that connect to a socket. One that a killed line left there is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.on_reload: Callable[[str], None] = lambda _by: None
        """Is given the name of each person who asks for a reload, on the feed's thread."""
        self.on_user_action: Callable[[AddMark | AddStep], None] = lambda _: None
        """Is given what each person marked or did on the page, on the feed's thread."""
        self.shadow: ShadowState | None = None
        """What the process of the shadow bundle reported last, also if it has ended."""
        self._lock = threading.Lock()
        self._clients: list[_Client] = []
        self._evidence = EvidenceState()
        """What the evidence store holds, with the counts of all stores since the start."""
        self._collect = CollectState()
        self._closing = False
        self._listener = _bind(path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._log = RateLimitedLog(logger)
        self._thread = NamedThread("pictures", self._run)
        self._thread.start()

    # On the thread that reports.

    def offer(self, event: VerdictEvent, outcome: Outcome) -> None:
        """Give each client that wants the picture of an outcome a copy of it, if it has a slot free."""
        if outcome.frame is None or not self._clients:
            return
        with self._lock:
            takers = [client for client in self._clients if client.wants(event)]
            if not takers:
                return
            with contextlib.suppress(InputError):  # the pixels do not fit their format, so they make no picture
                arrays, ready, size = _content_of(event, outcome, outcome.frame)
                for client in takers:
                    self._give(client, arrays, ready, size)

    def _give(self, client: _Client, arrays: Sequence[NDArray[Any]], ready: PictureReady, size: int) -> None:
        ring, wishes, slot = client.ring, client.wishes, None
        if wishes is not None and len(ring.held) < wishes.slots and self._has_room(client, wishes, size):
            slot = ring.take()
        if slot is None:
            client.skipped += 1
            if client.report is not None:
                self._evidence = replace(self._evidence, skipped=self._evidence.skipped + 1)
            elif wishes is not None and wishes.collected == "only":
                self._collect = replace(self._collect, skipped=self._collect.skipped + 1)
            return
        for array, place in zip(arrays, ready.arrays, strict=True):
            ring.view(slot, place.shape, place.kind, place.at)[...] = array
        client.send(replace(ready, generation=ring.generation, slot=slot, skipped=client.skipped))
        client.skipped = 0

    def _has_room(self, client: _Client, wishes: Hello, size: int) -> bool:
        """Make the slots of a client's ring large enough if they are not; return whether they are."""
        ring = client.ring
        if ring.slot_bytes >= size:
            return True
        slot_bytes = -(-size // SLOT_STEP_BYTES) * SLOT_STEP_BYTES
        slots = max(1, min(wishes.slots, MOST_BYTES // slot_bytes))
        try:
            ring.make(slots, slot_bytes)
        except OSError as error:  # no memory, or no descriptor is left
            logger.warning("a program that gets pictures is disconnected, as there is no memory for it: %s", error)
            client.disconnect()
        return client.wishes is not None

    # On any thread.

    def evidence(self) -> tuple[EvidenceState, StoreReport | None]:
        """Return the counts of all evidence stores since the start with the state of the present one, and the last
        report of that one; None: none is connected.
        """
        with self._lock:
            reports = (client.report for client in self._clients)
            return self._evidence, next((report for report in reports if report is not None), None)

    def collect(self) -> CollectState:
        """Return what is reported of the frames of a line that collects."""
        return self._collect

    def close(self) -> None:
        """Disconnect all clients, which can still read what they have, and remove the socket."""
        if self._closing:
            return
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the feed's thread
        self._thread.join()
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._selector.close()

    # On the feed's own thread.

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Client) and not self._read(key.data):
                    self._drop(key.data)
        for client in list(self._clients):
            self._drop(client)

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError:  # it has gone, or this process has no descriptor left, and the selector would come at once
            time.sleep(0.1)
            return
        if len(self._clients) >= MOST_CLIENTS:
            end.close()
            return
        end.setblocking(False)
        client = _Client(end)
        with self._lock:
            self._clients.append(client)
        self._selector.register(end, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> bool:
        """Handle one message of a client; return False if the client has ended or must be disconnected."""
        try:
            message = client.channel.receive()
            if isinstance(message, AskReload):
                self.on_reload(message.by)
            elif isinstance(message, AddMark | AddStep):
                self.on_user_action(message)
            elif message is not None:
                with self._lock:
                    self._handle(client, message)
        except BlockingIOError:
            return True
        except (msgspec.MsgspecError, ValueError) as error:
            self._log.error("a program is disconnected from the pictures for a message that is not valid: %s", error)
            return False
        except OSError:
            return False
        return message is not None

    def _handle(self, client: _Client, message: ToLine) -> None:
        match message:
            case Hello() if client.wishes is None:
                client.wishes = message
            case ReleaseSlot(generation, slot) if client.ring.release(generation, slot):
                pass
            case Report(state, web_fault, collect, shadow) if client.wishes is not None:
                self.shadow = shadow or self.shadow
                if collect is not None:
                    self._collect = replace(self._collect, fault=collect.fault)
                if state is not None:
                    total, last = self._evidence, EvidenceState() if client.report is None else client.report.state
                    self._evidence = replace(
                        state,
                        kept=total.kept + state.kept - last.kept,
                        skipped=total.skipped + state.skipped - last.skipped,
                    )
                    client.report = StoreReport(state, time.monotonic(), web_fault)
            case _:
                raise ValueError(f"{type(message).__name__} out of place")

    def _drop(self, client: _Client) -> None:
        with self._lock:
            self._clients.remove(client)
            if client.report is not None:
                skipped = self._evidence.skipped + len(client.ring.held)  # what it held when it ended is hardly stored
                self._evidence = replace(self._evidence, skipped=skipped, fault=None)
        self._selector.unregister(client.channel.socket)
        client.channel.close()
        client.ring = RingWriter(client.send)  # free the memory: this thread may still name the client for a while


def _content_of(
    event: VerdictEvent, outcome: Outcome, frame: Frame
) -> tuple[Sequence[NDArray[Any]], PictureReady, int]:
    """Return the arrays of an outcome's picture, views but for a grey image, the message that brings them, and the size
    of its slot, bytes.
    """
    rgb = to_rgb(frame.image, frame.pixel_format)
    is_mono = frame.camera_format.startswith("Mono")  # its three channels are the same
    arrays: list[NDArray[Any]] = [np.frombuffer(to_bytes(event), np.uint8)]
    arrays.append(cv2.extractChannel(rgb, 0) if is_mono else rgb)
    scale, tile_px, judgement, setup = None, 0, outcome.shown, outcome.setup
    if judgement is not None:
        assert isinstance(setup, Setup)
        tiles, (height, width) = judgement.tiles, judgement.heatmap.shape
        arrays += [judgement.heatmap, tiles.origins_yx, tiles.logits]
        cell_px, ends, tile_px = setup.bundle.manifest.grid.heatmap_cell_px, setup.scale, tiles.tile_px
        scale = HeatmapPng(hw=(height, width), cell_px=cell_px, logit_at_0=ends.low, logit_at_255=ends.high)
    places, at = list[Array](), 0
    for array in arrays:
        places.append(Array(array.dtype.str, array.shape, at))
        at += -(-array.nbytes // ALIGNED_TO) * ALIGNED_TO
    return arrays, PictureReady(0, 0, places, scale, tile_px), at


def check_socket(path: Path) -> None:
    """Check that a line which does not run could serve its pictures."""
    _bind(path).close()
    path.unlink()


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path.parent.mkdir(0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(MOST_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DeliveryError(f"pictures cannot be served at {path}: {error.strerror or error}") from error
    return listener
