"""Numbers and journals events before they are sent. If no journal can take them, they are sent live only, and a journal
event reports that. Nothing here waits for a disk longer than `DISK_SECONDS`, and no fault of the journal is raised.
"""

import contextlib
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from heatline.edge.delivery.journal import FILE_NAME, Contents, Journal, JournalReader, Record, move_aside
from heatline.edge.delivery.publisher import Count, Numbering
from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import on_one_line, utf8_safe
from heatline.edge.wire.events import Consumer, JournalEvent, JournalState, Message, StatusEvent, VerdictEvent
from heatline.edge.wire.requests import to_bytes

logger = logging.getLogger(__name__)

T = TypeVar("T")

DISK_SECONDS = 2.0
"""Limit for one call, so that a slow disk does not delay events. A memory card or a busy disk may take a second, and
events that are sent live only never reach a durable consumer."""
DISK_SECONDS_AT_START = 10.0
"""Limit while the line starts or ends, when no events wait."""
RETRY_SECONDS = 1.0
"""Between two attempts to journal events again."""
_SPARE = 16
"""One part in this many of the budget is spare, for events that arrive during a deletion."""
LARGEST = 2**63 - 1
"""Largest integer of SQLite."""


class DiskThread:
    """Makes calls that wait for a disk, one after the other, for one caller thread, which waits a limited time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._last: Future[Any] | None = None
        NamedThread("journal", self._make_calls).start()  # not joined: a call cannot be ended while the disk is silent

    @property
    def busy(self) -> bool:
        return self._last is not None and not self._last.done()

    def run(self, call: Callable[[], T], within_s: float) -> T:
        """Make a call, and return its result or raise its error. It is a JournalError if the call has not returned in
        time, and continues, or if an earlier call still runs, and this one is not made.
        """
        made = None if self.busy else self._begin(call, within_s)
        if made is None or not made.done():
            raise JournalError(f"the disk of {self._folder} does not answer; check the disk", "hung")
        return made.result()

    def close(self, last: Callable[[], None], within_s: float) -> bool:
        """Make a last call after those before have returned; return whether it returned in time."""
        made = self._begin(last, within_s)
        self._calls.put(None)
        return made.done()

    def _begin(self, call: Callable[[], T], within_s: float) -> Future[T]:
        """Make a call, and return its result, which is not there yet if the time was too short."""
        self._last = made = Future[T]()
        self._calls.put((made, call))
        wait([made], within_s)
        return made

    def _make_calls(self) -> None:
        while (each := self._calls.get()) is not None:
            made, call = each
            try:
                made.set_result(call())
            except BaseException as error:  # it is raised again in the caller's thread
                made.set_exception(error)
            del each, made, call  # so that the objects they refer to can be closed


@dataclass
class _Outage:
    """A time in which no event can be journalled. Events are sent live only, and counted in the boot's own count."""

    error: JournalError
    retry_at_s: float
    first_seq: int
    """The first event that is sent live only."""
    by_topic: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Watermark] = field(default_factory=dict)
    """By camera, the last frame that was reported live only."""
    unrecorded: list[JournalEvent] = field(default_factory=list)
    """Reports of what the boot before did not journal. They are journalled too: else nobody who missed them could ever
    know."""
    reported: bool = False

    def note(self, messages: Sequence[Message]) -> None:
        events = [message.event for message in messages]
        self.by_topic.update(utf8_safe(event.topic) for event in events if not isinstance(event, StatusEvent))
        self.unrecorded += [each for each in events if isinstance(each, JournalEvent) and each.kind == "unrecorded"]
        self.progress |= _progress_of(messages)


