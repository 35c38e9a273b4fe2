"""The register map, one table that docs/plant-modbus.md explains field by field, and the registers as they are now.

Addresses are those of the protocol, from 0 on. A block that the bridge writes begins and ends with the same sequence
number: a reader in several requests, in the order of addresses, has read one state if both are equal.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from heatline.edge.bridge.line import EVALUATIONS, PART, result_of, unjournalled_results
from heatline.edge.config.bridges import WordOrder
from heatline.edge.errors import ConfigError, MessageError
from heatline.edge.wire.events import HandshakeState, JournalEvent, VerdictEvent
from heatline.edge.wire.following import Delivered

MAP_VERSION = 1
"""Counts up with every change of an address or of a meaning, once a release has this one."""
PART_ID_CHARACTERS = 64
"""As many as a trigger may name."""
MOST_CAMERAS = 100


@dataclass(frozen=True)
class Kind:
    """Type of a field: its name in IEC 61131-3, and how many registers it has."""

    name: str
    registers: int


UINT, UDINT, ULINT = Kind("UINT", 1), Kind("UDINT", 2), Kind("ULINT", 4)
TEXT = Kind(f"STRING[{PART_ID_CHARACTERS}]", PART_ID_CHARACTERS // 2)
"""ASCII, two characters a register."""
ID = Kind("ARRAY[0..7] OF WORD", 8)
"""16 bytes, two a register."""
Value = int | bytes
"""Bytes of TEXT and ID; they must fit."""
Values = Mapping[str, Value]
"""By the names of fields."""

BEGIN, END = "sequence_begin", "sequence_end"
"""Of a block that the bridge writes: another number after each change of the block. 0: never filled."""


class Block:
    """Fields at consecutive addresses.

    Args:
        prefix: of the fields' names in the PLC program.
        is_written: whether the PLC writes the block. Otherwise it only reads it, and sequence numbers enclose it.
    """

    def __init__(self, prefix: str, address: int, fields: Mapping[str, Kind], *, is_written: bool = False) -> None:
        self.prefix, self.address, self.is_written = prefix, address, is_written
        self.fields = fields if is_written else {BEGIN: UINT, **fields, END: UINT}
        self.addresses: dict[str, int] = {}
        for name, kind in self.fields.items():
            self.addresses[name] = address
            address += kind.registers
        self.end = address
        """The first address after the block."""


RESULT_FIELDS = {
    "verdict": UINT,
    "is_simulated": UINT,
    "reason": UINT,
    "product": UINT,
    "regions": UINT,
    "frames": UDINT,
    "frame_number": UDINT,
    "captured_s": UDINT,
    "captured_ms": UINT,
    "seq": ULINT,
    "journal_id": ID,
    "part_id_state": UINT,
    "part_id_length": UINT,
    "part_id": TEXT,
}
"""Fields of every result."""
ENTRY_FIELDS = {"kind": UINT, "number": UDINT, "acknowledged": UDINT, "camera": UINT}
MEASURED_FIELDS = {"tolerated": UINT, "extent_um": UDINT, "error_um": UDINT, "area_um2": ULINT}
"""Further fields of every result, at the end of its block."""
LINE = Block(
    "line",
    0,
    {
        "map_version": UINT,
        "heartbeat": UINT,
        "is_heard": UINT,
        "state": UINT,
        "state_reason": UINT,
        "is_simulated": UINT,
        "product": UINT,
        "products": UINT,
        "cameras": UINT,
        "boot_id": ID,
        "losses": UDINT,
    },
)
MAILBOX = Block(
    "result",
    100,
    {**ENTRY_FIELDS, **RESULT_FIELDS, "lost_after": ULINT, **MEASURED_FIELDS},
)
COMMANDS = Block(
    "plc",
    200,
    {
        "acknowledge": UDINT,
        "command": UINT,
        "camera": UINT,
        "product": UINT,
        "part_id_length": UINT,
        "part_id": TEXT,
    },
    is_written=True,
)
RESPONSE = Block(
    "response",
    250,
    {"busy": UINT, "command": UINT, "outcome": UINT, "camera": UINT, "product": UINT, "frame_number": UDINT},
)
FIRST_CAMERA_ADDRESS, CAMERA_STRIDE = 300, 100


def camera_block(place: int) -> Block:
    """Return the block of a camera, by its place in the line's file, from 1 on."""
    counters = dict.fromkeys(("captured", "inspected", "dropped", "failed", "in_flight"), UDINT)
    fields = {"state": UINT, "results": UDINT, **RESULT_FIELDS, **counters, **MEASURED_FIELDS}
    return Block(f"camera{place}", FIRST_CAMERA_ADDRESS + CAMERA_STRIDE * (place - 1), fields)


