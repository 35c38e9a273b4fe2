"""Messages of schema version 1 as they must stay readable for ever, and the bytes that are kept of them.

`python -m tests.edge.wire_examples` writes the files that are not there yet. Those that are there are what older lines
sent: they are never written anew.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.cameras.state import CameraState
from edge.delivery.messages import (
    AlarmEvent,
    BundleName,
    Change,
    ChangeEvent,
    Consumer,
    Counts,
    Handshake,
    HeatmapPng,
    JournalEvent,
    JournalState,
    Message,
    StatusEvent,
    Times,
    VerdictEvent,
    to_frames,
)
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
PART = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=9,
        camera="top",
        frame_id=65535,
        frame_number=131070,
        part_id="P-1",
        times=TIMES,
        frame_hw=(1250, 1600),
        verdict="GOOD",
        frame_score=-6.0,
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="bf16",
        bundle=BUNDLE,
        latency_ms=40.0,
        acting=True,
        chunks={"ExposureTime": 800.25},
    )
)
LOST = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=10,
        camera="top",
        frame_id=1,
        last_frame_id=3,
        frame_number=131071,
        frames=3,
        times=TIMES,
        verdict="NO_VERDICT",
        reason="dropped.lost_by_camera",
        detail="the camera counted it and it never arrived",
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="bf16",
        bundle=BUNDLE,
        latency_ms=1.0,
        acting=True,
    )
)
NO_FRAME = Message(
    VerdictEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=11,
        camera="top",
        frame_id=None,
        frame_number=131074,
        part_id="P-2",
        times=TIMES,
        verdict="NO_VERDICT",
        reason="dropped.no_frame",
        detail="no frame came within 300 ms of its trigger",
        score_threshold=1.5,
        evidence_threshold=4.125,
        precision="bf16",
        bundle=BUNDLE,
        latency_ms=0.5,
        acting=True,
    )
)
CAMERAS = Message(
    StatusEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        at_ns=1_790_000_000_000_000_000,
        line="line1",
        state="RUNNING",
        last_seq=12,
        ledger={"top": Account(131074, 131070, {"lost_by_camera": 3, "no_frame": 1}, {}, 0), "side": Account()},
        cameras={
            "top": CameraState(
                state="IDLE", since_at_ns=1_789_999_999_000_000_000, openings=2, counters={"resent_packets": 7}
            ),
            "side": CameraState(
                state="DEAD", reason="open", detail="it is not there", since_at_ns=1_789_999_998_000_000_000
            ),
        },
        bundle=BUNDLE,
        engine="openvino",
        precision="bf16",
        acting=True,
    )
)
ALARM = Message(
    AlarmEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=12,
        at_ns=1_789_999_998_000_000_100,
        line="line1",
        camera="side",
        alarm="open",
        detail="it is not there",
        active=True,
        began_at_ns=1_789_999_998_000_000_000,
        acting=True,
    )
)
PRODUCT_ALARM = Message(msgspec.structs.replace(ALARM.event, active=False, product="4711"))
HANDSHAKE = Message(
    StatusEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        at_ns=1_790_000_002_000_000_000,
        line="line1",
        state="RUNNING",
        last_seq=14,
        ledger={"top": Account(131080, 131076, {"lost_by_camera": 3, "no_frame": 1}, {}, 0), "side": Account()},
        cameras={
            "top": CameraState(state="LIVE", since_at_ns=1_790_000_001_500_000_000, openings=3),
            "side": CameraState(
                state="DEAD", reason="open", detail="it is not there", since_at_ns=1_789_999_998_000_000_000
            ),
        },
        bundle=BUNDLE,
        engine="openvino",
        precision="bf16",
        acting=True,
        product="4711",
        pid=4242,
        handshake=Handshake(
            state="DEGRADED", reason="camera_dead", detail="camera side is dead: it is not there", heartbeat=131090
        ),
        last_change=Change(
            change="reload",
            in_force=False,
            detail="boards.bundle: model.onnx was changed or damaged",
            at_ns=1_790_000_001_900_000_000,
        ),
    )
)
CHANGE = Message(
    ChangeEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=13,
        at_ns=1_790_000_001_000_000_000,
        line="line1",
        change="select",
        in_force=True,
        product="4711",
        bundle=BUNDLE,
        acting=True,
    )
)
REFUSED_CHANGE = Message(
    ChangeEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=14,
        at_ns=1_790_000_001_900_000_000,
        line="line1",
        change="reload",
        in_force=False,
        detail="boards.bundle: model.onnx was changed or damaged",
        product=None,
        bundle=BUNDLE,
        acting=False,
    )
)
JOURNAL_ID = "00112233445566778899aabbccddeeff"
JOURNALLED = Message(msgspec.structs.replace(GOOD.event, seq=1_000_001, journal_id=JOURNAL_ID, previous_seq=999_998))
JOURNALLED_ALARM = Message(msgspec.structs.replace(ALARM.event, seq=1_000_002, journal_id=JOURNAL_ID, previous_seq=0))
JOURNALLED_CHANGE = Message(msgspec.structs.replace(CHANGE.event, seq=1_000_003, journal_id=JOURNAL_ID, previous_seq=9))
JOURNAL_STATUS = Message(
    msgspec.structs.replace(
        HANDSHAKE.event,
        last_seq=2,
        counts=Counts(
            journal_id=JOURNAL_ID,
            journalled={"alarm": 1_000_002, "verdict.top.GOOD": 1_000_001},
            unjournalled={"journal": 1, "verdict.top.GOOD": 2},
        ),
        journal=JournalState(
            journal_id=JOURNAL_ID,
            first_seq=17,
            last_seq=1_000_002,
            size_bytes=2**30,
            live_only="the disk is full",
            unjournalled=2,
            discarded=16,
            consumers={"mes1": Consumer(acked_seq=999_999, connected=False, seen_at_ns=1_789_999_999_000_000_000)},
        ),
        refused={"events.auth": 3},
    )
)
LIVE_ONLY = Message(
    JournalEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=1,
        previous_seq=0,
        at_ns=1_790_000_003_000_000_000,
        line="line1",
        what="live_only",
        detail="the disk is full",
    )
)
DISCARDED = Message(
    JournalEvent(
        boot_id="0123456789abcdef0123456789abcdef",
        seq=1_000_004,
        journal_id=JOURNAL_ID,
        previous_seq=4,
        at_ns=1_790_000_004_000_000_000,
        line="line1",
        what="discarded",
        detail="the journal is full",
        events=2,
        by_topic={"verdict.top.GOOD": 2},
        of_boot=None,
        first_seq=15,
        last_seq=16,
        consumers=["mes1"],
    )
)
KEPT = {
    "verdict-defect-v1.bin": DEFECT,
    "verdict-good-v1.bin": GOOD,
    "no-verdict-v1.bin": NO_VERDICT,
    "status-v1.bin": STATUS,
    # With cameras that are devices.
    "verdict-part-v1.bin": PART,
    "no-verdict-lost-v1.bin": LOST,
    "no-verdict-no-frame-v1.bin": NO_FRAME,
    "status-cameras-v1.bin": CAMERAS,
    "alarm-v1.bin": ALARM,
    # With products and a handshake.
    "status-handshake-v1.bin": HANDSHAKE,
    "alarm-product-v1.bin": PRODUCT_ALARM,
    "change-v1.bin": CHANGE,
    "change-refused-v1.bin": REFUSED_CHANGE,
    # With a journal.
    "verdict-journalled-v1.bin": JOURNALLED,
    "alarm-journalled-v1.bin": JOURNALLED_ALARM,
    "change-journalled-v1.bin": JOURNALLED_CHANGE,
    "status-journal-v1.bin": JOURNAL_STATUS,
    "journal-live-only-v1.bin": LIVE_ONLY,
    "journal-discarded-v1.bin": DISCARDED,
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
        if not (DATA / name).exists():
            (DATA / name).write_bytes(pack(to_frames(message)))
