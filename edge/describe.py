"""Describes events and the state of a line for people, and events as rows of a table. All commands say it this way."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from heatline.edge.util.text import format_count, is_are
from heatline.edge.wire.events import (
    AlarmEvent,
    BundleName,
    Change,
    ChangeEvent,
    Consumer,
    DriftEvent,
    Event,
    EvidenceState,
    JournalEvent,
    JournalState,
    PartAccount,
    PartEvent,
    ReviewEvent,
    Screened,
    ShadowState,
    StatusEvent,
    StepEvent,
    VerdictEvent,
)

WELL = "begun", "recording"
"""Kinds of journal events after which events are stored."""
COLOURS = {"GOOD": "green", "DEFECT": "red", "NO_VERDICT": "yellow"}
DATE_TIME = "%Y-%m-%d %H:%M:%S"
Cell = str | int | float | None
COLUMNS = (
    *("seq", "journal_id", "journalled_at", "happened_at", "type", "topic", "camera", "frame_id", "frame_number"),
    *("frames", "part_id", "verdict", "frame_score", "score_threshold", "regions", "peak_x", "peak_y", "what"),
    *("detail", "product", "bundle", "bundle_version", "precision", "latency_ms", "acting", "boot_id", "source"),
    *("extent_mm", "area_mm2", "error_mm", "tolerated"),
)
"""The columns of `columns_of`. docs/journal.md describes them. New ones come at the end."""


class EventText(NamedTuple):
    """An event in words."""

    camera: str
    subject: str
    """The frame with its part, or what else the event is about."""
    what: str
    """The verdict, or what has happened."""
    detail: str
    colour: str
    """Of a terminal: what must be seen is red or yellow."""


def describe_event(event: Event) -> EventText:
    """Describe an event of any kind."""
    match event:
        case VerdictEvent():
            colour = COLOURS[event.verdict]
            return EventText(event.camera, _describe_frame(event), event.verdict, _describe_verdict(event), colour)
        case AlarmEvent() | DriftEvent():
            what, colour = (event.alarm, "red") if isinstance(event, AlarmEvent) else (event.measure, "yellow")
            state, colour = ("active", colour) if event.active else ("over", "green")
            return EventText(event.camera, "", f"{what} {state}", event.detail, colour)
        case ChangeEvent():
            by = "" if event.by is None else f", by {event.by}"
            if event.applied:
                active = describe_active(event.product, event.bundle)
                return EventText("", "", f"{event.change} applied", active + by, "green")
            return EventText("", "", f"{event.change} refused", (event.detail or "") + by, "red")
        case JournalEvent():
            return EventText("", "", event.kind, event.detail, "green" if event.kind in WELL else "red")
        case ReviewEvent():
            mark = event.mark
            return EventText(mark.camera, "", mark.kind, f"{mark.picture}, by {mark.by}", "default")
        case PartEvent():
            detail = event.detail or f"{format_count(len(event.views), 'picture')}, {event.latency_ms:.0f} ms"
            return EventText("", event.part_id or "", f"part {event.verdict}", detail, COLOURS[event.verdict])
        case StepEvent():
            by = "" if event.by is None else f", by {event.by}"
            return EventText("", "", event.step, event.detail + by, "default")
        case StatusEvent():
            return EventText("", "status", event.state, describe_state(event), "default")


def happened_at_ns(event: Event) -> int:
    """Return when a frame was captured, or another event happened: UTC, ns since 1970."""
    return event.times.captured_at_ns if isinstance(event, VerdictEvent) else event.at_ns


def columns_of(event: Event, seq: int, topic: str, journalled_at_ns: int) -> list[Cell]:
    """Return a journalled event as a row, in the order of `COLUMNS`. A cell that does not apply is empty."""
    cells: dict[str, Cell] = {name: getattr(event, name, None) for name in COLUMNS}
    cells |= {"seq": seq, "topic": topic, "type": topic.partition(".")[0], "journalled_at": utc(journalled_at_ns)}
    cells["happened_at"] = utc(happened_at_ns(event))
    if (acting := cells["acting"]) is not None:
        cells["acting"] = str(acting).lower()
    if isinstance(event, VerdictEvent | DriftEvent | ChangeEvent | PartEvent):
        cells |= {
            f"bundle{end}": getattr(event.bundle, of, None) for end, of in (("", "name"), ("_version", "version"))
        }
    xy: Sequence[int] = ()
    if isinstance(event, VerdictEvent):
        cells |= {"regions": len(event.regions), "what": event.reason, "detail": event.description}
        xy = event.regions[0].peak_xy if event.regions else ()
        if (mm := event.longest) is not None:
            cells |= {"extent_mm": mm.extent, "area_mm2": mm.area, "error_mm": mm.error}
    else:
        told = describe_event(event)
        cells |= {"camera": told.camera or None, "what": told.what}
    if isinstance(event, StepEvent | PartEvent):
        cells["detail"] = told.detail
    if isinstance(event, ReviewEvent):
        cells |= {"verdict": event.mark.verdict, "detail": told.detail}
        boxes = [(x + width // 2, y + height // 2) for x, y, width, height in event.mark.boxes_xywh]
        places = [*event.mark.at_xy, *boxes, *(stroke.points_xy[0] for stroke in event.mark.strokes)]
        xy = places[0] if places else ()
    cells |= dict(zip(("peak_x", "peak_y"), xy, strict=False))
    return [cells[name] for name in COLUMNS]


def describe_bundle(bundle: BundleName | None) -> str:
    if bundle is None:
        return "none (the line collects pictures)"
    return f"{bundle.name} {bundle.version} ({bundle.digest[:12]})"


def describe_active(product: str | None, bundle: BundleName | None) -> str:
    """Describe the active product and bundle."""
    prefix = "" if product is None else f"product {product}, "
    return f"{prefix}bundle {describe_bundle(bundle)}"


def describe_change(change: Change) -> str:
    at = local_time(change.at_ns, DATE_TIME) + ("" if change.by is None else f" by {change.by}")
    if change.applied:
        return f"{change.change}, active since {at}"
    return f"{change.change}, refused at {at}: {change.detail}"


def describe_state(event: StatusEvent) -> str:
    """Describe whether a line is ready for the next part, the active product, and what keeps it from working."""
    handshake = event.handshake
    reason = "" if handshake.reason is None else f" ({handshake.reason})"
    product = "" if event.product is None else f", product {event.product}"
    page = "" if event.web is None or event.web.fault is None else f"the page is not served: {event.web.fault}"
    return "\n".join(filter(None, [f"{handshake.state}{reason}{product}", handshake.detail, page]))


def describe_frames(event: StatusEvent, camera: str) -> str:
    """Describe a camera and the account of its frames as a sum."""
    account, state = event.ledger[camera], event.cameras.get(camera)
    reason = f" ({state.reason})" if state is not None and state.reason is not None else ""
    return (
        f"{'' if state is None else f'{state.state}{reason}; '}"
        f"captured {account.captured} = inspected {account.inspected} + dropped {sum(account.dropped.values())} "
        f"+ failed {sum(account.failed.values())} + in flight {account.in_flight}"
    )


def describe_journal(journal: JournalState) -> str:
    """Describe the journal's contents, and whether events are stored now."""
    if journal.journal_id is None:
        contents = "it cannot be read"
    elif not journal.first_seq:
        contents = f"no event, up to {journal.last_seq}"
    else:
        contents = f"events {journal.first_seq} to {journal.last_seq}, {journal.size_bytes / 2**20:.1f} MiB"
    return _join(
        [
            f"{journal.journal_id or 'none'}: {contents}",
            f"NOT STORED NOW ({journal.live_only})" if journal.live_only is not None else "",
            f"{format_count(journal.unjournalled, 'event')} of this run {is_are(journal.unjournalled)} not in it"
            if journal.unjournalled
            else "",
            f"{journal.discarded} were deleted before all durable consumers had received them"
            if journal.discarded
            else "",
        ]
    )