def register_map(cameras: int) -> list[Block]:
    """Return all blocks of a line with so many cameras, in the order of their addresses.

    Raises:
        ConfigError: the map has no room for so many.
    """
    if cameras > MOST_CAMERAS:
        raise ConfigError(f"the line has {cameras} cameras, and the register map has room for {MOST_CAMERAS}")
    return [LINE, MAILBOX, COMMANDS, RESPONSE, *map(camera_block, range(1, cameras + 1))]


def encode(kind: Kind, value: Value, order: WordOrder) -> list[int]:
    """Return a value as registers. Integers are modulo what the field can hold.

    >>> [hex(word) for word in encode(UDINT, 0x12345678, "high_first")]
    ['0x1234', '0x5678']
    >>> [hex(word) for word in encode(TEXT, b"P-1", "high_first")][:2]
    ['0x502d', '0x3100']
    """
    size = 2 * kind.registers
    data = (value % (1 << 8 * size)).to_bytes(size, "big") if isinstance(value, int) else value.ljust(size, b"\0")
    words = [data[at] << 8 | data[at + 1] for at in range(0, size, 2)]
    return words[::-1] if isinstance(value, int) and order == "low_first" else words


class RegisterBank:
    """Holds all registers. Only the thread of the server uses it, so that no request sees half a change."""

    def __init__(self, blocks: Sequence[Block], order: WordOrder) -> None:
        self._order: WordOrder = order
        self._words: dict[int, int] = {at: 0 for block in blocks for at in range(block.address, block.end)}
        self._written = {at for block in blocks if block.is_written for at in range(block.address, block.end)}
        """Addresses that a client may write."""
        self.on_write: list[Callable[[], None]] = []
        """What is called after each request that wrote registers."""

    def read(self, address: int, count: int) -> list[int] | None:
        """Return registers for a client; None: one of them does not exist."""
        words = [self._words[at] for at in range(address, address + count) if at in self._words]
        return words if len(words) == count else None

    def write(self, address: int, words: Sequence[int]) -> bool:
        """Write registers for a client, all or none; return whether all of them may be written."""
        if not self._written.issuperset(range(address, address + len(words))):
            return False
        self._words.update(enumerate(words, address))
        for listener in self.on_write:
            listener()
        return True

    def data(self, block: Block, name: str, order: WordOrder = "high_first") -> bytes:
        """Return the bytes of a field."""
        words = self.read(block.addresses[name], block.fields[name].registers) or []
        return b"".join(word.to_bytes(2, "big") for word in (words[::-1] if order == "low_first" else words))

    def number(self, block: Block, name: str) -> int:
        """Return the value of a field that is an integer."""
        return int.from_bytes(self.data(block, name, self._order), "big")

    def put(self, block: Block, values: Values) -> None:
        """Set fields of a block that the bridge writes, at once. If anything changes, so does the sequence number."""
        before = self.read(block.address, block.end - block.address)
        for name, value in values.items():
            self._words.update(enumerate(encode(block.fields[name], value, self._order), block.addresses[name]))
        if self.read(block.address, block.end - block.address) != before:
            sequence = self.number(block, BEGIN) % 65535 + 1  # 0 stays: never filled
            self._words[block.addresses[BEGIN]] = self._words[block.addresses[END]] = sequence


