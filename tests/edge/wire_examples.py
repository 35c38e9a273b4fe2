"""Messages of schema version 2, read from golden files, which must stay readable as long as that is the version.

A file that exists never changes. A new example is `to_frames(message)` in a file with a new name, each frame after its
length as a little-endian uint32.
"""

import struct
from pathlib import Path

from heatline.edge.wire.events import from_frames
from heatline.edge.wire.following import (
    AckRequest,
    Batch,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Former,
    Reply,
    Request,
)
from heatline.edge.wire.requests import Refused

DATA = Path(__file__).with_name("data")


def unpack(data: bytes) -> list[bytes]:
    parts = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


JOURNAL, FORMER = "5a6c2b7f7e2e4b0d9f0b6f1a3c4d5e6f", "0123456789abcdef0123456789abcdef"

REQUESTS: dict[str, Request] = {
    "follow-v2.bin": FollowRequest(name="mes1", client="6ff3c0de"),
    "follow-topics-v2.bin": FollowRequest(
        name="MES-2_line.1",
        client="a client",
        window=1000,
        topics=("verdict.top.DEFECT", "alarm"),
        heatmaps=True,
        start="next",
    ),
    "ack-v2.bin": AckRequest(name="mes1", journal_id=JOURNAL, seq=10),
    "ack-keep-v2.bin": AckRequest(name="mes1", journal_id=JOURNAL, seq=10, keep_position=True),
    "forget-v2.bin": ForgetRequest(request_id="r2", name="mes1"),
}
REPLIES: dict[str, Reply] = {
    "following-v2.bin": Following(
        name="mes1", journal_id=JOURNAL, acked_seq=7, first_seq=3, last_seq=10, heartbeat_s=1.0
    ),
    "following-former-v2.bin": Following(
        name="mes1",
        journal_id=JOURNAL,
        acked_seq=0,
        first_seq=1,
        last_seq=10,
        heartbeat_s=0.5,
        former=Former(journal_id=FORMER, acked_seq=4711),
    ),
    "batch-v2.bin": Batch(journal_id=JOURNAL, after_seq=7, through_seq=11, last_seq=2**53 + 1, events=2),
    "batch-lost-v2.bin": Batch(journal_id=JOURNAL, after_seq=1, through_seq=11, last_seq=11, events=2, lost_through=4),
    "batch-empty-v2.bin": Batch(journal_id=JOURNAL, after_seq=11, through_seq=12, last_seq=12, events=0),
    "forgotten-v2.bin": Forgotten(request_id="r2", name="mes1"),
    "follow-refused-v2.bin": Refused(
        request_id="r1", reason="unavailable", detail="/x/journal.db cannot be read (disk I/O error); ask again"
    ),
}

GOLDEN_FRAMES = {
    file.name.removesuffix("-v2.bin"): unpack(file.read_bytes())
    for file in sorted(DATA.glob("*-v2.bin"))
    if file.name not in REQUESTS.keys() | REPLIES.keys()
}
GOLDEN = {name: from_frames(parts) for name, parts in GOLDEN_FRAMES.items()}

DEFECT, GOOD, NO_VERDICT = GOLDEN["verdict-defect"], GOLDEN["verdict-good"], GOLDEN["no-verdict"]
LOST, NO_FRAME = GOLDEN["no-verdict-lost"], GOLDEN["no-verdict-no-frame"]
STATUS, HANDSHAKE, JOURNAL_STATUS = GOLDEN["status"], GOLDEN["status-handshake"], GOLDEN["status-journal"]
ALARM, CHANGE, REFUSED_CHANGE = GOLDEN["alarm"], GOLDEN["change"], GOLDEN["change-refused"]
LIVE_ONLY = GOLDEN["journal-live-only"]
