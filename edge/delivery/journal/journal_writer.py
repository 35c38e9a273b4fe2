"""What becomes of an event before it is sent: it is numbered and journalled; where no journal takes it, it goes out all
the same, live only, and that is told.

Nothing here waits for a disk longer than `DISK_SECONDS`, and nothing that goes wrong with the journal is raised.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge.delivery.journal.discarding import Discarded, Discarding
from edge.delivery.journal.disk_file import DiskFile
from edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalForeignError,
    JournalFullError,
    JournalReplacedError,
    JournalTooNewError,
)
from edge.delivery.journal.journal import Gone, Journal
from edge.delivery.journal.outage import FaultLog, Outage, Retries, progress_of
from edge.delivery.journal.own_events import OwnEvents
from edge.delivery.journal.reader import JournalReader
from edge.delivery.journal.retention import Retention
from edge.delivery.journal.rows import Record
from edge.delivery.journal.wall_clock import WallClock
from edge.delivery.numbering import Count, Numbering
from edge.frames import Watermark
from edge.util.text import on_one_line, utf8_safe
from edge.wire.events import Consumer, JournalState, Message, StatusEvent, VerdictEvent, header_of

logger = logging.getLogger(__name__)


class JournalWriter(Numbering):
    """Numbers the events of a boot, keeps them, and completes its statuses. One thread calls it, except where a method
    says otherwise.

    Args:
        line: the line's name.
        boot_id: of this boot.
        folder: of the journal.
        keep_s: seconds after which events go.
        keep_bytes: beyond which the oldest go.
        acked: given a journal's id, through which seq each durable consumer has acknowledged it. Any thread.
        consumers: what statuses say of durable consumers.
        clock: seconds, monotonic.
        wall_ns: UTC, ns since 1970.
    Raises:
        JournalForeignError: the journal is another line's.
        JournalTooNewError: a newer heatline made it.
    """

    keeps = True

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
        self.wake: list[Callable[[], None]] = []
        """Called after each commit."""
        self._acked, self._consumers, self._clock, self._wall_ns = acked, consumers, clock, wall_ns
        retention = Retention(keep_s, keep_bytes)
        self._file = DiskFile(folder, line, retention.most_bytes, self._known_seq, clock())
        self._discarding = Discarding(self._file, retention, acked, clock, WallClock(wall_ns, clock))
        self._own = OwnEvents(line, boot_id, wall_ns)
        self._faults = FaultLog(clock)
        self._outage: Outage | None = None
        self._retries = Retries()
        self._tried_seq = 0
        """The last event that was to be kept, and may have been although that failed."""
        self._begin(folder)
        self._file.starting = False
        self._publish()

    def _begin(self, folder: Path) -> None:
        try:
            journal = self._open()
            self.progress, self.since_ns = dict(journal.progress), journal.created_at_ns
        except (JournalForeignError, JournalTooNewError):  # nothing that comes or goes by itself
            self._file.close()
            raise
        except Exception as error:
            self._fall(error)
            self._read_what_can_be(folder)

    def _read_what_can_be(self, folder: Path) -> None:
        """A journal that cannot be written may say all the same how far it got."""

        def read() -> tuple[int, Count, Mapping[str, Watermark]]:
            with JournalReader.open(folder) as reader:
                first, last = reader.range()
                return first, Count(reader.journal_id, reader.topics(), last), reader.progress()

        try:
            self._file.first_seq, self._journalled, self.progress = self._file.run(read)
        except Exception as error:
            logger.warning("%s", self._faults.as_journal_error(error))

    # What the publisher's thread calls.

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and keep events, and complete statuses in their place among them; what is to be sent, in order.

        Nothing makes it fail: what cannot be kept is numbered in this boot's own count.
        """
        done: list[Message] | None = None
        if self._outage is None:
            try:
                done = self._keep(messages)
            except Exception as error:
                self._fall(error)
        if done is None:
            done = self._let_go(messages)
        self._publish()
        return done

    def tend(self) -> list[Message]:
        """Try again to keep events, look after the file, delete what is due; what is to be sent of all that. Nothing
        makes it fail.
        """
        if self._outage is None:
            try:
                self._look_after()
            except Exception as error:
                self._fall(error)
        sent: list[Message] = []
        if self._outage is not None and self._clock() >= self._outage.retry_at_s:
            sent += self._recover(self._outage)
        if self._own.waiting if self._outage is None else not self._outage.told:
            sent += self.commit([])
        self._publish()
        return sent

    def close(self) -> None:
        """Put into the journal what it has not been told yet, and let go of it, if the disk answers."""
        self._tell_discarded(self._discarding.report())
        if self._own.waiting and self._outage is None:
            self.commit([])
        self._file.close()

    # What any thread may ask.

    def state(self) -> JournalState | None:
        return self._state

    def distrust(self, journal_id: str, why: str) -> None:
        """Somebody found this journal damaged where he read it: if it is still the one in use, it is moved aside, and a
        new one begun. Any thread.
        """
        self._file.distrust(journal_id, why)

    # Keeping.

    def _keep(self, messages: Sequence[Message], progress: Mapping[str, Watermark] | None = None) -> list[Message]:
        """Keep events, after those of the journal's own that wait.

        Args:
            progress: by camera, how far its frames had been told before.
        Raises:
            JournalError: none of them is kept, as far as is known.
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
            self._wake_all()
        return done

    def _append(self, records: Sequence[Record], progress: Mapping[str, Watermark]) -> None:
        journal = self._file.in_use
        self._tried_seq = records[-1].seq
        try:
            self._file.run(lambda: journal.append(records, progress))
        except JournalFullError:
            # What is free inside the file can be used even where the disk has no room any more.
            self._discarding.make_room()
            if journal.last_seq < records[0].seq:
                self._file.run(lambda: journal.append(records, progress))

    def _wake_all(self) -> None:
        for wake in self.wake:
            try:
                wake()
            except Exception as error:  # the events are kept
                self._faults.log(error)

    def _let_go(self, messages: Sequence[Message]) -> list[Message]:
        """Number events in this boot's own count, after one that says that it has come to that."""
        outage = self._outage
        assert outage is not None
        if not outage.told:
            outage.told = True
            messages = [Message(self._own.live_only(outage.error)), *messages]
        outage.note(messages)
        return self._complete(messages, self._live)

    # What goes wrong, and what is done then.

    def _fall(self, error: Exception) -> None:
        """Go on live only."""
        fault, now_s = self._faults.as_journal_error(error), self._clock()
        damaged = str(fault) if isinstance(fault, JournalDamagedError) else None
        at_once = damaged is not None and self._retries.steady(now_s)  # what helps then is known
        wait_s = self._retries.next_wait_s(now_s)
        retry_at_s = now_s if at_once else now_s + wait_s
        self._outage = Outage(fault, retry_at_s, wait_s, self._live.last_seq + 1, damaged=damaged)
        self._file.let_go_after(fault)
        logger.error("events are not kept from now on: %s", fault)

    def _recover(self, outage: Outage) -> list[Message]:
        """Try to keep events again; what is to be sent if they are: first of all, what the journal does not hold."""
        if self._file.busy:
            return []
        now_s = self._clock()
        try:
            if outage.damaged is not None:
                outage.why_anew = f"{outage.damaged}; it is {self._file.move_aside()} now"
                outage.damaged = None
            if self._file.journal is None:
                journal = self._open(outage.why_anew)
                # What a disk failed to write may be what it had said to have written: all of it is written anew.
                self._file.run(journal.checkpoint)
            else:
                self._discarding.make_room()
                self._take_over(self._file.in_use)
            outage.about_to_tell(self._live.last_seq)
            done = self._keep([Message(self._own.recording(outage, self._live.last_seq))], outage.progress)
        except Exception as error:
            fault = self._faults.as_journal_error(error)
            self._file.let_go_after(fault)
            if type(fault) is not type(outage.error):
                logger.error("events are still not kept: %s", fault)
            outage.failed(fault, now_s)
            return []
        self._outage = None
        self._retries.back(now_s)
        logger.info("events are kept again, in journal %s", self._journalled.journal_id)
        return done

    def _look_after(self) -> None:
        """See that the journal is what it was, and that it does not grow.

        Raises:
            JournalError: it is not, or it cannot be seen to.
        """
        try:
            self._file.check(self._clock())
        except JournalReplacedError as error:
            logger.error("%s", error)
            self._file.let_go_after(error)
            self._open(str(error))
        more = self._discarding.discard_some()
        self._tell_discarded(self._discarding.report_if_due(quiet=not more))

    def _tell_discarded(self, discarded: Discarded | None) -> None:
        if discarded is not None:
            self._own.waiting.append(self._own.discarded(discarded))
            logger.warning("%s", self._own.waiting[-1].detail)

    # Which journal it is, and how far it goes.

    def _open(self, why: str | None = None) -> Journal:
        """Open the journal, or a new one in the place of a damaged one.

        Args:
            why: there is no journal, if it is known.
        Raises:
            JournalError: it cannot be.
        """
        journal, why_anew = self._file.open()
        former_id = self._journalled.journal_id
        if journal.journal_id != former_id:
            self._own.waiting = []  # they were of another journal
            self._discarding.forget()
        self._take_over(journal)
        if journal.last_seq == 0:
            self._own.waiting = [self._own.begun(why_anew or why or "there was no journal")]
        elif former_id not in (None, journal.journal_id):
            begun = self._own.begun(
                f"{f'{why}; ' if why else ''}in the place of journal {former_id} is one that was begun before, "
                f"{journal.journal_id}: it goes on after event {journal.last_seq}"
            )
            self._own.waiting = [begun]
        return journal

    def _known_seq(self, journal_id: str) -> int:
        """The last event that a journal must hold, as far as anybody knows. Called by the disk's thread."""
        counted = self._journalled.last_seq if self._journalled.journal_id == journal_id else 0
        return max(counted, *self._acked(journal_id).values(), 0)

    def _take_over(self, journal: Journal) -> None:
        """Count as the file says. It may have what was to be kept last, although that seemed to have failed."""
        same = journal.journal_id == self._journalled.journal_id
        if same and self._journalled.last_seq < self._tried_seq <= journal.last_seq:
            self._own.waiting = []
            if self._outage is not None:
                self._outage.was_told()
        first_seq, was_first = journal.first_seq or journal.last_seq + 1, self._file.first_seq
        if same and 0 < was_first < first_seq:  # and what was to be deleted
            self._discarding.note(Gone(was_first, first_seq - 1, {}))
        self._journalled = Count(journal.journal_id, journal.topics, journal.last_seq)
        self._file.note_size()

    # What is said of it.

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
