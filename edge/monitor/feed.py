"""The line's side of the pictures: accepts programs of the same user, and gives each the pictures that it wants.

No program can delay the line. Each has a ring of its own, whose slots it must release; a picture for which it has no
slot free is skipped and counted. Messages are small and never wait for room. A program that sends anything unexpected
is disconnected.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from heatline.edge.colour import to_rgb
from heatline.edge.errors import DeliveryError, InputError
from heatline.edge.frames import Frame
from heatline.edge.inspection.outcome import Outcome
from heatline.edge.monitor.channel import (
    MAX_MESSAGE_BYTES,
    VERSION,
    AddMark,
    EvidenceSize,
    Hello,
    Layout,
    NewRing,
    PictureReady,
    Refused,
    ReleaseSlot,
    Report,
    ToClient,
    ToLine,
    decode_to_line,
    encode,
    peer_uid,
)
from heatline.edge.monitor.picture_place import make_private
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimit
from heatline.edge.util.ring import RingWriter
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import EvidenceState, VerdictEvent, header_of
from heatline.edge.wire.marks import Mark

logger = logging.getLogger(__name__)

MOST_CLIENTS = 8
MOST_BYTES = 512 << 20
"""Memory of all rings together; beyond it, a client gets fewer slots than it wants. No client gets more than half of
it, unless for its only slot: the evidence store, which wants many, leaves memory for the page.
"""
SLOT_STEP_BYTES = 1 << 20
"""Slots are rounded up to this, so that a longer event or another heatmap needs no new ring."""
HELLO_WITHIN_SECONDS = 5.0
MOST_MESSAGES_PER_SECOND = 2000
ACCEPT_EVERY_SECONDS = 0.02
TICK_SECONDS = 1.0


class StoreReport(NamedTuple):
    """What the evidence store reported last."""

    state: EvidenceState
    at_monotonic_s: float


@dataclass(eq=False)
class _Client:
    """A connected program. The feed's lock protects it."""

    socket: socket.socket
    connected_s: float
    slots: int = 0
    """0: it has not said yet what it wants."""
    good_every: int = 0
    good_interval_ns: int = 0
    next_good_ns: dict[str, int] = field(default_factory=dict)
    """By camera: it wants no GOOD frame that was captured before this time, monotonic."""
    ring: RingWriter | None = None
    generation: int = 0
    held: set[tuple[int, int]] = field(default_factory=set)
    """Generation and number of each slot that it has not released."""
    goods: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    """Number of pictures that it wanted and did not get, as it was too slow."""
    report: StoreReport | None = None
    second: int = 0
    messages: int = 0
    """Number of messages in that second."""

    def wants(self, event: VerdictEvent) -> bool:
        """Return whether it wants the frame of an event; count it."""
        if event.verdict != "GOOD":
            return self.slots > 0
        self.goods[event.camera] += 1
        if self.good_every == 0 or self.goods[event.camera] % self.good_every:
            return False
        captured_ns = event.times.captured_monotonic_ns
        if captured_ns < self.next_good_ns.get(event.camera, captured_ns):
            return False
        self.next_good_ns[event.camera] = captured_ns + self.good_interval_ns
        return True

    def send(self, message: ToClient, fd: int | None = None) -> None:
        """Send a message, or disconnect a client that cannot take it."""
        try:
            socket.send_fds(self.socket, [encode(message)], [] if fd is None else [fd], socket.MSG_NOSIGNAL)
        except OSError:
            self.disconnect()

    def disconnect(self) -> None:
        """Make the feed's thread notice that the client has ended."""
        self.slots = 0
        with contextlib.suppress(OSError):  # it has ended
            self.socket.shutdown(socket.SHUT_RDWR)


