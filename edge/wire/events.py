"""Messages on the wire: topic, JSON header, optional PNG. docs/protocol.md is the authority, schemas/ its JSON Schemas.

Two functions are the whole border: `to_frames` turns a message into the parts that ZeroMQ sends, `from_frames` back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from edge.errors import MessageError, SchemaVersionError

SCHEMA_VERSION = 2
"""Counts up when a reader of the version before could misread a message. A reader refuses all other versions, and
ignores fields that it does not know."""
LARGEST_PART_BYTES = 64 << 20
"""A client hangs up on who sends it a larger one."""

Verdict = Literal["GOOD", "DEFECT", "NO_VERDICT"]


class Region(msgspec.Struct, frozen=True):
    """One defect area, in px of the frame."""

    box_xyxy: tuple[int, int, int, int]
    """Left, top, right, bottom; right and bottom are the first px outside."""
    contour_xy: list[tuple[int, int]]
    """Its outline, within one heatmap cell."""
    area_px: int
    peak_xy: tuple[int, int]
    """Where its evidence is highest."""
    score: float
    """The evidence there, in logits."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """When the frame was taken. Both host clocks are read at capture."""

    captured_at_ns: int
    """UTC, ns since 1970."""
    captured_monotonic_ns: int
    """The host's monotonic clock."""
    camera_timestamp_ns: int | None = None
    """The camera's own clock, where it has one."""


