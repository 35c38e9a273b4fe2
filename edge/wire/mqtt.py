"""Payloads of the MQTT bridge, one JSON object each. docs/plant-mqtt.md is the authority, schemas/ has their schema."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.wire.events import (
    AlarmEvent,
    BundleName,
    ChangeEvent,
    HandshakeState,
    JournalEvent,
    ReviewEvent,
    State,
    VerdictEvent,
)

SCHEMA_VERSION = 1
"""Counts up when a reader of the version before could misread a payload. Readers ignore unknown fields."""

LostKind = Literal["deleted", "live_only", "recording", "unrecorded", "unreadable", "refused"]
"""`deleted`: the line deleted events before they were acknowledged, or began another journal. `live_only`, `recording`,
`unrecorded`: as in the journal event. `unreadable`: this version of the bridge does not know the event. `refused`: the
broker refuses the message for what it is, such as its size."""


def _payload(tag: str, event: type[msgspec.Struct], meaning: str, names: str, **own: Any) -> Any:
    """Return the struct of a payload.

    Args:
        event: its fields mean the same in the payload, if they have the same name.
        names: of the payload's fields, in order.
        own: types of the fields that are not the event's; with their default, if they have one.
    """
    fields: dict[str, Any] = {"schema_version": (int, SCHEMA_VERSION), "id": (str,), "line": (str,), "at": (str,)}
    for each in msgspec.structs.fields(event):
        default = msgspec.field(default=each.default, default_factory=each.default_factory)  # type: ignore[call-overload]  # one is none
        fields.setdefault(each.name, (each.type, *([] if each.required else [default])))
    fields |= own
    return msgspec.defstruct(
        f"{tag.title()}Payload",
        [(name, *fields[name]) for name in ("schema_version", "id", "line", *names.split())],
        namespace={"__doc__": meaning},
        module=__name__,
        frozen=True,
        kw_only=True,
        tag=tag,
        tag_field="type",
    )


ResultPayload = _payload(
    "result",
    VerdictEvent,
    "The verdict of a frame, or the reason why a run of frames has none. Scores and thresholds are in logits.",
    "camera evaluation verdict is_simulated captured_at camera_timestamp_ns part_id product frame_id last_frame_id "
    "frame_number frames source frame_hw reason detail score score_threshold evidence_threshold regions foreign_areas "
    "precision bundle latency_ms chunks picture pose heatmap boot_id journal_id seq",
    evaluation=(Annotated[int, Meta(ge=0, le=3)],),  # ResultEvaluationEnum of OPC 40001-101, never 0
    is_simulated=(bool,),
    captured_at=(str,),
    camera_timestamp_ns=(int | None, None),
    frame_id=(int | None, None),
    score=(float | None, None),
    journal_id=(str,),
)
LostPayload = _payload(
    "lost",
    JournalEvent,
    "Results that will not come, or may not.",
    "at kind detail events by_topic journal_id first_seq last_seq",
    kind=(LostKind,),
)
AlarmPayload = _payload(
    "alarm",
    AlarmEvent,
    "A camera died, or is back. While it is dead, nothing that it sees is inspected.",
    "at camera alarm detail active began_at is_simulated product",
    began_at=(str,),
    is_simulated=(bool,),
)
ChangePayload = _payload(
    "change",
    ChangeEvent,
    "A reload or a selection of a product was applied, or refused.",
    "at change applied detail product bundle is_simulated",
    is_simulated=(bool,),
)
ReviewPayload = _payload("review", ReviewEvent, "A person marked a verdict.", "at mark")


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


Payload: Any = ResultPayload | StatePayload | LostPayload | AlarmPayload | ChangePayload | ReviewPayload
