"""Requests of durable consumers and replies to them. docs/durable.md is the authority, schemas/ has the JSON Schemas.

A reply has one part. Only a batch has more: its events, which `batch_parts` writes and `events_of` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import MessageError
from heatline.edge.wire.events import Event, event_from
from heatline.edge.wire.requests import (
    UNREADABLE,
    BareReply,
    BareRequest,
    IdentifiedReply,
    IdentifiedRequest,
    Protocol,
    Refused,
    ShortText,
    require_printable,
    to_bytes,
)

LARGEST_WINDOW = 1000
CONSUMER_NAME = r"^[A-Za-z0-9_.-]{1,64}(?!\n)$"

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(pattern=CONSUMER_NAME)]
JournalId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]
"""The id becomes part of file names."""
Topics = Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(min_length=1, max_length=64)]
Start = Literal["first", "next"]
Reason = Literal[
    "malformed",
    "version",
    "superseded",
    "unavailable",
    "busy",
    "not_following",
    "not_sent",
    "other_journal",
    "unknown_consumer",
]
"""Reasons for which a request is refused. A reader must expect others: `Refused.reason` is any text."""


class FollowRequest(BareRequest, frozen=True, kw_only=True, tag="follow"):
    """Send a consumer all events after the last one that it acknowledged, and continue with new events."""

    name: Name
    """The consumer's. A new name is registered, and from then on the journal retains events for it."""
    client: ShortText
    """Unique among the clients of the name, such as a UUID per start: only the newest client is served."""
    window: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] = 100
    """Number of events that may be in flight, unacknowledged."""
    topics: Topics = ("",)
    """Prefixes of topics; they replace those of an earlier request."""
    heatmaps: bool = False
    """Whether to send heatmaps."""
    start: Start = "first"
    """Where a new name begins: with the oldest event in the journal, or with the next event."""

    def __post_init__(self) -> None:
        require_printable(client=self.client)


class AckRequest(BareRequest, frozen=True, kw_only=True, tag="ack"):
    """Acknowledges all events up to `seq`. It has no reply."""

    name: Name
    """The consumer's, as it follows on this connection."""
    journal_id: ShortText
    """As in the batch."""
    seq: Seq
    """At most the `through_seq` of the last batch that was received."""
    keep_position: bool | msgspec.UnsetType = msgspec.UNSET  # not written if unset: older lines do not know it
    """Whether the line only sends more: the next follow request gets the same events again."""


class ForgetRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="forget"):
    """Remove a consumer: the journal retains no events for it any more."""

    name: Name
    """The consumer's. No client may be following under it."""


Request = FollowRequest | AckRequest | ForgetRequest


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """Position of a consumer in the journal before this one."""

    journal_id: JournalId
    """Its id."""
    acked_seq: Seq
    """The last event of it that was acknowledged; later ones cannot be delivered any more."""


class Following(BareReply, frozen=True, kw_only=True, tag="following"):
    """Batches follow, from the event after `acked_seq` on. The line sends it again when it begins another journal."""

    name: str
    journal_id: JournalId
    """The journal that is followed."""
    acked_seq: Seq
    """The events after this one follow; 0 in a journal that is new to the consumer."""
    first_seq: Seq
    """The oldest event that the journal holds; 0 if it holds none."""
    last_seq: Seq
    """The newest event that the journal counted."""
    heartbeat_s: Annotated[float, Meta(gt=0, le=3600)]
    """A batch comes at least this often, even an empty one."""
    former: Former | None = None
    """The journal that the consumer followed before, until it acknowledges an event of this one; null: none."""


class Batch(BareReply, frozen=True, kw_only=True, tag="batch"):
    """All requested events after `after_seq` up to `through_seq`. Header and heatmap of each follow as parts."""

    journal_id: JournalId
    """The journal that counts these events."""
    after_seq: Seq
    """The batch begins after this event; it is the `through_seq` of the batch before."""
    through_seq: Seq
    """The batch goes up to this event."""
    last_seq: Seq
    """The newest event in the journal."""
    events: Annotated[int, Meta(ge=0, le=LARGEST_WINDOW)]
    """Number of events in this batch."""
    lost_through: Seq | None = None
    """Events after `after_seq` up to this one were deleted; repeated until acknowledged. Null: none were."""


class Forgotten(IdentifiedReply, frozen=True, kw_only=True, tag="forgotten"):
    """The consumer was removed."""

    name: str


Reply = Following | Batch | Forgotten | Refused


@dataclass(frozen=True)
class Delivered:
    """A journalled event."""

    journal_id: str
    seq: int
    header: bytes
    """JSON in UTF-8."""
    png: bytes | None = None
    """Heatmap, if the event has one and the consumer requested heatmaps."""

    @property
    def key(self) -> str:
        """Idempotency key: the same whenever this event is delivered, and different for every other event."""
        return f"{self.journal_id}-{self.seq}"

    @property
    def event(self) -> Event:
        """The event, decoded; a SchemaVersionError if it has another version, a MessageError if of unknown type."""
        return event_from(self.header)

    @property
    def topic(self) -> str:
        """Topic of the event; a MessageError if the header does not contain what makes the topic."""
        try:
            header = msgspec.json.decode(self.header, type=_TopicFields)
        except UNREADABLE as error:
            raise MessageError(f"the header of event {self.key} has no topic: {error}") from error
        return f"verdict.{header.camera}.{header.verdict}" if header.type == "verdict" else header.type


class _TopicFields(msgspec.Struct):
    """Header fields that make the topic."""

    type: str
    camera: object = None
    verdict: object = None


class Numbered(msgspec.Struct):
    """Header fields of every journalled event, and its place."""

    journal_id: JournalId
    seq: Seq


PROTOCOL: Protocol[Request, Reply] = Protocol(Request, Reply, "docs/durable.md")
request_from, reply_from = PROTOCOL.request_from, PROTOCOL.reply_from


def batch_parts(batch: Batch, events: Sequence[tuple[bytes, bytes | None]]) -> list[bytes]:
    """Return the parts of a batch: the batch, then header and heatmap (which may be empty) of each event."""
    return [to_bytes(batch), *(part for header, heatmap in events for part in (header, heatmap or b""))]


def events_of(batch: Batch, parts: Sequence[bytes]) -> list[Delivered]:
    """Return the events in the parts of a batch, or raise a MessageError."""
    if len(parts) != 1 + 2 * batch.events:
        raise MessageError(
            f"a batch of {len(parts)} part(s) came, expected {1 + 2 * batch.events} for {batch.events} events"
        )
    events = []
    for header, heatmap in zip(parts[1::2], parts[2::2], strict=True):
        try:
            numbered = msgspec.json.decode(header, type=Numbered)
        except UNREADABLE as error:
            raise MessageError(f"a batch came with a header that is not an event: {error}") from error
        events.append(Delivered(numbered.journal_id, numbered.seq, header, heatmap or None))
    return events
