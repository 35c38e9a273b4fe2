"""Messages of schema version 2, from golden bytes that must stay readable while that is the version.

A file that exists is never written again. A new example is `pack(to_frames(message))` in a file with a new name.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from edge.wire.events import from_frames

DATA = Path(__file__).with_name("data")


def pack(parts: Sequence[bytes]) -> bytes:
    """The parts of a message in one file, each after its length in 4 bytes, the lowest first."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(data: bytes) -> list[bytes]:
    parts = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


KEPT_PARTS = {
    name: unpack((DATA / f"{name}-v2.bin").read_bytes())
    for name in (
        *("verdict-defect", "verdict-good", "no-verdict", "status"),
        # With cameras that are devices.
        *("verdict-part", "no-verdict-lost", "no-verdict-no-frame", "status-cameras", "alarm"),
        # With products and a handshake.
        *("status-handshake", "alarm-product", "change", "change-refused"),
        # With a journal.
        *("verdict-journalled", "alarm-journalled", "change-journalled", "status-journal"),
        *("journal-live-only", "journal-discarded"),
    )
}
KEPT = {name: from_frames(parts) for name, parts in KEPT_PARTS.items()}

DEFECT, GOOD, NO_VERDICT = KEPT["verdict-defect"], KEPT["verdict-good"], KEPT["no-verdict"]
LOST, NO_FRAME = KEPT["no-verdict-lost"], KEPT["no-verdict-no-frame"]
STATUS, HANDSHAKE, JOURNAL_STATUS = KEPT["status"], KEPT["status-handshake"], KEPT["status-journal"]
ALARM, CHANGE, REFUSED_CHANGE = KEPT["alarm"], KEPT["change"], KEPT["change-refused"]
LIVE_ONLY = KEPT["journal-live-only"]
