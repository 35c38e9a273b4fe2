"""What becomes of an event before it is sent: it is numbered and journalled; where no journal takes it, it goes out all
the same, live only, and that is told.

Nothing here waits for a disk longer than `DISK_SECONDS`, and nothing that goes wrong with the journal is raised.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from edge.delivery.journal.disk_thread import DiskThread
from edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalFailedError,
    JournalForeignError,
    JournalFullError,
    JournalHungError,
    JournalReplacedError,
    JournalTooNewError,
)
from edge.delivery.journal.file import FILE_NAME, move_aside
from edge.delivery.journal.journal import WAL_KEPT_BYTES, Gone, Journal
from edge.delivery.journal.outage import Outage, Retries, progress_of
from edge.delivery.journal.reader import JournalReader
from edge.delivery.journal.retention import Discarded, Retention
from edge.delivery.journal.rows import Progress, Record
from edge.delivery.journal.wall_clock import WallClock
from edge.delivery.numbering import Count
from edge.errors import JournalError
from edge.text import on_one_line, sayable
from edge.wire.events import (
    Consumer,
    Counts,
    JournalEvent,
    JournalState,
    Message,
    StatusEvent,
    VerdictEvent,
    header_of,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

DISK_SECONDS = 2.0
"""For one call; what takes longer does not keep events back. A card or a disk that others use may take a second, and
what goes out live only never reaches a durable consumer."""
DISK_SECONDS_AT_START = 10.0
"""Nothing waits yet; and at the end, nothing any more."""
ROOM_SECONDS = 0.3
"""In which room is made before an event is kept that found none."""
LOOK_SECONDS = 1.0
"""From one look at whether the file is still there to the next."""
SECONDS_BETWEEN_DISCARDED_TOLD = 10.0
SECONDS_BETWEEN_FAULTS_LOGGED = 10.0
WAL_TOLD_BYTES = 64 << 20
"""Whoever makes what is beside the file so large by reading is named in the log."""


class Journalling:
    """Numbers the events of a boot, keeps them, and completes its statuses. One thread calls it, except where a method
    says otherwise.

    Args:
        line: the line's name.
        boot_id: of this boot.
        folder: of the journal; None: there is none, and events are only numbered.
        keep_s: seconds after which events go.
        keep_bytes: beyond which the oldest go; 0: as without a folder.
        acked: given a journal's id, through which seq each durable consumer has acknowledged it. Any thread.
        consumers: what statuses say of durable consumers.
        clock: seconds, monotonic.
        wall_ns: UTC, ns since 1970.
    Raises:
        JournalForeignError: the journal is another line's.
        JournalTooNewError: a newer heatline made it.
    """

    def __init__(
        self,
        line: str,
        boot_id: str,
        folder: Path | None,
        keep_s: float,
        keep_bytes: int,
        acked: Callable[[str], Mapping[str, int]],
        *,
        consumers: Callable[[], dict[str, Consumer]] = dict,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.wake: list[Callable[[], None]] = []
        """Called after each commit."""
        self._line, self._boot_id = line, boot_id
        self._folder = folder if keep_bytes else None
        self._retention = Retention(keep_s, keep_bytes)
        self._acked, self._consumers = acked, consumers
        self._clock, self._wall_ns = clock, wall_ns
        self._wall_clock = WallClock(wall_ns, clock)
        self._live_count = Count(None)
        self._count = Count(None)
        self._journal: Journal | None = None
        """Where a call has not returned in time, its thread may still be at it."""
        self._opened: tuple[Journal, str | None] | None = None
        """One that was opened and not taken over yet, and why it was begun anew, if it was."""
        self._outage: Outage | None = None
        self._retries = Retries()
        self._untold: list[JournalEvent] = []
        self._tried_seq = 0
        """The last event that was to be kept, and may have been although that failed."""
        self._doubt: tuple[str, str] | None = None
        self._look_at_s = self._clock() + LOOK_SECONDS
        self._age_at_s = float("-inf")
        """When events may go for their age again; none could last, as somebody has not got them."""
        self._discarded: Discarded | None = None
        self._discarded_told_at_s = self._fault_logged_s = float("-inf")
        self._discarded_events = 0
        self._wal_told = False
        self._first_seq = self._size_bytes = 0
        self.progress: Mapping[str, Progress] = {}
        """By camera, how far its frames were told when this began, as the journal says."""
        self.since_ns: int | None = None
        """When the journal was made: UTC, ns since 1970; None where it cannot be told."""
        if self._folder is not None:
            self._disk = DiskThread(self._folder)
            self._starting = True
            self._begin(self._folder)
        self._starting = False
        self._publish()

    def _begin(self, folder: Path) -> None:
        try:
            journal = self._open(folder)
            self.progress, self.since_ns = dict(journal.progress), journal.created_at_ns
        except (JournalForeignError, JournalTooNewError):  # nothing that comes or goes by itself
            self._disk.close(lambda: None, 0)
            raise
        except Exception as error:
            self._fall(error)
            self._read_what_can_be(folder)

    def _read_what_can_be(self, folder: Path) -> None:
        """A journal that cannot be written may say all the same how far it got."""

        def read() -> tuple[tuple[int, int], Count, Mapping[str, Progress]]:
            with JournalReader.open(folder) as reader:
                first, last = reader.range()
                return (first, last), Count(reader.journal_id, reader.topics(), last), reader.progress()

        try:
            (self._first_seq, _), self._count, self.progress = self._on_disk(read)
        except Exception as error:
            logger.warning("%s", self._as_fault(error))

    # What the publisher's thread calls.

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and keep events, and complete statuses in their place among them; what is to be sent, in order.

        Nothing makes it fail: what cannot be kept is numbered in this boot's own count.
        """
        done: list[Message] | None = None
        if self._folder is None:
            done = self._complete(messages, self._live_count)
        elif self._outage is None:
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
        if self._folder is None:
            return []
        now_s = self._clock()
        if self._outage is None:
            try:
                self._look_after(self._folder, now_s)
            except Exception as error:
                self._fall(error)
        told: list[Message] = []
        if self._outage is not None and now_s >= self._outage.retry_at_s:
            told += self._recover(self._folder, self._outage, now_s)
        if self._untold if self._outage is None else not self._outage.told:
            told += self.commit([])
        self._publish()
        return told

    def close(self) -> None:
        """Tell the journal what has not been told yet, and let go of it, if the disk answers."""
        if self._folder is None:
            return
        if self._discarded is not None:
            self._tell_discarded(self._discarded, self._clock())
        if self._untold and self._outage is None:
            self.commit([])
        within_s = DISK_SECONDS if self._disk.busy else DISK_SECONDS_AT_START
        if not self._disk.close(self._let_go_of_files, within_s):
            logger.error("%s is left open, its disk does not answer", self._folder / FILE_NAME)

    # What any thread may ask.

    @property
    def keeps(self) -> bool:
        """Whether there is a journal, be it one that cannot be used now. Any thread."""
        return self._folder is not None

    @property
    def journal_id(self) -> str | None:
        """Of the journal in use; None: there is none, or it cannot even be read. Any thread."""
        return self._counts.journal_id

    def state(self) -> JournalState | None:
        """How the journal is, without its consumers; None where the line keeps none. Any thread."""
        return self._state

    def counts(self) -> Counts:
        """How far events are counted. Any thread."""
        return self._counts

    def distrust(self, journal_id: str, why: str) -> None:
        """Somebody found this journal damaged where he read it: if it is still the one in use, it is moved aside, and a
        new one begun. Any thread.
        """
        self._doubt = journal_id, why

    # Keeping.

    def _keep(self, messages: Sequence[Message], progress: Mapping[str, Progress] | None = None) -> list[Message]:
        """Keep events, after those of the journal's own that wait to be told.

        Args:
            progress: by camera, how far its frames had been told before.
        Raises:
            JournalError: none of them is kept, as far as is known.
        """
        journal = self._journal
        assert journal is not None
        count = self._count.copy()
        done = self._complete([*map(Message, self._untold), *messages], count)
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
            self._tried_seq = records[-1].seq
            try:
                self._on_disk(lambda: journal.append(records, reached))
            except JournalFullError:
                # What is free inside the file can be used even where the disk has no room any more.
                self._make_room(journal)
                if journal.last_seq < records[0].seq:
                    self._on_disk(lambda: journal.append(records, reached))
        self._count, self._untold = count, []
        self._note_size(journal)
        if records:
            self._wake_all()
        return done

    def _wake_all(self) -> None:
        for wake in self.wake:
            try:
                wake()
            except Exception as error:  # the events are kept
                self._log_fault(error)

    def _let_go(self, messages: Sequence[Message]) -> list[Message]:
        """Number events in this boot's own count, after one that says that it has come to that."""
        outage = self._outage
        assert outage is not None
        if not outage.told:
            outage.told = True
            said = self._event("live_only", f"events are not kept from now on: {outage.error}")
            messages = [Message(said), *messages]
        outage.note(messages)
        return self._complete(messages, self._live_count)

    def _complete(self, messages: Sequence[Message], count: Count) -> list[Message]:
        """Messages with their place in a count."""
        return [
            replace(
                message,
                event=self._status(message.event, count)
                if isinstance(message.event, StatusEvent)
                else count.next(message.event),
                header=None,
            )
            for message in messages
        ]

    def _status(self, status: StatusEvent, count: Count) -> StatusEvent:
        """A status, at a count."""
        kept = self._count if count is self._live_count else count
        state = self._state_at(kept)
        return msgspec.structs.replace(
            status,
            last_seq=count.last_seq,
            journal_id=count.journal_id,
            counts=self._counts_at(kept),
            journal=None if state is None else msgspec.structs.replace(state, consumers=self._consumers_now()),
        )

    def _consumers_now(self) -> dict[str, Consumer]:
        try:
            return self._consumers()
        except Exception as error:
            self._log_fault(error)
            return {}

    # What goes wrong, and what is done then.

    def _fall(self, error: Exception) -> None:
        """Go on live only."""
        fault = self._as_fault(error)
        now_s = self._clock()
        damaged = str(fault) if isinstance(fault, JournalDamagedError) else None
        at_once = damaged is not None and self._retries.steady(now_s)  # what helps then is known
        wait_s = self._retries.next_wait_s(now_s)
        retry_at_s = now_s if at_once else now_s + wait_s
        self._outage = Outage(fault, retry_at_s, wait_s, self._live_count.last_seq + 1, damaged=damaged)
        self._let_go_after(fault)
        logger.error("events are not kept from now on: %s", fault)

    def _as_fault(self, error: Exception) -> JournalError:
        """An error as one of the journal's; any other is a fault of ours, which must not keep events back either."""
        if isinstance(error, JournalError):
            return error
        self._log_fault(error)
        return JournalFailedError(f"events could not be journalled ({type(error).__name__}: {error}); see the log")

    def _log_fault(self, error: Exception) -> None:
        now_s = self._clock()
        if now_s - self._fault_logged_s >= SECONDS_BETWEEN_FAULTS_LOGGED:
            self._fault_logged_s = now_s
            logger.error("an event could not be dealt with as it should be", exc_info=error)

    def _let_go_after(self, fault: JournalError) -> None:
        """Let go of the file, except where the disk is full, as opening takes room that may not be there, or does not
        answer.
        """
        journal = self._journal
        if journal is None or isinstance(fault, JournalFullError | JournalHungError):
            return
        self._journal = None
        try:
            self._on_disk(journal.close)
        except Exception as error:
            logger.warning("%s", self._as_fault(error))

    def _recover(self, folder: Path, outage: Outage, now_s: float) -> list[Message]:
        """Try to keep events again; what is to be sent if they are: first of all, what the journal does not hold."""
        if self._disk.busy:
            return []
        try:
            if outage.damaged is not None:
                outage.why_anew = f"{outage.damaged}; it is {self._move_aside(folder)} now"
                outage.damaged = None
            journal = self._journal
            if journal is None:
                journal = self._open(folder, outage.why_anew)
                # What a disk failed to write may be what it had said to have written: all of it is written anew.
                self._on_disk(journal.checkpoint)
            else:
                self._make_room(journal)
                self._take_over(journal)
            outage.about_to_tell(self._live_count.last_seq)
            done = self._keep([Message(self._recording(outage))], outage.progress)
        except Exception as error:
            fault = self._as_fault(error)
            self._let_go_after(fault)
            if type(fault) is not type(outage.error):
                logger.error("events are still not kept: %s", fault)
            outage.failed(fault, now_s)
            return []
        self._outage = None
        self._retries.back(now_s)
        logger.info("events are kept again, in journal %s", journal.journal_id)
        return done

    def _recording(self, outage: Outage) -> JournalEvent:
        events = self._live_count.last_seq - outage.first_seq + 1
        return self._event(
            "recording",
            f"events are kept again; {events} are not in the journal ({outage.error})",
            events=events,
            by_topic=dict(outage.by_topic),
            of_boot=self._boot_id,
            first_seq=outage.first_seq if events else None,
            last_seq=self._live_count.last_seq if events else None,
        )

    # The file.

    def _on_disk(self, call: Callable[[], T]) -> T:
        """What a call returns that waits for the disk.

        Raises:
            JournalHungError: it has not returned yet.
        """
        return self._disk.run(call, DISK_SECONDS_AT_START if self._starting else DISK_SECONDS)

    def _open(self, folder: Path, why: str | None = None) -> Journal:
        """Open the journal, or a new one in the place of a damaged one.

        Args:
            why: there is no journal, if it is known.
        Raises:
            JournalError: it cannot be.
        """
        if self._opened is None:  # else it came late
            self._on_disk(lambda: self._open_or_begin(folder))
        assert self._opened is not None
        (journal, why_anew), self._opened = self._opened, None
        self._journal = journal
        before = self._count
        if journal.journal_id != before.journal_id:
            self._untold, self._discarded, self._first_seq = [], None, 0  # they were of another journal
        self._take_over(journal)
        if journal.last_seq == 0:
            self._untold = [self._event("begun", why_anew or why or "there was no journal")]
        elif before.journal_id not in (None, journal.journal_id):
            said = f"{why}; " if why else ""
            self._untold = [
                self._event(
                    "begun",
                    f"{said}in the place of journal {before.journal_id} is one that was begun before, "
                    f"{journal.journal_id}: it goes on after event {journal.last_seq}",
                )
            ]
        return journal

    def _open_or_begin(self, folder: Path) -> None:
        """Called by the disk's thread."""
        why = None
        try:
            journal = self._open_if_none_is_missing(folder)
        except JournalDamagedError as error:
            logger.error("%s", error)
            why = f"{error}; it is {move_aside(folder / FILE_NAME).name} now"
            journal = self._open_if_none_is_missing(folder)
        self._opened = journal, why

    def _open_if_none_is_missing(self, folder: Path) -> Journal:
        """Open the journal.

        Raises:
            JournalDamagedError: events are missing that were in it: to go on would be to number others like them.
            JournalError: it cannot be opened.
        """
        journal = Journal.open(folder, self._line, most_bytes=self._retention.most_bytes)
        known = self._count.last_seq if self._count.journal_id == journal.journal_id else 0
        known = max(known, *self._acked(journal.journal_id).values(), 0)
        if journal.last_seq < known:
            journal.close()
            raise JournalDamagedError(
                f"{journal.path} is older than it was: it ends with event {journal.last_seq}, and had event {known}"
            )
        return journal

    def _move_aside(self, folder: Path) -> str:
        return self._on_disk(lambda: move_aside(folder / FILE_NAME)).name

    def _let_go_of_files(self) -> None:
        """Called by the disk's thread at the end, when nothing else is."""
        for journal in (self._journal, self._opened[0] if self._opened else None):
            if journal is not None:
                journal.close()
        self._journal = self._opened = None

    def _take_over(self, journal: Journal) -> None:
        """Count as the file says. It may have what was to be kept last, although that seemed to have failed."""
        same = journal.journal_id == self._count.journal_id
        if same and self._count.last_seq < self._tried_seq <= journal.last_seq:
            self._untold = []
            if self._outage is not None:
                self._outage.was_told()
        first_seq = journal.first_seq or journal.last_seq + 1
        if same and 0 < self._first_seq < first_seq:  # and what was to be deleted
            self._note_gone(Gone(self._first_seq, first_seq - 1, {}), self._acked(journal.journal_id), self._clock())
        self._count = Count(journal.journal_id, journal.topics, journal.last_seq)
        self._note_size(journal)

    def _look_after(self, folder: Path, now_s: float) -> None:
        """See that the journal is what it was, and that it does not grow.

        Raises:
            JournalError: it is not, or it cannot be seen to.
        """
        journal, doubt = self._journal, self._doubt
        assert journal is not None
        if doubt is not None:
            self._doubt = None
            if doubt[0] == journal.journal_id:
                raise JournalDamagedError(doubt[1])
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_SECONDS
            try:
                self._on_disk(journal.require_in_place)
            except JournalReplacedError as error:
                logger.error("%s", error)
                self._let_go_after(error)
                journal = self._open(folder, str(error))
            self._tell_what_is_in_the_way(journal)
        quiet = not self._discard_some(journal, now_s)
        discarded = self._discarded
        if discarded is not None and now_s - self._discarded_told_at_s >= SECONDS_BETWEEN_DISCARDED_TOLD:
            long = now_s - discarded.since_s >= SECONDS_BETWEEN_DISCARDED_TOLD
            if quiet or long:
                self._tell_discarded(discarded, now_s)

    def _tell_what_is_in_the_way(self, journal: Journal) -> None:
        if journal.wal_bytes <= WAL_KEPT_BYTES:
            self._wal_told = False
        elif journal.wal_bytes > WAL_TOLD_BYTES and not self._wal_told:
            self._wal_told = True
            logger.warning("%s", self._on_disk(journal.in_the_way))

    def _make_room(self, journal: Journal) -> None:
        """What a full disk leaves to be done.

        Raises:
            JournalError: not even that can be done.
        """
        self._on_disk(journal.checkpoint)
        self._on_disk(journal.require_little_beside)
        until_s = time.monotonic() + ROOM_SECONDS
        while self._discard_some(journal, self._clock()) and time.monotonic() < until_s:
            pass
        self._on_disk(journal.look_again)

    def _discard_some(self, journal: Journal, now_s: float) -> bool:
        """Delete what is due, as much as goes at once; whether something was."""
        now_ns = self._wall_clock.trusted_ns()
        if now_s < self._age_at_s:
            now_ns = None
        if not self._retention.is_due(journal, now_ns):
            return False
        acked = self._acked(journal.journal_id)

        def discard() -> Gone | None:
            try:
                return self._retention.discard_some(journal, acked, now_ns)
            except JournalFullError:  # deleting takes room too, beside the file
                journal.checkpoint()
                return self._retention.discard_some(journal, acked, now_ns)

        gone = self._on_disk(discard)
        if gone is None:
            self._age_at_s = now_s + LOOK_SECONDS
            return False
        self._note_gone(gone, acked, now_s)
        self._note_size(journal)
        return True

    def _note_gone(self, gone: Gone, acked: Mapping[str, int], now_s: float) -> None:
        """Some have gone: who has missed them is to be told."""
        missed = [name for name, seq in acked.items() if seq < gone.last_seq]
        if missed:
            if self._discarded is None:
                self._discarded = Discarded(gone.first_seq, gone.last_seq, now_s)
            self._discarded.add(gone, missed)
            self._discarded_events += gone.last_seq - gone.first_seq + 1

    def _tell_discarded(self, discarded: Discarded, now_s: float) -> None:
        names = sorted(discarded.consumers)
        said = self._event(
            "discarded",
            f"events {discarded.first_seq} to {discarded.last_seq} had to make room; "
            f"{', '.join(names)} never got them, or not all",
            events=discarded.events,
            by_topic=discarded.by_topic,
            first_seq=discarded.first_seq,
            last_seq=discarded.last_seq,
            consumers=names,
        )
        logger.warning("%s", said.detail)
        self._untold.append(said)
        self._discarded, self._discarded_told_at_s = None, now_s

    # What is said of it.

    def _event(self, what: str, detail: str, **fields: object) -> JournalEvent:
        """An event of the journal's own; it gets its number later."""
        event = JournalEvent(
            boot_id=self._boot_id, seq=0, at_ns=self._wall_ns(), line=self._line, what=what, detail=_safe(detail)
        )
        return msgspec.structs.replace(event, **fields)

    def _note_size(self, journal: Journal) -> None:
        """Beyond what it always has there, what is beside the file counts."""
        self._first_seq = journal.first_seq
        self._size_bytes = journal.size_bytes + max(0, journal.wal_bytes - WAL_KEPT_BYTES)

    def _publish(self) -> None:
        """Let other threads see where things are: what they get is never changed."""
        self._counts = self._counts_at(self._count)
        self._state = self._state_at(self._count)

    def _counts_at(self, kept: Count) -> Counts:
        return Counts(
            journal_id=kept.journal_id, journalled=dict(kept.topics), unjournalled=dict(self._live_count.topics)
        )

    def _state_at(self, kept: Count) -> JournalState | None:
        if self._folder is None:
            return None
        begins = self._count.last_seq + 1 if kept.last_seq > self._count.last_seq else 0
        return JournalState(
            journal_id=kept.journal_id,
            first_seq=self._first_seq or begins,
            last_seq=kept.last_seq,
            size_bytes=self._size_bytes,
            live_only=None if self._outage is None else _safe(str(self._outage.error)),
            unjournalled=self._live_count.last_seq,
            discarded=self._discarded_events,
        )


def _safe(text: str) -> str:
    """Text that can be sent: an error may name what is no text."""
    return on_one_line(sayable(text))
