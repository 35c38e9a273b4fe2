"""What durable consumers and a line say to each other. docs/durable.md is the authority, schemas/ its JSON Schemas.

A reply is one part, but a batch: its events follow as further parts, which `batch_parts` writes and `events_of` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.errors import MessageError
from edge.wire.events import Event, event_from
from edge.wire.requests import (
    SCHEMA_VERSION,
    UNREADABLE,
    BareRequest,
    IdentifiedRequest,
    Protocol,
    Refused,
    ShortText,
    refuse,
    require_printable,
    to_bytes,
)

LARGEST_WINDOW = 1000
CONSUMER_NAME = "^[A-Za-z0-9_.-]{1,64}$"

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(pattern=CONSUMER_NAME)]
JournalId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]
"""It becomes a part of file names."""
Topics = Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(min_length=1, max_length=64)]
Start = Literal["first", "next"]
Reason = Literal[
    "malformed",
    "version",
    "superseded",
    "too_many_consumers",
    "unavailable",
    "busy",
    "not_following",
    "not_sent",
    "other_journal",
    "unknown_consumer",
]
"""Why a request is refused. A reader must expect others: `Refused.reason` is any text."""


class FollowRequest(BareRequest, frozen=True, kw_only=True, tag="follow"):
    """Send the consumer of this name all events after the last that it acknowledged, and go on."""

    name: Name
    client: ShortText
    """Any text that no other client of the name has: the newest client of a name is the one that is served."""
    window: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] = 100
    """How many events may be on their way, unacknowledged."""
    topics: Topics = ("",)
    """Prefixes."""
    heatmaps: bool = False
    start: Start = "first"
    """Where a name that is new begins: with the oldest event that the journal holds, or with the next one."""

    def __post_init__(self) -> None:
        require_printable(name=self.name, client=self.client)


class AckRequest(BareRequest, frozen=True, kw_only=True, tag="ack"):
    """All events up to `seq` are done with. It is not answered."""

    name: Name
    journal_id: ShortText
    seq: Seq


class ForgetRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="forget"):
    """A consumer is no more: nothing is kept for it any longer."""

    name: Name


Request = FollowRequest | AckRequest | ForgetRequest


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer had got in the journal before."""

    journal_id: JournalId
    acked_seq: Seq


class Following(msgspec.Struct, frozen=True, kw_only=True, tag="following", tag_field="type"):
    """Batches follow, from the event after `acked_seq` on. Comes again when the line begins another journal."""

    schema_version: int = SCHEMA_VERSION
    name: str
    journal_id: JournalId
    acked_seq: Seq
    first_seq: Seq
    """The oldest event that the journal holds; 0 where it holds none."""
    last_seq: Seq
    """The newest one."""
    heartbeat_s: Annotated[float, Meta(gt=0, le=3600)]
    """A batch comes at least so often, if only an empty one."""
    former: Former | None = None
    """The journal that it followed before, until it has acknowledged something of this one; null: no other."""


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag="batch", tag_field="type"):
    """All events after `after_seq` up to `through_seq` that were asked for. Header and heatmap of each follow."""

    schema_version: int = SCHEMA_VERSION
    journal_id: JournalId
    after_seq: Seq
    through_seq: Seq
    last_seq: Seq
    """The newest event that the journal holds."""
    events: Annotated[int, Meta(ge=0, le=LARGEST_WINDOW)]
    """How many."""
    lost_through: Seq | None = None
    """Events after `after_seq` up to it are gone; null: none are."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, tag="forgotten", tag_field="type"):
    """The consumer is no more."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    name: str


Reply = Following | Batch | Forgotten | Refused


@dataclass(frozen=True)
class Delivered:
    """An event as it was journalled."""

    journal_id: str
    seq: int
    header: bytes
    """JSON in UTF-8."""
    png: bytes | None = None
    """Its heatmap, where it has one and heatmaps were asked for."""

    @property
    def key(self) -> str:
        """The same for the same event, whenever and however often it comes, and of no other."""
        return f"{self.journal_id}-{self.seq}"

    @property
    def event(self) -> Event:
        """The event, decoded.

        Raises:
            SchemaVersionError: it is of another schema version.
            MessageError: it is of an unknown type.
        """
        return event_from(self.header)

    @property
    def topic(self) -> str:
        """As it is published under.

        Raises:
            MessageError: its header does not say.
        """
        try:
            said = _topical.decode(self.header)
        except UNREADABLE as error:
            raise MessageError(f"event {self.key} does not say what it is: {error}") from error
        return f"verdict.{said.camera}.{said.verdict}" if said.type == "verdict" else said.type


class _Topical(msgspec.Struct):
    """What an event's topic is made of."""

    type: str
    camera: object = None
    verdict: object = None


class _Numbered(msgspec.Struct):
    """What every event in a journal has."""

    journal_id: JournalId
    seq: Seq


_numbered = msgspec.json.Decoder(_Numbered)
_topical = msgspec.json.Decoder(_Topical)

PROTOCOL: Protocol[Request, Reply] = Protocol(Request, Reply, "docs/durable.md")
request_from, reply_from = PROTOCOL.request_from, PROTOCOL.reply_from


def refusal(reason: Reason, detail: str, request_id: str | None = None) -> Refused:
    """The refusal of a request, for a reason that docs/durable.md has."""
    return refuse(reason, detail, request_id)


def batch_parts(batch: Batch, events: Sequence[tuple[bytes, bytes | None]]) -> list[bytes]:
    """The parts of a batch: itself, then each event's header and its heatmap, which may be an empty part."""
    parts = [to_bytes(batch)]
    for header, heatmap in events:
        parts += (header, heatmap or b"")
    return parts


def events_of(batch: Batch, parts: Sequence[bytes]) -> list[Delivered]:
    """The events in the parts of a batch.

    Raises:
        MessageError: they are not what its first part announces.
    """
    if len(parts) != 1 + 2 * batch.events:
        raise MessageError(f"a batch of {len(parts)} part(s) came, {batch.events} events have {1 + 2 * batch.events}")
    lost = batch.lost_through
    if batch.after_seq > batch.through_seq or (lost is not None and not batch.after_seq < lost <= batch.through_seq):
        raise MessageError(
            f"a batch after {batch.after_seq} up to {batch.through_seq} came, of which those up to {lost} are gone"
        )
    events = []
    before = batch.after_seq if lost is None else lost
    for header, heatmap in zip(parts[1::2], parts[2::2], strict=True):
        try:
            numbered = _numbered.decode(header)
        except UNREADABLE as error:
            raise MessageError(f"a batch came with a header that is no event: {error}") from error
        if numbered.journal_id != batch.journal_id or not before < numbered.seq <= batch.through_seq:
            raise MessageError(
                f"event {numbered.journal_id}-{numbered.seq} came after {before} in a batch up to "
                f"{batch.journal_id}-{batch.through_seq}"
            )
        before = numbered.seq
        events.append(Delivered(numbered.journal_id, numbered.seq, header, heatmap or None))
    return events
