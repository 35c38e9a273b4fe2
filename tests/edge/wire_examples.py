"""Messages of schema version 2, read from golden files, which must stay readable as long as that is the version.

A file that exists never changes. A new example is `pack(to_frames(message))` in a file with a new name.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from heatline.edge.wire.events import from_frames

DATA = Path(__file__).with_name("data")


def pack(parts: Sequence[bytes]) -> bytes:
    """Return a message's frames as one file: before each frame comes its length as a little-endian uint32."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(data: bytes) -> list[bytes]:
    parts = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


GOLDEN_FRAMES = {
    name: unpack((DATA / f"{name}-v2.bin").read_bytes())
    for name in (
        *("verdict-defect", "verdict-good", "no-verdict", "status"),
        # With cameras that are devices.
        *("verdict-part", "no-verdict-lost", "no-verdict-no-frame", "status-cameras", "alarm"),
        # With products and a handshake.
        *("status-handshake", "alarm-product", "change", "change-refused"),
        # With a journal.
        *("verdict-journalled", "alarm-journalled", "change-journalled", "status-journal"),
        "journal-live-only",
        # With an evidence store and a page.
        *("verdict-picture", "status-evidence", "no-verdict-area"),
        # With a reference.
        "no-verdict-pose",
        # With drift.
        *("drift", "status-drift"),
        # With a person's mark.
        "review",
    )
}
GOLDEN = {name: from_frames(parts) for name, parts in GOLDEN_FRAMES.items()}

DEFECT, GOOD, NO_VERDICT = GOLDEN["verdict-defect"], GOLDEN["verdict-good"], GOLDEN["no-verdict"]
LOST, NO_FRAME = GOLDEN["no-verdict-lost"], GOLDEN["no-verdict-no-frame"]
STATUS, HANDSHAKE, JOURNAL_STATUS = GOLDEN["status"], GOLDEN["status-handshake"], GOLDEN["status-journal"]
ALARM, CHANGE, REFUSED_CHANGE = GOLDEN["alarm"], GOLDEN["change"], GOLDEN["change-refused"]
DRIFT = GOLDEN["drift"]
LIVE_ONLY = GOLDEN["journal-live-only"]
