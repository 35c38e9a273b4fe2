"""Payloads of the MQTT bridge, one JSON object each. docs/plant-mqtt.md is the authority, schemas/ has their schema."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.wire.events import (
    BundleName,
    ForeignArea,
    HandshakeState,
    HeatmapPng,
    Mark,
    Pose,
    Region,
    State,
    Verdict,
)

SCHEMA_VERSION = 1
"""Counts up when a reader of the version before could misread a payload. Readers ignore unknown fields."""

LostKind = Literal["deleted", "live_only", "recording", "unrecorded", "unreadable", "refused"]
"""`deleted`: the line deleted events before they were acknowledged, or began another journal. `live_only`, `recording`,
`unrecorded`: as in the journal event. `unreadable`: this version of the bridge does not know the event. `refused`: the
broker refuses the message for what it is, such as its size."""


class ResultPayload(msgspec.Struct, frozen=True, kw_only=True, tag="result", tag_field="type"):
    """The verdict of a frame, or the reason why a run of frames has none. Scores and thresholds are in logits."""

    schema_version: int = SCHEMA_VERSION
    id: str
    """Idempotency key: the same whenever this result comes again."""
    line: str
    camera: str
    evaluation: Annotated[int, Meta(ge=0, le=3)]
    """ResultEvaluationEnum of OPC 40001-101: 1 OK, 2 NotOK, 3 NotDecidable. Never 0."""
    verdict: Verdict
    is_simulated: bool
    """True while the line is being commissioned: nobody may act on this result."""
    captured_at: str
    """UTC, as in RFC 3339."""
    camera_timestamp_ns: int | None = None
    part_id: str | None = None
    product: str | None = None
    frame_id: int | None = None
    last_frame_id: int | None = None
    frame_number: int
    frames: int = 1
    """Number of frames that this result stands for."""
    source: str | None = None
    frame_hw: tuple[int, int] | None = None
    reason: str | None = None
    detail: str | None = None
    score: float | None = None
    score_threshold: float
    evidence_threshold: float
    regions: list[Region] = []
    foreign_areas: list[ForeignArea] = []
    precision: str
    bundle: BundleName
    latency_ms: float
    chunks: dict[str, float] = {}
    picture: str | None = None
    pose: Pose | None = None
    heatmap: HeatmapPng | None = None
    """Scale of the PNG under the topic of heatmaps; null: none is sent."""
    boot_id: str
    journal_id: str
    seq: int


class StatePayload(msgspec.Struct, frozen=True, kw_only=True, tag="state", tag_field="type"):
    """Whether parts may come. Retained. The last will of the bridge has the same fields."""

    schema_version: int = SCHEMA_VERSION
    line: str
    at: str | None = None
    """UTC, as in RFC 3339; null in the last will, whose time the broker alone knows."""
    online: bool
    """False: the bridge is not connected to the broker."""
    state: HandshakeState
    reason: str | None = None
    detail: str | None = None
    heartbeat: int
    """As the line counts it: it stops when inspection stops."""
    service: State | None = None
    """State of the line's service; null: no status came."""
    is_simulated: bool | None = None
    product: str | None = None
    bundle: BundleName | None = None
    cameras: dict[str, str] = {}
    """State of each camera."""
    boot_id: str | None = None
    delivery_fault: str | None = None
    """Why results wait at the line although the broker is connected; null: they do not."""


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What everything has that the line tells beside results."""

    schema_version: int = SCHEMA_VERSION
    id: str
    line: str
    at: str


class LostPayload(_Told, frozen=True, kw_only=True, tag="lost"):
    """Results that will not come, or may not."""

    kind: LostKind
    detail: str
    events: int | None = None
    """Number of events concerned; null if unknown."""
    by_topic: dict[str, int] = {}
    """Number of events concerned, by their topic in docs/protocol.md."""
    journal_id: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    """First and last `seq` of the events concerned; null if no journal counts them."""


class AlarmPayload(_Told, frozen=True, kw_only=True, tag="alarm"):
    """A camera died, or is back. While it is dead, nothing that it sees is inspected."""

    camera: str
    alarm: str
    detail: str
    active: bool
    began_at: str
    is_simulated: bool
    product: str | None = None


class ChangePayload(_Told, frozen=True, kw_only=True, tag="change"):
    """A reload or a selection of a product was applied, or refused."""

    change: Literal["reload", "select"]
    applied: bool
    detail: str | None = None
    product: str | None
    bundle: BundleName
    is_simulated: bool


class ReviewPayload(_Told, frozen=True, kw_only=True, tag="review"):
    """A person marked a verdict."""

    mark: Mark


Payload = ResultPayload | StatePayload | LostPayload | AlarmPayload | ChangePayload | ReviewPayload