class PictureFeed:
    """Gives a line's pictures to programs that connect to a socket.

    Args:
        path: the socket, see `picture_socket`. A socket that a killed line left there is replaced.
        count_unstored: whether to count the frames with DEFECT and NO_VERDICT that come while no evidence store is
            connected.
    Raises:
        DeliveryError: the socket cannot be bound.
    """

    def __init__(self, path: Path, *, count_unstored: bool = False) -> None:
        self._path, self._count_unstored = path, count_unstored
        self.on_mark: Callable[[Mark], None] = lambda _mark: None
        """Is given each mark that a program sends, on the feed's thread."""
        self._lock = threading.Lock()
        self._clients: list[_Client] = []
        self._former = EvidenceState()
        """The last report of the evidence store that ended last, with the counts of all that have ended."""
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listener = _bind(path)
        self._accept_at_s = 0.0
        self._invalid = RateLimit()
        self._thread = NamedThread("pictures", self._run)
        self._thread.start()

    # On the thread that reports.

    def offer(self, event: VerdictEvent, outcome: Outcome) -> None:
        """Give each client that wants the picture of an outcome a copy of it, if it has a slot free. The caller still
        owns the frame.
        """
        if outcome.frame is None or not (self._clients or self._count_unstored):
            return
        with self._lock:
            if self._count_unstored and event.verdict != "GOOD" and self._store() is None:
                self._former = _plus(self._former, skipped=1)
            takers = [client for client in self._clients if client.wants(event)]
            if not takers:
                return
            with contextlib.suppress(InputError):  # the pixels do not fit their format, so they make no picture
                content = _Content(event, outcome, outcome.frame)
                for client in takers:
                    self._give(client, content)

    def _give(self, client: _Client, content: "_Content") -> None:
        if len(client.held) >= client.slots or not self._has_room(client, content.layout.size):
            client.skipped += 1
            return
        ring = client.ring
        assert ring is not None
        slot = next(slot for slot in range(ring.slots) if (client.generation, slot) not in client.held)
        content.write_to(ring, slot)
        client.held.add((client.generation, slot))
        client.send(content.message(client.generation, slot))

    def _has_room(self, client: _Client, size: int) -> bool:
        """Make the client's ring large enough if it is not; return whether one of its slots is free."""
        if client.ring is None or client.ring.slot_bytes < size:
            slot_bytes = -(-size // SLOT_STEP_BYTES) * SLOT_STEP_BYTES
            others = sum(c.ring.slots * c.ring.slot_bytes for c in self._clients if c.ring and c is not client)
            own = max(MOST_BYTES // 2, slot_bytes)
            slots = min(client.slots, own // slot_bytes, (MOST_BYTES - others) // slot_bytes)
            if slots < 1:
                return False
            try:
                client.ring = RingWriter(slots, slot_bytes)
            except OSError as error:  # no memory, or no descriptor is left
                logger.warning("a program that gets pictures is disconnected, as there is no memory for it: %s", error)
                client.disconnect()
                return False
            client.generation += 1
            client.send(NewRing(client.generation, slots, slot_bytes), client.ring.fd)
            client.ring.close()
        in_use = sum(generation == client.generation for generation, _ in client.held)
        return client.slots > 0 and in_use < client.ring.slots

    # On any thread.

    def evidence(self) -> tuple[EvidenceState, StoreReport | None]:
        """Return the counts of all evidence stores since the start with the state of the present one, and the last
        report of that one; None: none is connected.
        """
        with self._lock:
            store, former = self._store(), self._former
            if store is None or store.report is None:
                return former, None
            state = _plus(store.report.state, kept=former.kept, skipped=former.skipped + store.skipped)
            return state, store.report

    def close(self) -> None:
        """Disconnect all clients, which can still read what they have, and remove the socket."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._selector.close()
        os.close(self._wake)

    def _store(self) -> _Client | None:
        return next((client for client in self._clients if client.report is not None), None)

    # On the feed's own thread.

    def _run(self) -> None:
        while not self._closing:
            now_s = time.monotonic()
            is_listening = self._listener in self._selector.get_map()
            if not is_listening and now_s >= self._accept_at_s:
                self._selector.register(self._listener, selectors.EVENT_READ)
                is_listening = True
            for key, _ in self._selector.select(TICK_SECONDS if is_listening else ACCEPT_EVERY_SECONDS):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Client) and not self._read(key.data):
                    self._drop(key.data)
            for client in [
                c for c in self._clients if not c.slots and time.monotonic() > c.connected_s + HELLO_WITHIN_SECONDS
            ]:
                self._drop(client)
        for client in list(self._clients):
            self._drop(client)
        self._listener.close()

    def _accept(self) -> None:
        """Accept one client. The next must wait a moment, so that programs that connect all the time cost little."""
        self._selector.unregister(self._listener)
        self._accept_at_s = time.monotonic() + ACCEPT_EVERY_SECONDS
        try:
            end, _ = self._listener.accept()
        except OSError:  # it has gone, or this process has no descriptor left
            return
        end.setblocking(False)
        client = _Client(end, time.monotonic())
        if peer_uid(end) not in (os.geteuid(), 0):
            reason = "other users than its own and root"
        elif len(self._clients) >= MOST_CLIENTS:
            reason = f"more than {MOST_CLIENTS} programs at once"
        else:
            with self._lock:
                self._clients.append(client)
            self._selector.register(end, selectors.EVENT_READ, client)
            return
        client.send(Refused(reason))
        end.close()

    def _read(self, client: _Client) -> bool:
        """Handle one message of a client; return False if the client has ended or must be disconnected."""
        try:
            data = client.socket.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        second = int(time.monotonic())
        client.messages = client.messages + 1 if client.second == second else 1
        client.second = second
        try:
            message = decode_to_line(data)
            if isinstance(message, AddMark):
                self.on_mark(message.mark)
            else:
                with self._lock:
                    self._handle(client, message)
            if client.messages > MOST_MESSAGES_PER_SECOND:
                raise ValueError(f"more than {MOST_MESSAGES_PER_SECOND} messages in a second")
        except (msgspec.MsgspecError, ValueError) as error:
            self._invalid.add()
            if count := self._invalid.due():
                what = format_count(count, "program")
                logger.warning(
                    "%s disconnected from the pictures for a message that is not valid; last: %s", what, error
                )
            return False
        return True

    def _handle(self, client: _Client, message: ToLine) -> None:
        match message:
            case Hello(version, slots, good_every, good_interval_ms) if client.slots == 0:
                if version != VERSION:
                    client.send(Refused(f"programs of picture version {version}; it knows version {VERSION}"))
                    raise ValueError(f"picture version {version}, this line knows {VERSION}")
                client.slots, client.good_every = slots, good_every
                client.good_interval_ns = good_interval_ms * 1_000_000
            case ReleaseSlot(generation, slot) if (generation, slot) in client.held:
                client.held.remove((generation, slot))
            case Report(state, counted) if client.slots:
                if not counted:  # the store holds what it held
                    state = replace(self._former, kept=state.kept, skipped=state.skipped, fault=state.fault)
                client.report = StoreReport(state, time.monotonic())
            case _:
                raise ValueError(f"{type(message).__name__} out of place")

    def _drop(self, client: _Client) -> None:
        with self._lock:
            self._clients.remove(client)
            if client.report is not None:
                # What it held when it ended is hardly stored.
                state, lost = client.report.state, client.skipped + len(client.held)
                kept, skipped = self._former.kept, self._former.skipped + lost
                self._former = _plus(replace(state, fault=None), kept=kept, skipped=skipped)
        self._selector.unregister(client.socket)
        client.socket.close()
        client.ring = None  # this thread may still name the client for a while


class _Content:
    """A picture as it is written to slots. Its parts are views; the pixels are copied once per client."""

    def __init__(self, event: VerdictEvent, outcome: Outcome, frame: Frame) -> None:
        self._event = np.frombuffer(header_of(event), np.uint8)
        self._rgb = to_rgb(frame.image, frame.pixel_format)
        self._is_mono = frame.camera_format.startswith("Mono")
        self._shape: tuple[int, ...] = self._rgb.shape[:2] if self._is_mono else self._rgb.shape
        self._evidence, self._judgement = None, outcome.shown
        if self._judgement is not None:
            assert outcome.setup is not None
            heatmap, tiles = self._judgement.heatmap, self._judgement.tiles
            scale = outcome.setup.scale
            self._evidence = EvidenceSize(
                (heatmap.shape[0], heatmap.shape[1]),
                outcome.setup.bundle.manifest.grid.heatmap_cell_px,
                (scale.low, scale.high),
                len(tiles.logits),
                tiles.tile_px,
            )
        pixels = self._shape[0] * self._shape[1] * (1 if self._is_mono else 3)
        self.layout = Layout.of(len(self._event), pixels, self._evidence)

    def write_to(self, ring: RingWriter, slot: int) -> None:
        ring.view(slot, self._event.shape)[:] = self._event
        if self._judgement is not None:
            heatmap, tiles = self._judgement.heatmap, self._judgement.tiles
            ring.view(slot, heatmap.shape, np.float32, self.layout.heatmap)[:] = heatmap
            ring.view(slot, tiles.origins_yx.shape, np.int32, self.layout.origins)[:] = tiles.origins_yx
            ring.view(slot, tiles.logits.shape, np.float32, self.layout.logits)[:] = tiles.logits
        image: NDArray[np.uint8] = ring.view(slot, self._shape, at=self.layout.image)
        if self._is_mono:  # its three channels are the same
            cv2.extractChannel(self._rgb, 0, image)
        else:
            image[:] = self._rgb

    def message(self, generation: int, slot: int) -> PictureReady:
        return PictureReady(generation, slot, len(self._event), self._shape, self._evidence)


def _plus(state: EvidenceState, *, kept: int = 0, skipped: int = 0) -> EvidenceState:
    return replace(state, kept=state.kept + kept, skipped=state.skipped + skipped)


def check_socket(path: Path) -> None:
    """Check that a line which does not run could serve its pictures.

    Raises:
        DeliveryError: it could not.
    """
    _bind(path).close()
    path.unlink()


def _bind(path: Path) -> socket.socket:
    make_private(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(MOST_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DeliveryError(f"pictures cannot be served at {path}: {error.strerror or error}") from error
    return listener
