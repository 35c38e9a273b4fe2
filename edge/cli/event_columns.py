"""Events as rows of a table. All kinds of events have the same columns; a cell that does not apply is empty.

docs/journal.md describes the columns. New ones come at the end.
"""

from datetime import UTC, datetime

from heatline.edge.delivery.journal.rows import Record
from heatline.edge.wire.events import (
    AlarmEvent,
    ChangeEvent,
    DriftEvent,
    Event,
    JournalEvent,
    ReviewEvent,
    VerdictEvent,
)

Cell = str | int | float | None

COLUMNS = (
    "seq",
    "journal_id",
    "journalled_at",
    "happened_at",
    "type",
    "topic",
    "camera",
    "frame_id",
    "frame_number",
    "frames",
    "part_id",
    "verdict",
    "frame_score",
    "score_threshold",
    "regions",
    "peak_x",
    "peak_y",
    "what",
    "detail",
    "product",
    "bundle",
    "bundle_version",
    "precision",
    "latency_ms",
    "acting",
    "boot_id",
    "source",
)


def row_of(record: Record, event: Event) -> list[Cell]:
    """Return the row of a journalled event, in the order of `COLUMNS`."""
    cells: dict[str, Cell] = {
        "seq": record.seq,
        "journalled_at": utc(record.at_ns),
        "type": event.topic.partition(".")[0],
        "topic": record.topic,
        "boot_id": event.boot_id,
    }
    match event:
        case VerdictEvent():
            cells |= _verdict_cells(event)
        case AlarmEvent():
            state = "active" if event.active else "over"
            cells |= {"camera": event.camera, "what": f"{event.alarm} {state}", "product": event.product}
        case DriftEvent():
            state = "active" if event.active else "over"
            cells |= {"camera": event.camera, "what": f"{event.measure} {state}", "product": event.product}
            cells |= {"bundle": event.bundle.name, "bundle_version": event.bundle.version}
        case ChangeEvent():
            state = "applied" if event.applied else "refused"
            cells |= {"what": f"{event.change} {state}", "product": event.product}
            cells |= {"bundle": event.bundle.name, "bundle_version": event.bundle.version}
        case JournalEvent():
            cells |= {"what": event.kind}
        case ReviewEvent():
            cells |= _review_cells(event)
    if isinstance(event, AlarmEvent | DriftEvent | ChangeEvent | JournalEvent):
        cells |= {"happened_at": utc(event.at_ns), "detail": event.detail, "journal_id": event.journal_id}
    if isinstance(event, AlarmEvent | DriftEvent | ChangeEvent):
        cells |= {"acting": _format_bool(event.acting)}
    return [cells.get(column) for column in COLUMNS]


def _verdict_cells(event: VerdictEvent) -> dict[str, Cell]:
    peak = event.regions[0].peak_xy if event.regions else (None, None)
    return {
        "journal_id": event.journal_id,
        "happened_at": utc(event.times.captured_at_ns),
        "camera": event.camera,
        "frame_id": event.frame_id,
        "frame_number": event.frame_number,
        "frames": event.frames,
        "part_id": event.part_id,
        "verdict": event.verdict,
        "frame_score": event.frame_score,
        "score_threshold": event.score_threshold,
        "regions": len(event.regions),
        "peak_x": peak[0],
        "peak_y": peak[1],
        "what": event.reason,
        "detail": event.description,
        "product": event.product,
        "bundle": event.bundle.name,
        "bundle_version": event.bundle.version,
        "precision": event.precision,
        "latency_ms": event.latency_ms,
        "acting": _format_bool(event.acting),
        "source": event.source,
    }


def _review_cells(event: ReviewEvent) -> dict[str, Cell]:
    mark = event.mark
    at_x, at_y = mark.at_xy[0] if mark.at_xy else (None, None)
    return {
        "journal_id": event.journal_id,
        "happened_at": utc(event.at_ns),
        "camera": mark.camera,
        "verdict": mark.verdict,
        "peak_x": at_x,
        "peak_y": at_y,
        "what": mark.kind,
        "detail": f"{mark.picture}, by {mark.by}",
    }


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


def utc(at_ns: int) -> str:
    """Format a time in ns since 1970 as ISO 8601 in UTC, to the microsecond; "" if no calendar has it."""
    try:
        moment = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ns % 1_000_000_000 // 1000:06d}Z"
