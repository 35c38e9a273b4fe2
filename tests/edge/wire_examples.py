"""Messages of schema version 1 as they must stay readable for ever, and the bytes that are kept of them.

`python -m tests.edge.wire_examples` writes the files anew; only for a new schema version.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

from edge.delivery.messages import BundleName, HeatmapPng, Message, StatusEvent, Times, VerdictEvent, to_frames
from edge.geometry import Region
from edge.inspection.ledger import Account

DATA = Path(__file__).with_name("data")
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)
TIMES = Times(captured_at_ns=1_790_000_000_123_456_789, captured_monotonic_ns=987_654_321, camera_timestamp_ns=42)

DEFECT = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=7,
        camera="top",
        frame_id=9,
        source="board-é.png",
        part_id="part 12",
        times=TIMES,
        verdict="DEFECT",
        frame_score=3.25,
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="f32",
        bundle=BUNDLE,
        product="4711",
        journal_id="j1",
        regions=[Region((10, 20, 30, 44), [(10, 20), (10, 43), (29, 43), (29, 20)], 480, (14, 30), 9.5)],
        latency_ms=12.5,
        acting=True,
        heatmap=HeatmapPng(hw=(2, 3), cell_px=4, logit_at_0=-2.0, logit_at_255=10.25),
    ),
    b"\x89PNG\r\n\x1a\n as it came",
)
GOOD = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=1,
        camera="top",
        frame_id=1,
        times=Times(captured_at_ns=1, captured_monotonic_ns=2),
        verdict="GOOD",
        frame_score=-6.0,
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="f32",
        bundle=BUNDLE,
        latency_ms=0.0,
        acting=False,
    )
)
NO_VERDICT = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=8,
        camera="side-2",
        frame_id=3,
        times=TIMES,
        verdict="NO_VERDICT",
        reason="failed.unreadable",
        detail="x.png ends before its picture does (10 bytes); copy it again",
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="f32",
        bundle=BUNDLE,
        latency_ms=1.0,
        acting=True,
    )
)
STATUS = Message(
    StatusEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        at_ns=1_790_000_000_000_000_000,
        line="line1",
        state="STOPPED",
        last_seq=8,
        ledger={"top": Account(7, 5, {"overload": 1}, {}, 1), "side-2": Account(3, 2, {}, {"unreadable": 1}, 0)},
        bundle=BUNDLE,
        engine="openvino",
        precision="f32",
        acting=True,
    )
)
KEPT = {
    "verdict-defect-v1.bin": DEFECT,
    "verdict-good-v1.bin": GOOD,
    "no-verdict-v1.bin": NO_VERDICT,
    "status-v1.bin": STATUS,
}


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


if __name__ == "__main__":
    for name, message in KEPT.items():
        (DATA / name).write_bytes(pack(to_frames(message)))
