"""The register map, one table from which the server and the symbol file are made, and the registers as they are now.

Addresses are those of the protocol, from 0 on. A block that the bridge writes begins and ends with the same sequence
number: a reader in several requests, in the order of addresses, has read one state if both are equal.
"""

import csv
import io
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from heatline.edge.bridge.line import EVALUATIONS, unjournalled_results
from heatline.edge.config import LineConfig
from heatline.edge.config.bridges import WordOrder
from heatline.edge.errors import ConfigError, EventsLostError, MessageError
from heatline.edge.wire.events import HandshakeState, JournalEvent, VerdictEvent
from heatline.edge.wire.following import Delivered

MAP_VERSION = 1
"""Counts up with every change of an address or of a meaning."""
PART_ID_CHARACTERS = 64
"""As many as a trigger may name."""
MOST_CAMERAS = 100

Value = int | str | bytes
Kind = Literal["UINT", "UDINT", "ULINT", "TEXT", "BYTES"]
"""IEC 61131-3's unsigned integers of 16, 32 and 64 bit; ASCII, two characters a register; bytes, two a register."""

BEGIN, END = "sequence_begin", "sequence_end"


@dataclass(frozen=True)
class Field:
    """One value in a block."""

    name: str
    kind: Kind
    meaning: str
    bytes: int = 0
    """Of TEXT and BYTES."""

    @property
    def registers(self) -> int:
        return {"UINT": 1, "UDINT": 2, "ULINT": 4}.get(self.kind) or self.bytes // 2

    @property
    def type(self) -> str:
        """In IEC 61131-3."""
        others = {"TEXT": f"STRING[{self.bytes}]", "BYTES": f"ARRAY[0..{self.registers - 1}] OF WORD"}
        return others.get(self.kind, self.kind)


class Block:
    """Fields at consecutive addresses.

    Args:
        prefix: of the fields' names in the PLC program.
        is_written: whether the PLC writes the block. Otherwise it only reads it, and sequence numbers enclose it.
    """

    def __init__(self, prefix: str, address: int, fields: Iterable[Field], *, is_written: bool = False) -> None:
        self.prefix, self.address, self.is_written = prefix, address, is_written
        if not is_written:
            begin = Field(
                BEGIN, "UINT", "Sequence number: another one after each change of this block. 0: never filled."
            )
            end = Field(END, "UINT", f"The same number. Differs from `{prefix}_{BEGIN}`: the read is torn; read again.")
            fields = [begin, *fields, end]
        self.fields: dict[str, Field] = {}
        self.addresses: dict[str, int] = {}
        for field in fields:
            self.fields[field.name], self.addresses[field.name] = field, address
            address += field.registers
        self.end = address
        """The first address after the block."""

    def name_of(self, field: str) -> str:
        """Return a field's name in the PLC program."""
        return f"{self.prefix}_{field}"


RESULT_FIELDS = (
    Field(
        "verdict", "UINT", "0 undefined, 1 OK (GOOD), 2 not OK (DEFECT), 3 not decidable (NO_VERDICT). Only 1 is good."
    ),
    Field("is_simulated", "UINT", "1: the line is being commissioned; do not act on the verdict."),
    Field("reason", "UINT", "Why there is no verdict ([codes](#why-there-is-no-verdict)); 0 for GOOD and DEFECT."),
    Field(
        "product", "UINT", "Product that the frame was inspected as: its place in the line's file, from 1 on; 0 none."
    ),
    Field("regions", "UINT", "Number of defects that were found."),
    Field("frames", "UDINT", "Number of frames that the result stands for; more than 1 only without a verdict."),
    Field(
        "frame_number", "UDINT", "The line's number of the frame, or of the first one, since its start; modulo 2^32."
    ),
    Field("captured_s", "UDINT", "When the frame was captured: UTC, s since 1970; 0 unknown."),
    Field("captured_ms", "UINT", "ms after `captured_s`."),
    Field("seq", "ULINT", "The event's number in its journal. With `journal_id` it is the result's id everywhere."),
    Field("journal_id", "BYTES", "The journal's id, 32 hexadecimal digits; all 0: no journal holds the event.", 16),
    Field("part_id_state", "UINT", "0 no part id, 1 complete, 2 too long for these registers, 3 not ASCII."),
    Field("part_id_length", "UINT", "Number of characters of the part id, also if the registers cannot hold it."),
    Field("part_id", "TEXT", "The part id. All 0 unless `part_id_state` is 1: it is never cut.", PART_ID_CHARACTERS),
)
"""Fields of every result."""

