"""Verifies a journal: its structure, its numbers, and every byte of its events."""

from collections.abc import Callable, Iterator

from heatline.edge.delivery.journal.reader import JournalReader, StoredRecord
from heatline.edge.errors import MessageError, SchemaVersionError
from heatline.edge.wire.events import StatusEvent, VerdictEvent, event_from

EVENTS_AT_ONCE = 100
STRUCTURE_FAULTS = 100
"""Faults of the file's structure that are reported at most. Faults of events are all reported."""


def faults(
    reader: JournalReader,
    on_progress: Callable[[int, int], None],
    on_other_version: Callable[[SchemaVersionError], None],
) -> Iterator[str]:
    """Yield a sentence for each fault of a journal. The journal may be written meanwhile.

    Args:
        on_progress: called with the number of events that were read so far, and of all.
        on_other_version: called for each event of another schema version. Its checksums and its place are verified, and
            its header is not decoded.
    Raises:
        JournalError: the rest of the journal cannot be read.
    """
    yield from reader.faults_of_structure(STRUCTURE_FAULTS)
    first, last = reader.range()
    before: dict[str, int] = {}
    """By topic, the last event since the last gap. An event may rightly name one that is in a gap."""
    begin = first
    after = first - 1 if first else last
    while after < last:
        stored = reader.stored(after, last, EVENTS_AT_ONCE)
        deleted_through = min(stored.first_seq - 1, last) if stored.first_seq else last
        if deleted_through > after:  # events that retention deleted meanwhile are not missing
            after, before, begin = deleted_through, {}, deleted_through + 1
        for each in stored.records:
            record = each.record
            if record.seq > after + 1:
                yield f"events {after + 1} to {record.seq - 1} are missing"
                before, begin = {}, record.seq
            for fault in _of_event(each, reader.journal_id, before.get(record.topic), begin, on_other_version):
                yield f"event {record.seq}: {fault}"
            after = before[record.topic] = record.seq
        if after < last and len(stored.records) < EVENTS_AT_ONCE:
            yield f"events {after + 1} to {last} are missing"
            after = last
        on_progress(after - first + 1, last - first + 1)


def _of_event(
    stored: StoredRecord,
    journal_id: str,
    previous: int | None,
    begin: int,
    on_other_version: Callable[[SchemaVersionError], None],
) -> Iterator[str]:
    """Yield a sentence for each fault of an event.

    Args:
        previous: the event before it of the same topic; None: unknown, it was before `begin`.
    """
    record = stored.record
    yield from stored.faults()
    try:
        event = event_from(record.header)
    except SchemaVersionError as error:
        on_other_version(error)
        return
    except MessageError as error:
        yield str(error)
        return
    if isinstance(event, StatusEvent):
        yield "it is a status, which is never journalled"
        return
    if (event.seq, event.journal_id) != (record.seq, journal_id):
        yield f"its header says that it is event {event.seq} of journal {event.journal_id}"
    if event.topic != record.topic:
        yield f"it is stored under topic {record.topic}, and belongs under {event.topic}"
    named = event.previous_seq
    if named >= begin if previous is None else named != previous:
        found = "none that is here" if previous is None else f"event {previous}"
        yield f"its header names event {named} as the one before it under its topic, and that is {found}"
    if (record.heatmap is not None) != (isinstance(event, VerdictEvent) and event.heatmap is not None):
        yield f"its heatmap is {'missing' if record.heatmap is None else 'there'}, and its header says otherwise"
