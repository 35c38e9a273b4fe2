"""Receives pictures from a running line."""

import contextlib
import math
import os
import select
import socket
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from heatline.edge.errors import DeliveryError
from heatline.edge.monitor.channel import (
    MAX_MESSAGE_BYTES,
    VERSION,
    AddMark,
    Hello,
    Layout,
    NewRing,
    PictureReady,
    Refused,
    ReleaseSlot,
    Report,
    ToClient,
    ToLine,
    decode_to_client,
    encode,
    peer_uid,
)
from heatline.edge.monitor.picture import Evidence, Picture, TileScores
from heatline.edge.util.ring import RingReader
from heatline.edge.wire.events import EvidenceState, VerdictEvent
from heatline.edge.wire.marks import Mark

_decode_event = msgspec.json.Decoder(VerdictEvent).decode


class PictureClient:
    """A connection to a line's pictures. One thread uses it; any thread may release pictures.

    The line sends a picture only while this program holds fewer than `slots`; others it skips and counts. So a slow
    program gets fewer pictures, never old ones, and never delays the line.

    Args:
        path: the line's socket, see `picture_socket`.
        slots: number of pictures that this program can hold at once, 1 to 16.
        good_every: of the GOOD frames of each camera, send each n-th; 0: none. Frames with another verdict are always
            wanted.
        good_interval_ms: least time between the captures of two GOOD frames of a camera that are sent.
    Raises:
        DeliveryError: the line does not run, or this user may not connect.
    """

    def __init__(self, path: Path, *, slots: int = 1, good_every: int = 1, good_interval_ms: int = 0) -> None:
        self._socket = _connect(path)
        self._ring: RingReader | None = None
        self._generation = 0
        with contextlib.suppress(ConnectionError):  # it has refused this program; `receive` gives the reason
            self._send(Hello(VERSION, slots, good_every, good_interval_ms))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a picture waits, or the line has ended."""
        return self._socket.fileno()

    def receive(self, timeout_s: float | None) -> Picture | None:
        """Return the next picture; None if none came in time.

        Raises:
            DeliveryError: the line has ended.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while poll.poll(None if timeout_s is None else timeout_s * 1e3):
            message, fd = self._receive()
            match message:
                case NewRing(generation, slots, slot_bytes) if fd is not None:
                    self._ring, self._generation = RingReader(fd, slots, slot_bytes), generation
                case PictureReady() if self._ring is not None:
                    return self._picture(message, self._ring)
                case Refused(reason):
                    raise DeliveryError(f"the line refuses {reason}")
                case _:
                    raise DeliveryError("the line sent what this version does not know; update this program")
        return None

    def report(self, state: EvidenceState, *, counted: bool = True) -> None:
        """Send the line this program's state, which its status then shows.

        The recorder reports as soon as it is connected, and then about once a second: a line that hears nothing for
        some seconds says in its status that no pictures are stored.

        Args:
            counted: whether it is known what the store holds; if not, the line goes on to show what it knew before.
        """
        with contextlib.suppress(OSError):  # `receive` then says that the line has ended
            self._send(Report(state, counted))

    def close(self) -> None:
        """Close the connection. Pictures that were received can still be read."""
        self._socket.close()

    def _send(self, message: ToLine) -> None:
        self._socket.send(encode(message), socket.MSG_NOSIGNAL)

    def _receive(self) -> tuple[ToClient, int | None]:
        try:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
            except ConnectionResetError:  # raised once if the line ended with unread messages; its own messages follow
                data, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
            if data:
                return decode_to_client(data), (fds[0] if fds else None)
        except OSError:
            pass
        except msgspec.MsgspecError as error:
            raise DeliveryError("the line sent what this version does not know; update this program") from error
        raise DeliveryError("the line has ended")

    def _picture(self, ready: PictureReady, ring: RingReader) -> Picture:
        slot, size = ready.slot, ready.evidence
        layout = Layout.of(ready.event_bytes, math.prod(ready.image_shape), size)
        event = _decode_event(ring.view(slot, (ready.event_bytes,)).data)
        evidence = None
        if size is not None:
            tiles = TileScores(
                ring.view(slot, (size.tiles, 2), np.int32, layout.origins),
                ring.view(slot, (size.tiles,), np.float32, layout.logits),
                size.tile_px,
            )
            heatmap = ring.view(slot, size.heatmap_hw, np.float32, layout.heatmap)
            evidence = Evidence(heatmap, size.cell_px, size.scale, tiles)
        released = [ReleaseSlot(ready.generation, slot)]

        def release() -> None:
            with contextlib.suppress(OSError, IndexError):  # the line has ended, or it was released before
                self._send(released.pop())

        return Picture(event, ring.view(slot, ready.image_shape, at=layout.image), evidence, release)


def send_mark(path: Path, mark: Mark) -> None:
    """Send a line a mark. That it is journalled is known once its review event comes.

    Raises:
        DeliveryError: the line does not run, or this user may not connect.
    """
    with contextlib.closing(_connect(path)) as to_line, contextlib.suppress(ConnectionError):
        to_line.send(encode(AddMark(mark)), socket.MSG_NOSIGNAL)


def _connect(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        found.connect(os.fspath(path))
        if os.geteuid() not in (peer_uid(found), 0):
            raise DeliveryError(f"the program at {path} is another user's; expected a line of this user")
    except OSError as error:
        found.close()
        raise DeliveryError(
            f"there are no pictures at {path} ({error.strerror or error}); check that the line runs, and that this "
            "user is the line's user or root"
        ) from error
    except DeliveryError:
        found.close()
        raise
    return found