def describe_evidence(evidence: EvidenceState) -> str:
    """Describe what the evidence store holds, and whether pictures are stored now."""
    oldest = evidence.oldest_at_ns
    return _join(
        [
            f"{format_count(evidence.stored, 'picture')}, {evidence.size_bytes / 2**20:.1f} MiB",
            "" if oldest is None else f"the oldest of {local_time(oldest, DATE_TIME)}",
            f"{format_count(evidence.skipped, 'picture')} of this run could not be stored" if evidence.skipped else "",
            "" if evidence.fault is None else f"NOT STORED NOW ({evidence.fault})",
        ]
    )


def describe_parts(parts: PartAccount) -> str:
    """Describe how the parts of a line ended."""
    return f"{parts.announced} announced: {parts.judged} judged, {parts.no_verdict} without verdict, {parts.open} open"


def describe_screened(screened: Screened) -> str:
    """Describe what the screening stage cleared, and what its audits found."""
    cleared = f"{100 * screened.cleared / screened.tiles:.3g} % of {screened.tiles} screened tiles cleared"
    return f"{cleared}; {screened.disagreed} of {screened.audited} audited ones reached the score threshold"


def describe_shadow(shadow: ShadowState) -> str:
    """Describe the shadow bundle, and whether it judges frames now."""
    if shadow.fault is not None:
        return f"JUDGES NO FRAMES NOW ({shadow.fault})"
    if shadow.bundle is None:
        return "is being started"
    return f"{describe_bundle(shadow.bundle)}, {shadow.judged} frames judged, {shadow.dropped} left out"


