"""Numbers and journals events before they are sent. If no journal can take them, they are sent live only, and a journal
event reports that.

Nothing here waits for a disk longer than `DISK_SECONDS`, and no fault of the journal is raised.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from heatline.edge.delivery.journal.disk_file import DiskFile
from heatline.edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalForeignError,
    JournalFullError,
    JournalTooNewError,
)
from heatline.edge.delivery.journal.journal import Deleted, Journal
from heatline.edge.delivery.journal.outage import FaultLog, Outage, OwnEvents, Retries, progress_of
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.delivery.journal.retention import Discarded, Discarding, Retention
from heatline.edge.delivery.journal.rows import Record
from heatline.edge.delivery.journal.wall_clock import WallClock
from heatline.edge.delivery.numbering import Count, Numbering
from heatline.edge.frames import Watermark
from heatline.edge.util.text import on_one_line, utf8_safe
from heatline.edge.wire.events import Consumer, JournalState, Message, StatusEvent, VerdictEvent, header_of

logger = logging.getLogger(__name__)


class JournalWriter(Numbering):
    """Numbers and stores the events of a boot, and adds the counts to its statuses.

    One thread calls it, except where a method says otherwise.

    Args:
        line: name of the line.
        boot_id: id of this boot.
        folder: folder of the journal.
        keep_s: age in seconds above which events are deleted.
        keep_bytes: size above which the oldest events are deleted.
        acked: returns, for a journal's id, the last event that each durable consumer acknowledged. Any thread.
        consumers: returns the durable consumers for the statuses.
        clock: seconds, monotonic.
        wall_ns: UTC, ns since 1970.
    Raises:
        JournalForeignError: the journal belongs to another line.
        JournalTooNewError: a newer heatline created the journal.
    """

    stores = True

    def __init__(
        self,
        line: str,
        boot_id: str,
        folder: Path,
        keep_s: float,
        keep_bytes: int,
        acked: Callable[[str], Mapping[str, int]],
        *,
        consumers: Callable[[], dict[str, Consumer]] = dict,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__()
        self.on_commit: list[Callable[[], None]] = []
        """Functions to call after each commit."""
        self._acked, self._consumers, self._clock, self._wall_ns = acked, consumers, clock, wall_ns
        retention = Retention(keep_s, keep_bytes)
        self._file = DiskFile(folder, line, retention.most_bytes)
        self._discarding = Discarding(self._file, retention, acked, clock, WallClock(wall_ns, clock))
        self._own = OwnEvents(line, boot_id, wall_ns)
        self._faults = FaultLog(clock)
        self._outage: Outage | None = None
        self._retries = Retries()
        self._tried_seq = 0
        """The last event of the last attempt to store events. It may be stored although the attempt failed."""
        self._begin(folder)
        self._file.starting = False
        self._publish()

    def _begin(self, folder: Path) -> None:
        try:
            journal = self._open()
            self.progress, self.since_ns = dict(journal.progress), journal.created_at_ns
        except (JournalForeignError, JournalTooNewError):  # these faults do not pass
            self._file.close()
            raise
        except Exception as error:
            self._begin_outage(error)
            self._read_what_can_be(folder)

    def _read_what_can_be(self, folder: Path) -> None:
        """Read how far a journal has counted that cannot be written."""

        def read() -> tuple[int, Count, Mapping[str, Watermark]]:
            with JournalReader.open(folder) as reader:
                first, last = reader.range()
                return first, Count(reader.journal_id, reader.topics(), last), reader.progress()

        try:
            self._file.first_seq, self._journalled, self.progress = self._file.run(read)
        except Exception as error:
            logger.warning("%s", self._faults.as_journal_error(error))

    # The publisher's thread calls these methods.

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and store events, and add the counts to statuses; return the messages to send, in order.

        It never raises: events that cannot be stored are numbered in this boot's own count.
        """
        done: list[Message] | None = None
        if self._outage is None:
            try:
                done = self._store(messages)
            except Exception as error:
                self._begin_outage(error)
        if done is None:
            done = self._send_live_only(messages)
        self._publish()
        return done

    def tick(self) -> list[Message]:
        """Try again to store events, check the file, delete what is due; return the messages to send. Never raises."""
        if self._outage is None:
            try:
                self._check_and_discard()
            except Exception as error:
                self._begin_outage(error)
        sent: list[Message] = []
        if self._outage is not None and self._clock() >= self._outage.retry_at_s:
            sent += self._recover(self._outage)
        if self._own.waiting if self._outage is None else not self._outage.reported:
            sent += self.commit([])
        self._publish()
        return sent

    def close(self) -> None:
        """Store the journal's own events that wait, and close the file if the disk answers."""
        self._report_discarded(self._discarding.report())
        if self._own.waiting and self._outage is None:
            self.commit([])
        self._file.close()

    # Any thread may call these methods.

    def state(self) -> JournalState | None:
        return self._state

    def mark_corrupt(self, journal_id: str, reason: str) -> None:
        """Move this journal aside and begin a new one, if it is in use: a reader found it damaged. Any thread."""
        self._file.mark_corrupt(journal_id, reason)

    # Storing events.

    def _store(self, messages: Sequence[Message], progress: Mapping[str, Watermark] | None = None) -> list[Message]:
        """Store events, after the journal's own events that wait.

        Args:
            progress: by camera, the last frame that was reported before.
        Raises:
            JournalError: none of the events is stored, as far as is known.
        """
        count = self._journalled.copy()
        done = self._complete([*map(Message, self._own.waiting), *messages], count)
        at_ns = self._wall_ns()
        records: list[Record] = []
        reached = dict(progress or {})
        for place, (event, png) in enumerate([(message.event, message.png) for message in done]):
            if isinstance(event, StatusEvent):
                continue
            header = header_of(event)
            records.append(Record(event.seq, at_ns, event.topic, header, png))
            done[place] = Message(event, png, header=header)
            if isinstance(event, VerdictEvent):
                reached[event.camera] = progress_of(event)
        if records:
            self._append(records, reached)
        self._journalled, self._own.waiting = count, []
        self._file.note_size()
        if records:
            self._call_on_commit()
        return done

    def _append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        journal = self._file.in_use
        self._tried_seq = records[-1].seq
        try:
            self._file.run(lambda: journal.append(records, progress))
        except JournalFullError:
            # Free pages inside the file can be used even if the disk is full.
            self._discarding.make_room()
            if journal.last_seq < records[0].seq:
                self._file.run(lambda: journal.append(records, progress))

    def _call_on_commit(self) -> None:
        for callback in self.on_commit:
            try:
                callback()
            except Exception as error:  # the events are stored nevertheless
                self._faults.log(error)

    def _send_live_only(self, messages: Sequence[Message]) -> list[Message]:
        """Number events in this boot's own count, after the event that reports the outage."""
        outage = self._outage
        assert outage is not None
        if not outage.reported:
            outage.reported = True
            messages = [Message(self._own.live_only(outage.error)), *messages]
        outage.note(messages)
        return self._complete(messages, self._live)

    # Outages.

    def _begin_outage(self, error: Exception) -> None:
        """Begin an outage: events are sent live only."""
        fault, now_s = self._faults.as_journal_error(error), self._clock()
        damaged = str(fault) if isinstance(fault, JournalDamagedError) else None
        at_once = damaged is not None and self._retries.is_stable(now_s)  # a new journal solves it
        wait_s = self._retries.next_wait_s(now_s)
        retry_at_s = now_s if at_once else now_s + wait_s
        self._outage = Outage(fault, retry_at_s, wait_s, self._live.last_seq + 1, damaged=damaged)
        self._file.close_after(fault)
        logger.error("events are not journalled from now on: %s", fault)

    def _recover(self, outage: Outage) -> list[Message]:
        """Try to store events again; return the messages to send then. The first one reports the missing events."""
        if self._file.busy:
            return []
        now_s = self._clock()
        try:
            if outage.damaged is not None:
                outage.new_journal_reason = f"{outage.damaged}; it is {self._file.move_aside()} now"
                outage.damaged = None
            if self._file.journal is None:
                journal = self._open(outage.new_journal_reason)
                # The disk may have lost pages that it reported as written, so all pages are written again.
                self._file.run(journal.checkpoint)
            else:
                self._discarding.make_room()
                self._take_over(self._file.in_use)
            outage.begin_report(self._live.last_seq)
            reports = [self._own.recording(outage, self._live.last_seq), *outage.unrecorded]
            done = self._store(list(map(Message, reports)), outage.progress)
        except Exception as error:
            fault = self._faults.as_journal_error(error)
            self._file.close_after(fault)
            if type(fault) is not type(outage.error):
                logger.error("events still cannot be journalled: %s", fault)
            outage.failed(fault, now_s)
            return []
        self._outage = None
        self._retries.recovered(now_s)
        logger.info("events are journalled again, in journal %s", self._journalled.journal_id)
        return done

    def _check_and_discard(self) -> None:
        """Check the file, and delete what is due.

        Raises:
            JournalError: the file is damaged, or events cannot be deleted.
        """
        self._file.check()
        more = self._discarding.discard_some()
        self._report_discarded(self._discarding.report_if_due(quiet=not more))

    def _report_discarded(self, discarded: Discarded | None) -> None:
        if discarded is not None:
            self._own.waiting.append(self._own.discarded(discarded))
            logger.warning("%s", self._own.waiting[-1].detail)

    # Opening the journal.

    def _open(self, reason: str | None = None) -> Journal:
        """Open the journal, or a new one in place of a damaged one.

        Args:
            reason: why there is no journal, if that is known.
        Raises:
            JournalError: no journal can be opened.
        """
        journal, new_journal_reason = self._file.open()
        former_id = self._journalled.journal_id
        if journal.journal_id != former_id:
            self._own.waiting = []  # they belong to another journal
            self._discarding.forget()
        self._take_over(journal)
        if journal.last_seq == 0:
            self._own.waiting = [self._own.begun(new_journal_reason or reason or "there was no journal")]
        return journal

    def _take_over(self, journal: Journal) -> None:
        """Take the counts from the file. It may hold the events of the last attempt, although that seemed to fail.

        Raises:
            JournalDamagedError: the disk lost stored events. New events would get their numbers.
        """
        same, known = journal.journal_id == self._journalled.journal_id, self._journalled.last_seq
        if same and journal.last_seq < known:
            raise JournalDamagedError(f"{journal.path} ends with event {journal.last_seq}, and held event {known}")
        if same and self._journalled.last_seq < self._tried_seq <= journal.last_seq:
            self._own.waiting = []
            if self._outage is not None:
                self._outage.note_reported()
        first_seq, was_first = journal.first_seq or journal.last_seq + 1, self._file.first_seq
        if same and 0 < was_first < first_seq:  # the last deletion succeeded, although it seemed to fail
            self._discarding.note(Deleted(was_first, first_seq - 1, {}))
        self._journalled = Count(journal.journal_id, journal.topics, journal.last_seq)
        self._file.note_size()

    # Reporting the state.

    def _publish(self) -> None:
        super()._publish()
        self._state = self._state_at(self._journalled)

    def _journal_state(self, journalled: Count) -> JournalState:
        try:
            consumers = self._consumers()
        except Exception as error:
            self._faults.log(error)
            consumers = {}
        return self._state_at(journalled, consumers)

    def _state_at(self, journalled: Count, consumers: Mapping[str, Consumer] | None = None) -> JournalState:
        begins = self._journalled.last_seq + 1 if journalled.last_seq > self._journalled.last_seq else 0
        return JournalState(
            journal_id=journalled.journal_id,
            first_seq=self._file.first_seq or begins,
            last_seq=journalled.last_seq,
            size_bytes=self._file.size_bytes,
            live_only=None if self._outage is None else on_one_line(utf8_safe(str(self._outage.error))),
            unjournalled=self._live.last_seq,
            discarded=self._discarding.events,
            consumers=dict(consumers or {}),
        )
