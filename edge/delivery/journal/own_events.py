"""Makes the journal's own events, which tell consumers of changes to the journal."""

from collections.abc import Callable

import msgspec

from edge.delivery.journal.discarding import Discarded
from edge.delivery.journal.outage import Outage
from edge.errors import JournalError
from edge.util.text import on_one_line, utf8_safe
from edge.wire.events import JournalEvent


class OwnEvents:
    """Makes journal events. They get their number when they are committed."""

    def __init__(self, line: str, boot_id: str, wall_ns: Callable[[], int]) -> None:
        self.waiting: list[JournalEvent] = []
        """Events to commit before all others."""
        self._line, self._boot_id, self._wall_ns = line, boot_id, wall_ns

    def begun(self, reason: str) -> JournalEvent:
        """A new journal begins."""
        return self._event("begun", reason)

    def live_only(self, error: JournalError) -> JournalEvent:
        """From now on events are not journalled."""
        return self._event("live_only", f"events are not journalled from now on: {error}")

    def recording(self, outage: Outage, last_seq: int) -> JournalEvent:
        """Events are journalled again.

        Args:
            last_seq: the last event that is not in the journal, in the boot's own count.
        """
        events = last_seq - outage.first_seq + 1
        return self._event(
            "recording",
            f"events are journalled again; {events} are not in the journal ({outage.error})",
            events=events,
            by_topic=dict(outage.by_topic),
            of_boot=self._boot_id,
            first_seq=outage.first_seq if events else None,
            last_seq=last_seq if events else None,
        )

    def discarded(self, discarded: Discarded) -> JournalEvent:
        """Events were deleted before every durable consumer got them."""
        names = sorted(discarded.consumers)
        return self._event(
            "discarded",
            f"events {discarded.first_seq} to {discarded.last_seq} were deleted to make room; "
            f"{', '.join(names)} did not get all of them",
            events=discarded.events,
            by_topic=discarded.by_topic,
            first_seq=discarded.first_seq,
            last_seq=discarded.last_seq,
            consumers=names,
        )

    def _event(self, kind: str, detail: str, **fields: object) -> JournalEvent:
        event = JournalEvent(
            boot_id=self._boot_id,
            seq=0,
            previous_seq=0,
            at_ns=self._wall_ns(),
            line=self._line,
            kind=kind,
            detail=on_one_line(utf8_safe(detail)),  # an error may name a path that is not valid UTF-8
        )
        return msgspec.structs.replace(event, **fields)