class BundleName(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle in force. The digest is the sha256 of its manifest."""

    name: str
    version: str
    digest: str


class HeatmapPng(msgspec.Struct, frozen=True, kw_only=True):
    """How to read the heatmap PNG that follows the header: grey 8 bit, linear between the two values, clipped."""

    hw: tuple[int, int]
    cell_px: int
    logit_at_0: float
    logit_at_255: float


class VerdictEvent(msgspec.Struct, frozen=True, kw_only=True, tag="verdict", tag_field="type"):
    """One frame's verdict, or why a run of frames has none. Scores and thresholds are logits; positions are px."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    seq: int
    camera: str
    frame_id: int | None
    """The camera's own number, which may wrap and begin again; null where no frame came."""
    last_frame_id: int | None = None
    """Of a run of frames, the last one's."""
    frame_number: int
    """The ledger's number of the frame, of a run the first one's: 1, 2, 3, ... per camera and boot."""
    frames: int = 1
    """How many frames this event stands for."""
    source: str | None = None
    """Where the frame came from, for cameras that replay files."""
    part_id: str | None = None
    """Of the part that the frame shows, where its trigger named one."""
    times: Times
    frame_hw: tuple[int, int] | None = None
    """Height and width of the frame, px, in which boxes and contours count; null where there is no verdict."""
    verdict: Verdict
    reason: str | None = None
    """Why there is no verdict: `KIND.REASON` as in the ledger; null for GOOD and DEFECT."""
    detail: str | None = None
    """The reason in words."""
    frame_score: float | None = None
    score_threshold: float
    evidence_threshold: float
    precision: str
    bundle: BundleName
    product: str | None = None
    """What the frame was inspected as, where the line has products."""
    journal_id: str | None = None
    """The journal that holds it and counts `seq`; null: none does, and `seq` counts such events of the boot."""
    previous_seq: int
    """`seq` of the event before it under its topic and in the same count; 0 if there is none."""
    regions: list[Region] = []
    latency_ms: float
    """From capture to the hand-over to the publisher."""
    acting: bool
    """False while a line is being commissioned: nobody's ejector may fire on this event."""
    heatmap: HeatmapPng | None = None
    chunks: dict[str, float] = {}
    """What the camera says of the frame itself, by the name of its chunk."""

    @property
    def topic(self) -> str:
        return f"verdict.{self.camera}.{self.verdict}"


class Account(msgspec.Struct, frozen=True):
    """One camera's frames since boot."""

    captured: int = 0
    inspected: int = 0
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    in_flight: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the bins add up to what was captured, and no frame is booked that never came."""
        booked = self.inspected + sum(self.dropped.values()) + sum(self.failed.values())
        return self.captured == booked + self.in_flight and self.in_flight >= 0


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """How a camera is. IDLE: it waits for a trigger and answers when it is asked."""

    state: Literal["OPENING", "LIVE", "IDLE", "DEAD", "ENDED"]
    reason: str | None = None
    """Why it is dead, one word."""
    detail: str | None = None
    since_at_ns: int
    """UTC, ns since 1970."""
    openings: int = 0
    """How often it was opened since the start."""
    counters: dict[str, int] = {}
    """What its transport counted since it was opened, as far as it tells."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How far events are counted, by topic, so that whoever listens to some topics alone sees what it missed."""

    journal_id: str | None = None
    """The journal in use; null while there is none."""
    journalled: dict[str, int] = {}
    """By topic: of events that the journal holds."""
    unjournalled: dict[str, int] = {}
    """By topic: of this boot's events that no journal holds."""


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer."""

    acked_seq: int
    """All up to it was acknowledged."""
    connected: bool
    seen_at_ns: int | None = None
    """When it was last heard of: UTC, ns since 1970."""


class JournalState(msgspec.Struct, frozen=True, kw_only=True):
    """How the journal is."""

    journal_id: str | None
    """Null: it cannot even be read."""
    first_seq: int = 0
    """The oldest event that it holds; 0 where it holds none."""
    last_seq: int = 0
    """The newest one."""
    size_bytes: int = 0
    live_only: str | None = None
    """Why events are not kept now, in words; null while they are."""
    unjournalled: int = 0
    """Events of this boot that no journal holds."""
    discarded: int = 0
    """Events that went, since this boot, before every durable consumer had got them."""
    consumers: dict[str, Consumer] = {}


State = Literal["STARTING", "RUNNING", "STOPPED"]
HandshakeState = Literal["READY", "BUSY", "DEGRADED", "NOT_READY"]


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the next part may come: what a PLC program waits for."""

    state: HandshakeState
    reason: str | None = None
    """The gravest of the reasons for which it is not READY, one word."""
    detail: str | None = None
    """All of them in words."""
    heartbeat: int
    """Counts frames that were judged and told, and where none come, probe tiles that went the same way: it stands still
    when inspection does."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the last reload or selection of a product."""

    change: Literal["reload", "select"]
    applied: bool
    """False: it was refused, and the setup before it is still in use."""
    detail: str | None = None
    """Why it was refused, in words."""
    at_ns: int
    """UTC, ns since 1970."""


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, tag="status", tag_field="type"):
    """What the service is doing, about once a second, and once at the end."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    at_ns: int
    """UTC, ns since 1970."""
    line: str
    state: State
    last_seq: int
    """The last event's seq, statuses not counted; 0 before the first."""
    ledger: dict[str, Account]
    cameras: dict[str, CameraState]
    bundle: BundleName
    engine: str
    precision: str
    acting: bool
    product: str | None = None
    """The product in force."""
    pid: int
    """Process id of the service."""
    handshake: Handshake
    last_change: Change | None = None
    """None before the first."""
    journal_id: str | None = None
    """The journal that `last_seq` counts in; null: it counts this boot's events that no journal holds."""
    counts: Counts
    journal: JournalState | None = None
    """None where the line keeps no journal."""
    refused: dict[str, int] = {}
    """What the sockets refused since the start, by socket and reason."""

    @property
    def topic(self) -> str:
        return "status"


class AlarmEvent(msgspec.Struct, frozen=True, kw_only=True, tag="alarm", tag_field="type"):
    """A camera died, or is back: told once each. While it is dead, nothing that it sees is inspected."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    seq: int
    at_ns: int
    """UTC, ns since 1970."""
    line: str
    camera: str
    alarm: str
    """What is wrong, one word."""
    detail: str
    active: bool
    """False: it is over."""
    began_at_ns: int
    """UTC, ns since 1970."""
    acting: bool
    product: str | None = None
    """The product in force."""
    journal_id: str | None = None
    previous_seq: int
    """`seq` of the event before it under its topic and in the same count; 0 if there is none."""

    @property
    def topic(self) -> str:
        return "alarm"


class ChangeEvent(msgspec.Struct, frozen=True, kw_only=True, tag="change", tag_field="type"):
    """A reload or a selection of a product is in force from the next frames on, or was refused."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    seq: int
    at_ns: int
    """UTC, ns since 1970."""
    line: str
    change: Literal["reload", "select"]
    applied: bool
    """False: it was refused, and the setup before it is still in use."""
    detail: str | None = None
    """Why it was refused, in words."""
    product: str | None
    """The product in force now."""
    bundle: BundleName
    """The bundle in force now."""
    acting: bool
    journal_id: str | None = None
    previous_seq: int
    """`seq` of the event before it under its topic and in the same count; 0 if there is none."""

    @property
    def topic(self) -> str:
        return "change"