class JournalWriter(Numbering):
    """Numbers and stores the events of a boot, and adds the counts to its statuses.

    One thread calls it, except where a method says otherwise.

    Args:
        keep_bytes: size above which the oldest events are deleted, if possible those that all consumers acknowledged.
        acked: returns, for a journal's id, the last event that each durable consumer acknowledged. Any thread.
        consumers: returns the durable consumers for the statuses.
        clock, wall_ns: seconds, monotonic; UTC, ns since 1970.
    Raises:
        DeliveryError: another running line uses the journal.
        JournalError: the journal belongs to another line, or another version of heatline created it.
    """

    stores = True

    def __init__(
        self,
        line: str,
        boot_id: str,
        folder: Path,
        keep_bytes: int,
        acked: Callable[[str], Mapping[str, int]],
        *,
        consumers: Callable[[], dict[str, Consumer]] = dict,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.on_commit: Callable[[], None] = lambda: None
        """Called after each commit."""
        self._line, self._boot_id, self._folder = line, boot_id, folder
        self._keep_bytes = keep_bytes - keep_bytes // _SPARE
        self._acked, self._consumers, self._clock, self._wall_ns = acked, consumers, clock, wall_ns
        self._log = RateLimitedLog(logger, clock)
        self._disk = DiskThread(folder)
        self._starting = True
        self._journal: Journal | None = None
        """The open journal. While a call has not returned, the disk's thread may still be using it."""
        self._damage: str | None = None
        """Why the journal's file must be moved aside first; None: it must not."""
        self._why_new = "there was no journal"
        self._begun: list[JournalEvent] = []
        """The first event of a new journal, until it is committed, before all others."""
        self._outage: _Outage | None = None
        self._discarded_events = 0
        self._known = Contents()
        """What the file held, as far as it was last known."""
        try:
            held = self._take_over().contents
            self.progress, self.since_ns = held.progress, held.created_at_ns
        except Exception as error:
            if isinstance(error, DeliveryError) or (isinstance(error, JournalError) and error.kind == "foreign"):
                self._disk.close(self._close_file, DISK_SECONDS)  # these faults do not pass
                raise
            self._begin_outage(error)
            self._read_what_can_be()
        self._starting = False

    def _read_what_can_be(self) -> None:
        """Read how far a journal has counted that cannot be written."""

        def read() -> Contents:
            with JournalReader.open(self._folder) as reader:
                return reader.contents()

        try:
            self._known = known = self._run(read)
            self._journalled = Count(known.journal_id, dict(known.topics), known.last_seq)
            self.progress = known.progress
        except Exception as error:
            logger.warning("%s", self._as_journal_error(error))

    # The publisher's thread calls these methods.

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and store events, and add the counts to statuses; return the messages to send, in order. It never
        raises: events that cannot be stored are numbered in this boot's own count.
        """
        outage = self._outage
        if outage is None:
            try:
                return self._store(messages)
            except Exception as error:
                outage = self._begin_outage(error)
        if not outage.reported:
            outage.reported = True
            begun = self._own("live_only", f"events are not journalled from now on: {outage.error}")
            messages = [Message(begun), *messages]
        outage.note(messages)
        return self._complete(messages, self._live)

    def tick(self) -> list[Message]:
        """Try again to store events, delete what is due; return the messages to send. Never raises."""
        if self._outage is None:
            try:
                self._discard_some()
            except Exception as error:
                self._begin_outage(error)
        sent: list[Message] = []
        if self._outage is not None and self._clock() >= self._outage.retry_at_s:
            sent += self._recover(self._outage)
        if self._begun if self._outage is None else not self._outage.reported:
            sent += self.commit([])
        return sent

    def close(self) -> None:
        """Store the first event of a new journal if it waits, and close the file if the disk answers."""
        if self._begun and self._outage is None:
            self.commit([])
        if not self._disk.close(self._close_file, DISK_SECONDS if self._disk.busy else DISK_SECONDS_AT_START):
            logger.error("the journal in %s is not closed, because its disk does not answer", self._folder)

    # Any thread may call these methods.

    def state(self, at: Count | None = None) -> JournalState:
        journal, outage, journalled = self._journal, self._outage, at or self._journalled
        known = self._known = self._known if journal is None else journal.contents
        begins = self._journalled.last_seq + 1 if journalled.last_seq > self._journalled.last_seq else 0
        return JournalState(
            journal_id=journalled.journal_id,
            first_seq=known.first_seq or begins,
            last_seq=journalled.last_seq,
            size_bytes=known.size_bytes,
            live_only=None if outage is None else on_one_line(utf8_safe(str(outage.error))),
            unjournalled=self._live.last_seq,
            discarded=self._discarded_events,
            consumers=self._consumers(),
        )

    # Storing events.

    def _store(self, messages: Sequence[Message], progress: Mapping[str, Watermark] | None = None) -> list[Message]:
        """Store events, after the first of a new journal, and by camera the last frame that was reported before. After
        an error, none is stored, as far as is known.
        """
        count = self._journalled.copy()
        done = self._complete([*map(Message, self._begun), *messages], count)
        at_ns = self._wall_ns()
        records = [
            Record(event.seq, at_ns, event.topic, to_bytes(event), message.png)
            for message in done
            if not isinstance(event := message.event, StatusEvent)
        ]
        if records:
            assert self._journal is not None
            reached = {**(progress or {}), **_progress_of(done)}
            self._run_with_room(self._journal, partial(self._journal.append, records, reached))
        self._journalled, self._begun = count, []
        if records:
            self.on_commit()
        return done

    def _run(self, call: Callable[[], T]) -> T:
        """Return the result of a call that waits for the disk. It is a JournalError if it has not returned in time."""
        return self._disk.run(call, DISK_SECONDS_AT_START if self._starting else DISK_SECONDS)

    def _run_with_room(self, journal: Journal, call: Callable[[], None]) -> None:
        """Make a call that takes room. On a full disk, free pages of both files can still be used."""
        try:
            self._run(call)
        except JournalError as error:
            if error.kind != "full":
                raise
            self._run(journal.checkpoint)
            self._run(call)

    # Outages.

    def _begin_outage(self, error: Exception) -> _Outage:
        """Begin an outage: events are sent live only, after one that reports it."""
        fault = self._as_journal_error(error)
        logger.error("events are not journalled from now on: %s", fault)
        self._close_after(fault)
        self._outage = outage = _Outage(fault, self._clock() + RETRY_SECONDS, self._live.last_seq + 1)
        return outage

    def _close_after(self, fault: JournalError) -> None:
        """Close the file after a fault, unless the disk is full, since opening takes room, or does not answer."""
        if fault.kind == "damaged":
            self._damage = str(fault)
        if fault.kind not in ("full", "hung"):
            with contextlib.suppress(Exception):
                self._run(self._close_file)

    def _recover(self, outage: _Outage) -> list[Message]:
        """Try to store events again; return the messages to send then. The first one reports the missing events."""
        if self._disk.busy:
            return []
        try:
            # The disk may have lost pages that it reported as written, so all pages are written again.
            self._run(self._take_over().checkpoint)
            self._discard_some()
            events = self._live.last_seq - outage.first_seq + 1
            recording = self._own(
                "recording",
                f"events are journalled again; {events} are not in the journal ({outage.error})",
                events=events,
                by_topic=dict(outage.by_topic),
                of_boot=self._boot_id,
                first_seq=outage.first_seq if events else None,
                last_seq=self._live.last_seq if events else None,
            )
            done = self._store(list(map(Message, [recording, *outage.unrecorded])), outage.progress)
        except Exception as error:
            fault = self._as_journal_error(error)
            self._close_after(fault)
            outage.error, outage.retry_at_s = fault, self._clock() + RETRY_SECONDS
            return []
        self._outage = None
        logger.info("events are journalled again, in journal %s", self._journalled.journal_id)
        return done

    # Deleting events.

    def _discard_some(self) -> None:
        """Delete a limited number of events that are due."""
        journal = self._journal
        assert journal is not None
        held = journal.contents
        too_much = held.size_bytes - self._keep_bytes
        if too_much <= 0 or not held.first_seq:
            return
        acked = self._acked(held.journal_id)
        acked_seq = min(acked.values(), default=held.last_seq)
        too_much = max(too_much, self._keep_bytes // 32)  # not every new event leads to a deletion
        through = self._run(partial(journal.due, acked_seq, too_much))
        self._run_with_room(journal, partial(journal.discard, through))
        missed = sorted(name for name, seq in acked.items() if seq < through)
        if missed:
            self._discarded_events += through - held.first_seq + 1
            logger.warning(
                "events %d to %d were deleted to make room; not all reached %s",
                held.first_seq,
                through,
                ", ".join(missed),
            )

    # The file.

    def _take_over(self) -> Journal:
        """Open the journal, or a new one in place of a damaged one, and take the counts from the file. It may hold the
        events of the last attempt, although that seemed to fail; or lack stored ones, whose numbers new ones would get.
        """
        journal, known = self._run(self._open_file), self._journalled
        held = journal.contents
        if held.journal_id == known.journal_id and held.last_seq < known.last_seq:
            raise JournalError(
                f"{journal.path} ends with event {held.last_seq}, and held event {known.last_seq}", "damaged"
            )
        self._journalled = Count(held.journal_id, dict(held.topics), held.last_seq)
        self._begun = [] if held.last_seq else [self._own("begun", self._why_new)]
        return journal

    def _open_file(self) -> Journal:
        """Return the open journal, whose state is what its file has. The disk's thread calls this."""
        if self._journal is not None:
            self._journal.reload()
            return self._journal
        if self._damage is None:
            try:
                self._journal = Journal(self._folder, self._line)
                return self._journal
            except JournalError as error:
                if error.kind != "damaged":
                    raise
                self._damage = str(error)
                logger.error("%s", error)
        self._why_new = f"{self._damage}; it is {move_aside(self._folder / FILE_NAME).name} now"
        self._damage = None
        self._journal = Journal(self._folder, self._line)
        return self._journal

    def _close_file(self) -> None:
        """Close the file. The disk's thread calls this."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    # Reporting.

    def _own(self, kind: str, detail: str, **fields: Any) -> JournalEvent:
        """Return a journal event, without its number."""
        return JournalEvent(
            boot_id=self._boot_id,
            seq=0,
            previous_seq=0,
            at_ns=self._wall_ns(),
            line=self._line,
            kind=kind,
            detail=on_one_line(utf8_safe(detail)),  # an error may name a path that is not valid UTF-8
            **fields,
        )

    def _as_journal_error(self, error: Exception) -> JournalError:
        """Return an error as a journal error. Another kind is a bug of heatline: log it, at a limited rate."""
        if isinstance(error, JournalError):
            return error
        if isinstance(error, DeliveryError):
            return JournalError(str(error))
        self._log.error("an event could not be processed as it should be", exc_info=error)
        return JournalError(f"events could not be journalled ({type(error).__name__}: {error}); see the log")


def _progress_of(messages: Sequence[Message]) -> dict[str, Watermark]:
    """Return how far the frames of each camera are reported with these messages."""
    verdicts = [message.event for message in messages if isinstance(message.event, VerdictEvent)]
    return {
        utf8_safe(each.camera): Watermark(each.boot_id, min(each.frame_number + each.frames - 1, LARGEST))
        for each in verdicts
    }