LINE = Block(
    "line",
    0,
    (
        Field("map_version", "UINT", f"Version of this map: {MAP_VERSION}. Do not use a map of another version."),
        Field(
            "heartbeat",
            "UINT",
            "Changes each second while the line is heard and inspects: 1 to 65535. Unchanged for 3 s: nothing is "
            "inspected, and no part is good.",
        ),
        Field("is_heard", "UINT", "1: the line's status came within the last 3 s."),
        Field("state", "UINT", "Whether parts may come: 1 READY, 2 BUSY, 3 DEGRADED, 4 NOT_READY; 0 unknown."),
        Field("state_reason", "UINT", "The most severe reason why not READY ([codes](#why-the-line-is-not-ready))."),
        Field("is_simulated", "UINT", "1: the line is being commissioned; do not act on its verdicts."),
        Field("product", "UINT", "The active product: its place in the line's file, from 1 on; 0 none or unknown."),
        Field("products", "UINT", "Number of products."),
        Field("cameras", "UINT", "Number of cameras."),
        Field("boot_id", "BYTES", "Id of this run of the line's service. If it changes, select the product again.", 16),
        Field("lag", "UDINT", "Number of events in the journal that this bridge has not acknowledged yet."),
        Field("losses", "UDINT", "Number of losses that the mailbox has shown since the bridge was started."),
    ),
)
MAILBOX = Block(
    "result",
    100,
    (
        Field(
            "kind", "UINT", "0 none, 1 a result, 2 results were lost, 3 results were not stored, 4 an unreadable one."
        ),
        Field("number", "UDINT", "Write this number to `plc_acknowledge` once the result is stored. 0: there is none."),
        Field("acknowledged", "UDINT", "The number that was acknowledged last; 0: none since the bridge was started."),
        Field("camera", "UINT", "The camera: its place in the line's file, from 1 on; 0 unknown."),
        *RESULT_FIELDS,
        Field("lost_after", "ULINT", "For kind 2: events after this one, up to `result_seq`, are lost."),
    ),
)
COMMANDS = Block(
    "plc",
    200,
    (
        Field("acknowledge", "UDINT", "The number of the result that is stored; the next result is shown."),
        Field("command", "UINT", "0 none, 1 trigger, 2 select, 3 acknowledge the first error."),
        Field("camera", "UINT", "Argument of 1: the camera, as in `result_camera`."),
        Field("product", "UINT", "Argument of 2: the product, as in `line_product`."),
        Field("part_id_length", "UINT", "Argument of 1: number of characters of the part id; 0: no part id."),
        Field("part_id", "TEXT", "Argument of 1: the part id, printable ASCII.", PART_ID_CHARACTERS),
    ),
    is_written=True,
)
RESPONSE = Block(
    "response",
    250,
    (
        Field("busy", "UINT", "1: a command is being executed."),
        Field("command", "UINT", "Echo of `plc_command` when it has ended; 0 again after the PLC has written 0."),
        Field(
            "outcome", "UINT", "How it ended ([codes](#how-a-command-ended)): 1 and 2 are success, 10 and more are not."
        ),
        Field("camera", "UINT", "Echo of `plc_camera`."),
        Field("product", "UINT", "Echo of `plc_product`."),
        Field("frame_number", "UDINT", "The frame that was triggered, as in `result_frame_number`; 0: none yet."),
        Field(
            "first_error", "UINT", "The first outcome from 10 on since the last acknowledgement; it stays until then."
        ),
        Field("first_error_command", "UINT", "The command that failed so."),
        Field("errors", "UINT", "Number of failed commands since the last acknowledgement, at most 65535."),
    ),
)
FIRST_CAMERA_ADDRESS, CAMERA_STRIDE = 300, 100


def camera_block(place: int) -> Block:
    """Return the block of a camera.

    Args:
        place: in the line's file, from 1 on.
    """
    return Block(
        f"camera{place}",
        FIRST_CAMERA_ADDRESS + CAMERA_STRIDE * (place - 1),
        (
            Field("state", "UINT", "1 OPENING, 2 LIVE, 3 IDLE, 4 DEAD, 5 ENDED; 0 unknown."),
            Field("results", "UDINT", "Number of results of this camera since the bridge was started; modulo 2^32."),
            *RESULT_FIELDS,
            Field("captured", "UDINT", "Frames that the camera announced since the line's start; modulo 2^32."),
            Field("inspected", "UDINT", "Frames judged GOOD or DEFECT."),
            Field("dropped", "UDINT", "Frames that were dropped before their inspection."),
            Field("failed", "UDINT", "Frames that could not be inspected."),
            Field("in_flight", "UDINT", "Frames in flight."),
        ),
    )


def register_map(cameras: int) -> list[Block]:
    """Return all blocks of a line with so many cameras, in the order of their addresses.

    Raises:
        ConfigError: the map has no room for so many.
    """
    if cameras > MOST_CAMERAS:
        raise ConfigError(f"the line has {cameras} cameras, and the register map has room for {MOST_CAMERAS}")
    return [LINE, MAILBOX, COMMANDS, RESPONSE, *map(camera_block, range(1, cameras + 1))]


