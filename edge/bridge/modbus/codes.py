"""Results and losses as values of registers, and the numbers that stand for words there.

The numbers never change; 0 never means that all is well.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from heatline.edge.bridge.line import EVALUATIONS, unjournalled_results
from heatline.edge.bridge.modbus.registers import PART_ID_CHARACTERS, RESULT_FIELDS, Value
from heatline.edge.config import LineConfig
from heatline.edge.errors import EventsLostError, MessageError
from heatline.edge.wire.events import HandshakeState, JournalEvent, VerdictEvent
from heatline.edge.wire.following import Delivered

OTHER = 65535
"""A word that this table does not have: of a newer line."""

HANDSHAKE_STATES: Mapping[HandshakeState, int] = {"READY": 1, "BUSY": 2, "DEGRADED": 3, "NOT_READY": 4}
HANDSHAKE_REASONS: Mapping[str, int] = {
    "starting": 1,
    "stopping": 2,
    "stalled": 3,
    "no_camera": 4,
    "stopped": 5,
    "unreachable": 6,
    "changing": 20,
    "camera_dead": 40,
    "frames_lost": 41,
    "precision": 42,
    "unjournalled": 43,
    "in_flight_not_logged": 44,
    "product_not_stored": 45,
    "evidence_not_stored": 46,
}
"""Reasons of the handshake, and what a bridge adds while the line is silent."""
RESULT_REASONS: Mapping[str, int] = {
    "dropped.overload": 1,
    "dropped.deadline": 2,
    "dropped.lost_by_camera": 3,
    "dropped.no_frame": 4,
    "dropped.changeover": 5,
    "dropped.stopped": 6,
    "dropped.crashed": 7,
    "failed.incomplete": 20,
    "failed.unreadable": 21,
    "failed.wrong_size": 22,
    "failed.wrong_colour": 23,
    "failed.implausible": 24,
    "failed.engine": 25,
    "failed.foreign_area": 26,
    "failed.misaligned": 27,
    "failed.frozen": 40,
    "failed.clock": 41,
    "failed.stale": 42,
    "failed.frame_ids": 43,
    "failed.silent": 44,
    "failed.unreachable": 45,
    "failed.unresponsive": 46,
    "failed.process": 47,
    "failed.broken": 48,
    "failed.open": 49,
}
"""Why a frame has no verdict."""
CAMERA_STATES: Mapping[str, int] = {"OPENING": 1, "LIVE": 2, "IDLE": 3, "DEAD": 4, "ENDED": 5}


# LOST: results were deleted before the PLC acknowledged them, or their journal was replaced. UNRECORDED: the line could
# not store them, and sent them live only. UNREADABLE: this bridge does not understand them.
EntryKind = IntEnum("EntryKind", {"NONE": 0, "RESULT": 1, "LOST": 2, "UNRECORDED": 3, "UNREADABLE": 4})
"""What the mailbox shows."""
PartIdState = IntEnum("PartIdState", {"NONE": 0, "COMPLETE": 1, "TOO_LONG": 2, "NOT_ASCII": 3})
"""Whether the registers hold the part id. They are 0 if they cannot hold all of it."""
Command = IntEnum("Command", {"NONE": 0, "TRIGGER": 1, "SELECT": 2, "ACKNOWLEDGE_ERROR": 3})
"""What the PLC requests."""
Outcome = IntEnum(
    "Outcome",
    {
        "NONE": 0,
        "DONE": 1,
        "ANNOUNCED": 2,
        "UNKNOWN_COMMAND": 10,
        "UNKNOWN_CAMERA": 11,
        "UNKNOWN_PRODUCT": 12,
        "BAD_PART_ID": 13,
        "NOT_RESET": 14,
        "NO_COMMANDS": 15,
        "NO_REPLY": 16,
        "NO_ACCESS": 17,
        "LINE_UNKNOWN_CAMERA": 20,
        "LINE_UNKNOWN_PRODUCT": 21,
        "LINE_NOT_TRIGGERED": 22,
        "LINE_BUSY": 23,
        "LINE_CAMERA_DEAD": 24,
        "LINE_NO_FRAME": 25,
        "LINE_UNUSABLE": 26,
        "LINE_STOPPING": 27,
        "LINE_FAULT": 28,
        "LINE_OTHER": 29,  # for a reason that this table does not have
    },
)
"""How a command ended. From 10 on, it failed; from 20 on, the line refuses it."""


def refusal(reason: str | None) -> Outcome:
    """Return the outcome of a command that the line refuses, for a reason of docs/commands.md."""
    return Outcome.__members__.get(f"LINE_{reason}".upper(), Outcome.LINE_OTHER)


NO_RESULT: Mapping[str, Value] = {
    field.name: 0 if field.kind in ("UINT", "UDINT", "ULINT") else b"" for field in RESULT_FIELDS
}
"""The values of the fields of a result while there is none: the verdict is undefined."""
NOTHING: Mapping[str, Value] = {**NO_RESULT, "kind": EntryKind.NONE, "number": 0, "camera": 0, "lost_after": 0}
"""The values of a mailbox that is empty, without `acknowledged`."""
_NS_PER_MS, _MS_PER_S = 1_000_000, 1000


@dataclass(frozen=True)
class IdMap:
    """Which number stands for a camera or a product: its place in the line's file, from 1 on."""

    cameras: Sequence[str]
    products: Sequence[str]

    @classmethod
    def of(cls, config: LineConfig) -> "IdMap":
        return cls([camera.name for camera in config.cameras], [product.name for product in config.products])

    def camera(self, name: str) -> int:
        """Return a camera's place; 0: the file does not name it."""
        return self.cameras.index(name) + 1 if name in self.cameras else 0

    def product(self, name: str | None) -> int:
        """Return a product's place; 0: none, or the file does not name it."""
        return 0 if name is None or name not in self.products else self.products.index(name) + 1


