"""Makes the messages of the MQTT bridge from a line's events and its state.

Their topics are PREFIX/LINE/KIND, and below it the camera where one is concerned.
"""

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from heatline.edge.bridge.line import EVALUATIONS, LineState, time_at
from heatline.edge.errors import ConfigError, EventsLostError, MessageError, SchemaVersionError
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import AlarmEvent, ChangeEvent, JournalEvent, ReviewEvent, VerdictEvent
from heatline.edge.wire.following import Delivered
from heatline.edge.wire.mqtt import (
    AlarmPayload,
    ChangePayload,
    LostKind,
    LostPayload,
    ResultPayload,
    ReviewPayload,
    StatePayload,
)

JSON, PNG = "application/json", "image/png"
Kind = Literal["result", "heatmap", "state", "lost", "alarm", "change", "review"]
STATE_EXPIRES_SECONDS = 5
"""The broker then deletes a retained state: a bridge that hangs leaves none."""
_LEVEL = re.compile(r"[^+#/\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
"""A level of a topic: MQTT reserves `+`, `#` and `/`."""
_LOST = ("live_only", "recording", "unrecorded")
"""Journal events about events that no journal holds. A consumer that `discarded` concerns gets an `EventsLostError`."""
_OTHERS = {"schema_version", "line", "journal_id", "heatmap"}
"""Fields of events that mean something else in payloads."""


@dataclass(frozen=True)
class Publication:
    """A message that is published with QoS 1."""

    topic: str
    payload: bytes
    id: str | None = None
    """Idempotency key of its event, also sent as the user property `id`; None: it is a state."""
    content_type: str = JSON
    retain: bool = False
    expires_s: int | None = None
    """Seconds after which the broker no longer delivers it; None: never."""

    @property
    def size_bytes(self) -> int:
        """Upper bound on the size of its packet."""
        return len(self.payload) + len(self.topic.encode()) + len(self.id or "") + 200


class Messages:
    """Makes the messages of one line.

    Args:
        prefix: levels of the topics before the line's name.
        line: the line's name.
        heatmaps: whether results are followed by their heatmaps.
    Raises:
        ConfigError: the name cannot be a level of a topic.
    """

    def __init__(self, prefix: str, line: str, *, heatmaps: bool = False) -> None:
        if not _LEVEL.fullmatch(line):
            raise ConfigError(
                f"the line's name is {line!a}, which cannot be part of an MQTT topic; name its file without + and #, "
                "in UTF-8"
            )
        self._base, self._line, self._heatmaps = f"{prefix}/{line}", line, heatmaps

    def topic(self, kind: Kind, camera: str | None = None) -> str:
        """Return a topic."""
        return f"{self._base}/{kind}" if camera is None else f"{self._base}/{kind}/{camera}"

    def of(self, delivered: Delivered) -> list[Publication]:
        """Return the messages of a journalled event; none: the event concerns nobody in the plant.

        Raises:
            SchemaVersionError: the event is of another schema version.
        """
        try:
            event = delivered.event
        except SchemaVersionError:
            raise
        except MessageError as error:
            id_, seq = f"{delivered.key}-unreadable", delivered.seq
            return [self._lost(id_, "unreadable", str(error), delivered.journal_id, seq, seq, events=1)]
        match event:
            case VerdictEvent():
                return self._result(event, delivered)
            case AlarmEvent():
                more: dict[str, Any] = {"began_at": utc(event.began_at_ns), "is_simulated": not event.acting}
                return [self._told("alarm", AlarmPayload, delivered, event, **more)]
            case ChangeEvent():
                return [self._told("change", ChangePayload, delivered, event, is_simulated=not event.acting)]
            case ReviewEvent():
                return [self._told("review", ReviewPayload, delivered, event)]
            case JournalEvent() if event.kind in _LOST:
                return [self._told("lost", LostPayload, delivered, event)]
            case _:
                return []

    def lost(self, error: EventsLostError) -> Publication:
        """Return the message that events were deleted before this bridge got them."""
        first, last = error.after_seq + 1, max(error.through_seq, error.after_seq + 1)
        id_ = f"{error.journal_id}-lost-{error.after_seq}-{error.through_seq}"
        return self._lost(id_, "deleted", str(error), error.journal_id, first, last)

    def refused(self, publication: Publication, delivered: Delivered, why: str) -> Publication:
        """Return the message that the broker refuses a message for what it is."""
        kind = "heatmap" if publication.content_type == PNG else "message"
        detail = f"the broker does not take a {kind} of {len(publication.payload)} bytes on {publication.topic}: {why}"
        id_, seq = f"{publication.id}-refused-{kind}", delivered.seq
        return self._lost(id_, "refused", detail, delivered.journal_id, seq, seq)

    def state(self, line: LineState, fault: str | None) -> Publication:
        """Return the present state.

        Args:
            fault: why results wait although the broker is connected; None: they do not.
        """
        handshake, known = line.handshake(), dict[str, Any]()
        if (status := line.status) is not None:
            known = _same(StatePayload, status) | {
                "service": status.state,
                "is_simulated": not status.acting,
                "cameras": {name: camera.state for name, camera in status.cameras.items()},
            }
        known |= _same(StatePayload, handshake)
        payload = StatePayload(**known, line=self._line, at=now(), online=True, delivery_fault=fault)
        return Publication(self.topic("state"), encode_json(payload), retain=True, expires_s=STATE_EXPIRES_SECONDS)

    def offline(self, at: str | None = None) -> Publication:
        """Return the state after the end of the bridge.

        Args:
            at: time of its orderly end, RFC 3339; None: the broker publishes it when the bridge vanishes.
        """
        reason, detail = "bridge_stopped", "the bridge was stopped"
        if at is None:
            reason, detail = "bridge_lost", "the bridge has lost its connection to the broker"
        payload = StatePayload(
            line=self._line, at=at, online=False, state="NOT_READY", reason=reason, detail=detail, heartbeat=0
        )
        return Publication(self.topic("state"), encode_json(payload), retain=True)

    def _result(self, event: VerdictEvent, delivered: Delivered) -> list[Publication]:
        has_heatmap = self._heatmaps and delivered.png is not None
        payload = ResultPayload(
            id=delivered.key,
            line=self._line,
            evaluation=EVALUATIONS[event.verdict],
            is_simulated=not event.acting,
            captured_at=utc(event.times.captured_at_ns),
            camera_timestamp_ns=event.times.camera_timestamp_ns,
            score=event.frame_score,
            heatmap=event.heatmap if has_heatmap else None,
            journal_id=delivered.journal_id,
            **_same(ResultPayload, event),
        )
        made = [Publication(self.topic("result", event.camera), encode_json(payload), delivered.key)]
        if has_heatmap and delivered.png is not None:
            made.append(Publication(self.topic("heatmap", event.camera), delivered.png, delivered.key, PNG))
        return made

    def _told(
        self, kind: Kind, payload: type[msgspec.Struct], delivered: Delivered, event: Any, **more: Any
    ) -> Publication:
        made = payload(id=delivered.key, line=self._line, at=utc(event.at_ns), **_same(payload, event), **more)
        return Publication(self.topic(kind), encode_json(made), delivered.key)

    def _lost(
        self, id_: str, kind: LostKind, detail: str, journal_id: str, first: int, last: int, events: int | None = None
    ) -> Publication:
        made = LostPayload(
            id=id_,
            line=self._line,
            at=now(),
            kind=kind,
            detail=detail,
            events=events,
            journal_id=journal_id,
            first_seq=first,
            last_seq=last,
        )
        return Publication(self.topic("lost"), encode_json(made), id_)


def _same(payload: type[msgspec.Struct], event: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of an event that its payload has, too."""
    both = set(payload.__struct_fields__) & set(event.__struct_fields__) - _OTHERS
    return {name: getattr(event, name) for name in both}


def utc(at_ns: int) -> str:
    """Return a time as RFC 3339 writes it.

    >>> utc(1_790_000_000_123_456_789)
    '2026-09-21T14:13:20.123456Z'
    """
    return time_at(at_ns).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now() -> str:
    """Return the present time as RFC 3339 writes it."""
    return utc(time.time_ns())
