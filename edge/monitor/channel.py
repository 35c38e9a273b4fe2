"""Messages between a line and the programs that get its pictures: one per packet of a Unix socket, as MessagePack.

The event, the heatmap, the tiles and the pixels of a picture lie in shared memory, as `Layout` says.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from heatline.edge.wire.events import EvidenceState
from heatline.edge.wire.marks import Mark

VERSION = 1
MAX_MESSAGE_BYTES = 1 << 16
MOST_SLOTS = 16
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""
_ALIGNED_TO = 64
"""Arrays begin at multiples of a cache line."""

Count = Annotated[int, Meta(ge=0, le=1 << 31)]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Hello(_Message, frozen=True):
    """The first message of a client: how many pictures it can hold, and which it wants."""

    version: int
    slots: Annotated[int, Meta(ge=1, le=MOST_SLOTS)]
    good_every: Count
    good_interval_ms: Count = 0


class ReleaseSlot(_Message, frozen=True):
    """The client does not use a picture any more."""

    generation: int
    slot: int


class Report(_Message, frozen=True):
    """The state of the evidence store."""

    state: EvidenceState
    counted: bool
    """Whether it is known what the store holds; if not, the state does not say it."""


class AddMark(_Message, frozen=True):
    """A person marked a verdict. A program that sends nothing else needs no `Hello`."""

    mark: Mark


class Refused(_Message, frozen=True):
    """The line ends the connection, for a reason that completes the sentence `the line refuses ...`."""

    reason: str


class NewRing(_Message, frozen=True):
    """Memory of the pictures from now on; its descriptor comes with the message."""

    generation: int
    slots: int
    slot_bytes: int


class PictureReady(_Message, frozen=True):
    """A picture lies in a slot."""

    generation: int
    slot: int
    event_bytes: int
    image_shape: tuple[int, ...]
    evidence: "EvidenceSize | None"


class EvidenceSize(msgspec.Struct, frozen=True, array_like=True):
    """What a picture's heatmap and tiles need to be read."""

    heatmap_hw: tuple[int, int]
    cell_px: int
    scale: tuple[float, float]
    tiles: int
    tile_px: int


ToLine = Hello | ReleaseSlot | Report | AddMark
ToClient = Refused | NewRing | PictureReady

encode = msgspec.msgpack.Encoder().encode
decode_to_line = msgspec.msgpack.Decoder(ToLine).decode
decode_to_client = msgspec.msgpack.Decoder(ToClient).decode


@dataclass(frozen=True)
class Layout:
    """Where the parts of a picture begin in its slot, bytes: first the event as JSON, then these."""

    heatmap: int
    origins: int
    logits: int
    image: int
    size: int

    @classmethod
    def of(cls, event_bytes: int, image_bytes: int, evidence: EvidenceSize | None) -> "Layout":
        """Return the layout of a picture."""
        cells = 0 if evidence is None else evidence.heatmap_hw[0] * evidence.heatmap_hw[1]
        tiles = 0 if evidence is None else evidence.tiles
        heatmap = _aligned(event_bytes)
        origins = _aligned(heatmap + 4 * cells)
        logits = _aligned(origins + 8 * tiles)
        image = _aligned(logits + 4 * tiles)
        return cls(heatmap, origins, logits, image, _aligned(image + image_bytes))


def peer_uid(end: socket.socket) -> int:
    """Return the user of the program at the other end of a Unix socket."""
    uid: int = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return uid


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNED_TO) * _ALIGNED_TO