@dataclass(frozen=True)
class Entry:
    """What the mailbox shows until it is acknowledged."""

    kind: EntryKind
    journal_id: str
    seq: int
    values: Mapping[str, Value]
    """Further fields of the mailbox."""

    @property
    def number(self) -> int:
        """The number by which the PLC acknowledges: the same whenever the entry is shown, and hardly ever another's.

        A PLC may write the number of an earlier entry again and again, also while this bridge or the line restarts.
        """
        return (zlib.crc32(f"{self.kind.value} {self.journal_id}".encode()) + self.seq) % (2**32 - 1) + 1

    def registers(self) -> dict[str, Value]:
        """Return the values of the mailbox, without `acknowledged`."""
        id_: Mapping[str, Value] = {"seq": self.seq, "journal_id": id_bytes(self.journal_id)}
        return {**NOTHING, **id_, **self.values, "kind": self.kind, "number": self.number}


def result_values(event: VerdictEvent, places: IdMap) -> dict[str, Value]:
    """Return the values of the fields of a result."""
    captured_ms = event.times.captured_at_ns // _NS_PER_MS
    state, part_id = part_id_registers(event.part_id)
    return {
        "verdict": EVALUATIONS[event.verdict],
        "is_simulated": int(not event.acting),
        "reason": 0 if event.reason is None else RESULT_REASONS.get(event.reason, OTHER),
        "product": places.product(event.product),
        "regions": min(len(event.regions), 65535),
        "frames": event.frames,
        "frame_number": event.frame_number,
        "captured_s": captured_ms // _MS_PER_S,
        "captured_ms": captured_ms % _MS_PER_S,
        "seq": event.seq,
        "journal_id": id_bytes(event.journal_id or ""),
        "part_id_state": state,
        "part_id_length": min(len(event.part_id or ""), 65535),
        "part_id": part_id,
    }


def part_id_registers(part_id: str | None) -> tuple[PartIdState, str]:
    """Return a part id as far as registers can hold it: all of it, or nothing and why.

    >>> part_id_registers("P-1")
    (<PartIdState.COMPLETE: 1>, 'P-1')
    >>> part_id_registers("Prüfling")
    (<PartIdState.NOT_ASCII: 3>, '')
    """
    if part_id is None:
        return PartIdState.NONE, ""
    if not part_id.isascii():
        return PartIdState.NOT_ASCII, ""
    if len(part_id) > PART_ID_CHARACTERS:
        return PartIdState.TOO_LONG, ""
    return PartIdState.COMPLETE, part_id


def entry_of(delivered: Delivered, places: IdMap) -> Entry | None:
    """Return what the mailbox shows for a journalled event; None: it is neither a result nor a loss."""
    id_ = delivered.journal_id, delivered.seq
    try:
        event = delivered.event
    except MessageError:  # of another version: it may be a result
        return Entry(EntryKind.UNREADABLE, *id_, {})
    if isinstance(event, VerdictEvent):
        return Entry(EntryKind.RESULT, *id_, {**result_values(event, places), "camera": places.camera(event.camera)})
    if isinstance(event, JournalEvent) and (lost := unjournalled_results(event)) != 0:
        return Entry(EntryKind.UNRECORDED, *id_, {"frames": lost or 0})
    return None


def lost_entry(lost: EventsLostError) -> Entry:
    """Return what the mailbox shows for events that were deleted."""
    return Entry(EntryKind.LOST, lost.journal_id, lost.through_seq, {"lost_after": lost.after_seq})


def id_bytes(id_: str) -> bytes:
    """Return an id of up to 32 hexadecimal digits as bytes; heatline makes no other ones, which are all 0xff."""
    try:
        return bytes.fromhex(id_[:32])
    except ValueError:
        return b"\xff" * 16