class JournalEvent(msgspec.Struct, frozen=True, kw_only=True, tag="journal", tag_field="type"):
    """Something happened to the journal that whoever relies on it must know."""

    schema_version: int = SCHEMA_VERSION
    boot_id: str
    seq: int
    journal_id: str | None = None
    previous_seq: int
    """`seq` of the event before it under its topic and in the same count; 0 if there is none."""
    at_ns: int
    """UTC, ns since 1970."""
    line: str
    kind: str
    """`begun`: a new journal. `live_only`: from now on events are not kept. `recording`: they are again. `unrecorded`:
    the boot before told events that were not kept. `discarded`: events went that a durable consumer had not got."""
    detail: str
    events: int | None = None
    """How many events are meant; null where nobody knows."""
    by_topic: dict[str, int] = {}
    """The same by topic."""
    of_boot: str | None = None
    """Whose events are meant, where they were kept in no journal."""
    first_seq: int | None = None
    last_seq: int | None = None
    """Which events are meant."""
    consumers: list[str] = []
    """Who has not got them and never will."""

    @property
    def topic(self) -> str:
        return "journal"


Event = VerdictEvent | StatusEvent | AlarmEvent | ChangeEvent | JournalEvent
CountedEvent = VerdictEvent | AlarmEvent | ChangeEvent | JournalEvent
"""What has a `seq`, and is kept."""


@dataclass(frozen=True)
class Message:
    """An event and, where asked for, the heatmap as PNG."""

    event: Event
    png: bytes | None = None
    header: bytes | None = field(default=None, compare=False, repr=False)
    """The event as `header_of` has it, where that is known."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_version = msgspec.json.Decoder(msgspec.defstruct("_Version", [("schema_version", int)]))


def header_of(event: Event) -> bytes:
    """An event as JSON in UTF-8: what is journalled, and sent."""
    return _encoder.encode(event)


def event_from(header: bytes) -> Event:
    """The event in a header.

    Raises:
        SchemaVersionError: it is of another schema version.
        MessageError: it is not an event.
    """
    try:
        _require_known_version(header)
        event: Event = _decoder.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"a message came whose header is no event: {error}") from error
    return event


def to_frames(message: Message) -> list[bytes]:
    """The parts of a message: topic, JSON header, PNG if there is one."""
    parts = [message.event.topic.encode(), message.header or header_of(message.event)]
    return parts if message.png is None else [*parts, message.png]


def from_frames(parts: Sequence[bytes]) -> Message:
    """The message in these parts.

    Raises:
        MessageError: they are not a message of this schema version.
    """
    if len(parts) not in (2, 3):
        raise MessageError(f"a message of {len(parts)} part(s) came, expected topic, header and at most one picture")
    event = event_from(parts[1])
    if parts[0] != event.topic.encode():
        raise MessageError(f"a message came under topic {parts[0][:80]!r}, its header belongs under {event.topic!r}")
    has_png = isinstance(event, VerdictEvent) and event.heatmap is not None
    if has_png != (len(parts) == 3):
        raise MessageError(f"a message of {len(parts)} parts came, its header announces {3 if has_png else 2}")
    return Message(event, parts[2] if len(parts) == 3 else None)


def _require_known_version(header: bytes) -> None:
    version = _version.decode(header).schema_version  # type: ignore[attr-defined]
    if version != SCHEMA_VERSION:
        side = "this reader" if version > SCHEMA_VERSION else "the line that sent it"
        raise SchemaVersionError(
            f"an event of schema version {version} came, this reader knows version {SCHEMA_VERSION}; update {side}"
        )