def encode(field: Field, value: Value, order: WordOrder) -> list[int]:
    """Return a value as registers. Integers are modulo what the field can hold; text and bytes must fit.

    >>> [hex(word) for word in encode(Field("n", "UDINT", ""), 0x12345678, "high_first")]
    ['0x1234', '0x5678']
    >>> [hex(word) for word in encode(Field("id", "TEXT", "", 4), "P-1", "high_first")]
    ['0x502d', '0x3100']
    """
    size = 2 * field.registers
    if isinstance(value, int):
        data = (value % (1 << 8 * size)).to_bytes(size, "big")
    else:
        data = value.encode("ascii") if isinstance(value, str) else value
        assert len(data) <= size, f"{field.name} takes {size} bytes"
        data = data.ljust(size, b"\0")
    words = [data[at] << 8 | data[at + 1] for at in range(0, size, 2)]
    return words[::-1] if isinstance(value, int) and order == "low_first" else words


def decode(field: Field, words: Sequence[int], order: WordOrder) -> Value:
    """Return the value in registers: TEXT as Latin-1, with all of its bytes."""
    is_number = field.kind not in ("TEXT", "BYTES")
    data = b"".join(word.to_bytes(2, "big") for word in (words[::-1] if is_number and order == "low_first" else words))
    if is_number:
        return int.from_bytes(data, "big")
    return data.decode("latin-1") if field.kind == "TEXT" else data


class RegisterBank:
    """Holds all registers. Only the thread of the server uses it, so that no request sees half a change.

    Args:
        order: the order of the words of integers of more than 16 bit.
    """

    def __init__(self, blocks: Sequence[Block], order: WordOrder) -> None:
        self._order: WordOrder = order
        self._words: dict[int, int] = {at: 0 for block in blocks for at in range(block.address, block.end)}
        self._written = {at for block in blocks if block.is_written for at in range(block.address, block.end)}
        """Addresses that a client may write."""
        self._listeners: list[Callable[[], None]] = []

    def on_write(self, listener: Callable[[], None]) -> None:
        """Call a function after each request that wrote registers."""
        self._listeners.append(listener)

    def read(self, address: int, count: int) -> list[int] | None:
        """Return registers for a client; None: one of them does not exist."""
        words = [self._words[at] for at in range(address, address + count) if at in self._words]
        return words if len(words) == count else None

    def write(self, address: int, words: Sequence[int]) -> bool:
        """Write registers for a client, all or none; return whether all of them may be written."""
        if not self._written.issuperset(range(address, address + len(words))):
            return False
        self._words.update(enumerate(words, address))
        for listener in self._listeners:
            listener()
        return True

    def value(self, block: Block, name: str) -> Value:
        """Return the value of a field."""
        field, address = block.fields[name], block.addresses[name]
        return decode(field, self.read(address, field.registers) or [], self._order)

    def number(self, block: Block, name: str) -> int:
        """Return the value of a field that is an integer."""
        value = self.value(block, name)
        assert isinstance(value, int)
        return value

    def put(self, block: Block, values: Mapping[str, Value]) -> None:
        """Set fields of a block that the bridge writes, at once. If anything changes, so does the sequence number."""
        before = self.read(block.address, block.end - block.address)
        for name, value in values.items():
            self._words.update(enumerate(encode(block.fields[name], value, self._order), block.addresses[name]))
        if self.read(block.address, block.end - block.address) != before:
            sequence = self.number(block, BEGIN) % 65535 + 1  # 0 stays: never filled
            self._words[block.addresses[BEGIN]] = self._words[block.addresses[END]] = sequence


def symbol_file(cameras: Sequence[str]) -> str:
    """Return all registers of a line with these cameras as CSV for a PLC program: with semicolons, in ASCII."""
    out = io.StringIO()
    rows = csv.writer(out, delimiter=";", lineterminator="\r\n")
    rows.writerow(("Name", "Address", "Registers", "Type", "Access", "Comment"))
    names = {camera_block(place).prefix: f"Camera {name}: " for place, name in enumerate(cameras, 1)}
    for block in register_map(len(cameras)):
        access = "read/write" if block.is_written else "read"
        for field in block.fields.values():
            meaning = names.get(block.prefix, "") + _LINK.sub("", field.meaning)
            comment = meaning.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
            name, address = block.name_of(field.name), block.addresses[field.name]
            rows.writerow([name, address, field.registers, field.type, access, comment])
    return out.getvalue()


_PLAIN = str.maketrans({"`": None, ";": ",", '"': "'"})
"""No cell needs quotes, which not every PLC tool reads."""
_LINK = re.compile(r" \(\[[^\]]*\]\([^)]*\)\)")


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