def describe_consumer(consumer: Consumer, journal: JournalState) -> str:
    """Describe whether a durable consumer is connected, and how far it is behind."""
    connection = "connected"
    if not consumer.connected:
        seen = consumer.seen_at_ns
        connection = "away" if seen is None else f"away, last seen {local_time(seen, DATE_TIME)}"
    lost = max(0, journal.first_seq - 1 - consumer.acked_seq) if journal.first_seq else 0
    behind = max(0, journal.last_seq - consumer.acked_seq - lost)
    remedy = (
        f", and {lost} {is_are(lost)} lost: start it, delete it (heatline follow --forget), or raise journal.retain_mib"
    )
    return f"{connection}; {format_count(behind, 'event')} behind{remedy if lost else ''}"


def local_time(at_ns: int, form: str) -> str:
    """Format a time in ns since 1970 as local time; `?` if no calendar has it, as from a wrong clock."""
    try:
        return datetime.fromtimestamp(at_ns / 1e9).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "?"


def utc(at_ns: int) -> str:
    """Format a time in ns since 1970 as ISO 8601 in UTC, to the microsecond; "" if no calendar has it."""
    try:
        moment = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ns % 1_000_000_000 // 1000:06d}Z"


def _describe_frame(event: VerdictEvent) -> str:
    """Describe the frame, or the run of frames, with its part."""
    name = event.source or ("none" if event.frame_id is None else str(event.frame_id))
    if event.frames > 1:
        name += f" to {event.last_frame_id} ({event.frames})"
    return name if event.part_id is None else f"{name} [{event.part_id}]"


def _describe_verdict(event: VerdictEvent) -> str:
    """Describe why there is no verdict, for a frame that failed with the details; else what was found."""
    if event.reason is not None:
        return (
            f"{event.reason}: {event.detail}" if event.detail and event.reason.startswith("failed.") else event.reason
        )
    score = "" if event.frame_score is None else f"score {event.frame_score:.2f}"
    regions = ""
    if event.regions:
        x, y = event.regions[0].peak_xy
        longest = "" if event.longest is None else f", the longest {event.longest.extent:.2f} mm"
        regions = f"{format_count(len(event.regions), 'region')}, peak at {x},{y}{longest}"
    return _join([score, regions, event.description or ""])


def _join(parts: Sequence[str]) -> str:
    return "; ".join(filter(None, parts))