# Numbers that stand for words. They never change; 0 never means that all is well.

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
    "collecting": 7,
    "changing": 20,
    "camera_dead": 40,
    "frames_lost": 41,
    "precision": 42,
    "unjournalled": 43,
    "in_flight_not_logged": 44,
    "product_not_stored": 45,
    "evidence_not_stored": 46,
    "pictures_not_kept": 47,
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
    "failed.collecting": 28,
    "part.missing": 30,
    "part.view": 31,
    "part.changed": 32,
    "failed.frozen": 40,
    "failed.stale": 42,
    "failed.frame_ids": 43,
    "failed.silent": 44,
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
Command = IntEnum("Command", {"NONE": 0, "TRIGGER": 1, "SELECT": 2})
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


NO_RESULT: Values = {name: b"" if kind in (TEXT, ID) else 0 for name, kind in (RESULT_FIELDS | MEASURED_FIELDS).items()}
"""The values of the fields of a result while there is none: the verdict is undefined."""
NOTHING: Values = {**NO_RESULT, "kind": EntryKind.NONE, "number": 0, "camera": 0, "lost_after": 0}
"""The values of a mailbox that is empty, without `acknowledged`."""


@dataclass(frozen=True)
class IdMap:
    """Which number stands for a camera or a product: its place in the line's file, from 1 on."""

    cameras: Sequence[str]
    """At the end, the parts, if the line has any."""
    products: Sequence[str]

    @property
    def triggered(self) -> int:
        """How many cameras there are: parts cannot be triggered."""
        return len(self.cameras) - self.cameras.count(PART)


def place_of(name: str | None, names: Sequence[str]) -> int:
    """Return the place of a camera or product; 0: none, or the line's file does not name it."""
    return 0 if name is None or name not in names else names.index(name) + 1


def entry(kind: EntryKind, journal_id: str, seq: int, values: Values) -> Values:
    """Return the values of the mailbox, without `acknowledged`, for what it shows until it is acknowledged.

    The number by which the PLC acknowledges is the same whenever the entry is shown, and hardly ever another's: a PLC
    may write the number of an earlier entry again and again, also while this bridge or the line restarts.
    """
    number = (zlib.crc32(f"{kind.value} {journal_id}".encode()) + seq) % (2**32 - 1) + 1
    return {**NOTHING, "seq": seq, "journal_id": bytes.fromhex(journal_id), **values, "kind": kind, "number": number}


def result_values(event: VerdictEvent, places: IdMap) -> Values:
    """Return the values of the fields of a result. A part id is in its registers as a whole, or not at all."""
    captured_s, captured_ms = divmod(event.times.captured_at_ns // 1_000_000, 1000)
    part_id = event.part_id or ""
    fits = part_id.isascii() and len(part_id) <= PART_ID_CHARACTERS
    return {
        "verdict": EVALUATIONS[event.verdict],
        "is_simulated": int(not event.acting),
        "reason": 0 if event.reason is None else RESULT_REASONS.get(event.reason, OTHER),
        "product": place_of(event.product, places.products),
        "regions": min(len(event.regions), 65535),
        "frames": event.frames,
        "frame_number": event.frame_number,
        "captured_s": captured_s,
        "captured_ms": captured_ms,
        "seq": event.seq,
        "journal_id": bytes.fromhex(event.journal_id or ""),
        "part_id_state": 0 if event.part_id is None else 1 if fits else 2,
        "part_id_length": min(len(part_id), 65535),
        "part_id": part_id.encode() if fits else b"",
        "tolerated": min(event.tolerated, 65535),
        "extent_um": round(1000 * getattr(event.longest, "extent", 0)),
        "error_um": round(1000 * getattr(event.longest, "error", 0)),
        "area_um2": round(1e6 * getattr(event.longest, "area", 0)),
    }


def entry_of(delivered: Delivered, places: IdMap) -> Values | None:
    """Return what the mailbox shows for a journalled event; None: it is neither a result nor a loss."""
    id_ = delivered.journal_id, delivered.seq
    try:
        event = delivered.event
    except MessageError:  # of another version: it may be a result
        return entry(EntryKind.UNREADABLE, *id_, {})
    if (result := result_of(event)) is not None:
        camera = place_of(result.camera, places.cameras)
        return entry(EntryKind.RESULT, *id_, {**result_values(result, places), "camera": camera})
    if isinstance(event, JournalEvent) and (lost := unjournalled_results(event)) != 0:
        return entry(EntryKind.UNRECORDED, *id_, {"frames": lost or 0})
    return None
