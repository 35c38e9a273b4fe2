"""Results and losses as values of the register map."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from heatline.edge.bridge.line import EVALUATIONS, unjournalled_results
from heatline.edge.bridge.modbus.codes import OTHER, RESULT_REASONS, EntryKind, PartIdState
from heatline.edge.bridge.modbus.encoding import Value
from heatline.edge.bridge.modbus.registers import MAILBOX, PART_ID_CHARACTERS, RESULT_FIELDS
from heatline.edge.bridge.result import result_of
from heatline.edge.config import LineConfig
from heatline.edge.errors import EventsLostError, MessageError
from heatline.edge.wire.events import JournalEvent, VerdictEvent
from heatline.edge.wire.following import Delivered

NO_RESULT: Mapping[str, Value] = {
    field.name: 0 if field.kind in ("UINT", "UDINT", "ULINT") else b"" for field in RESULT_FIELDS
}
"""The values of the fields of a result while there is none: the verdict is undefined."""
NOTHING: Mapping[str, Value] = {**NO_RESULT, "kind": EntryKind.NONE, "number": 0, "camera": 0, "lost_after": 0}
"""The values of a mailbox that is empty, without `acknowledged`."""
ID_BYTES = 16
_NS_PER_MS, _MS_PER_S = 1_000_000, 1000


@dataclass(frozen=True)
class IdMap:
    """Which number stands for a camera or a product: its place in the line's file, from 1 on."""

    cameras: Sequence[str]
    products: Sequence[str]

    @classmethod
    def of(cls, config: LineConfig) -> Self:
        return cls([camera.name for camera in config.cameras], [product.name for product in config.products])

    def camera(self, name: str) -> int:
        """Return a camera's place; 0: the file does not name it."""
        return _place(self.cameras, name)

    def product(self, name: str | None) -> int:
        """Return a product's place; 0: none, or the file does not name it."""
        return _place(self.products, name)


def _place(names: Sequence[str], name: str | None) -> int:
    return names.index(name) + 1 if name is not None and name in names else 0


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
        id_ = _id(self.journal_id, self.seq)
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
        **_id(event.journal_id, event.seq),
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
        result = result_of(delivered)
        event = delivered.event if result is None else result.event
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


def _id(journal_id: str | None, seq: int) -> dict[str, Value]:
    return {"seq": seq, "journal_id": b"" if journal_id is None else id_bytes(journal_id)}


def id_bytes(id_: str) -> bytes:
    """Return an id of 32 hexadecimal digits as bytes; heatline makes no other ones, which are all 0xff."""
    try:
        found = bytes.fromhex(id_)
    except ValueError:
        found = b""
    return found if len(found) == ID_BYTES else b"\xff" * ID_BYTES


assert NOTHING.keys() <= MAILBOX.fields.keys()
