"""What becomes of an event before it is sent: it is numbered and journalled; where no journal takes it, it goes out all
the same, live only, and that is told.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from edge.delivery.journal import Journal
from edge.delivery.journal_errors import (
    JournalDamagedError,
    JournalForeignError,
    JournalFullError,
    JournalReplacedError,
    JournalTooNewError,
)
from edge.delivery.journal_file import FILE_NAME, move_aside
from edge.delivery.journal_reader import JournalReader
from edge.delivery.journal_rows import Progress, Record
from edge.delivery.messages import (
    Consumer,
    Counts,
    JournalEvent,
    JournalState,
    Message,
    StatusEvent,
    VerdictEvent,
    Welcome,
    header_of,
)
from edge.delivery.numbering import Count
from edge.delivery.retention import Discarded, Retention
from edge.errors import JournalError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""From one attempt to keep events again to the next."""
STEADY_SECONDS = 10.0
"""A journal that fails again within this time after it came back is tried less and less often."""
MOST_RETRY_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""From one look at whether the file is still there to the next."""
SECONDS_BETWEEN_DISCARDED_TOLD = 10.0


@dataclass
class _Outage:
    """A time in which no journal takes events."""

    error: JournalError
    retry_at_s: float
    first_seq: int
    """Of the first event that goes out live only, in the boot's own count."""
    by_topic: Counter[str] = field(default_factory=Counter)
    told: bool = False
    damaged: str | None = None
    """Why the journal that is there must be moved aside first."""
    why_anew: str | None = None
    """Why a new journal is begun, where it is."""


class Journalling:
    """Numbers the events of a boot, keeps them, and completes its statuses. One thread calls it, except where a method
    says otherwise.

    Args:
        line: the line's name.
        boot_id: of this boot.
        folder: of the journal; None: there is none, and events are only numbered.
        keep_s: seconds after which events go.
        keep_bytes: beyond which the oldest go; 0: as without a folder.
        acked: given a journal's id, through which seq each durable consumer has acknowledged it.
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
        self._live_count = Count(None)
        self._count = Count(None)
        self._journal: Journal | None = None
        self._outage: _Outage | None = None
        self._untold: list[JournalEvent] = []
        self._doubt: tuple[str, str] | None = None
        self._wait_s = RETRY_SECONDS
        self._back_at_s = float("-inf")
        self._look_at_s = self._clock() + LOOK_SECONDS
        self._discarded: Discarded | None = None
        self._discarded_told_at_s = float("-inf")
        self._discarded_events = 0
        self._first_seq = self._size_bytes = 0
        self.progress: Mapping[str, Progress] = {}
        """By camera, how far its frames were told when this began, as the journal says."""
        if self._folder is not None:
            self._begin(self._folder)
        self._publish()

    def _begin(self, folder: Path) -> None:
        try:
            journal = self._open(folder)
            self.progress = dict(journal.progress)
        except (JournalForeignError, JournalTooNewError):
            raise  # nothing that comes or goes by itself
        except JournalError as error:
            self._fall(error)
            self._read_what_can_be(folder)

    def _read_what_can_be(self, folder: Path) -> None:
        """A journal that cannot be written may say all the same how far it got."""
        try:
            with JournalReader.open(folder) as reader:
                self._first_seq, last_seq = reader.range()
                self._count = Count(reader.journal_id, reader.topics(), last_seq)
                self.progress = reader.progress()
        except JournalError as error:
            logger.warning("%s", error)

    # What the publisher's thread calls.

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        """Number and keep events, and complete statuses in their place among them; what is to be sent, in order.

        No fault of a disk or of SQLite makes it fail: what cannot be kept is numbered in this boot's own count.
        """
        done: list[Message] | None = None
        if self._folder is None:
            done = self._complete(messages, self._live_count)
        elif self._outage is None:
            try:
                done = self._keep(messages)
            except JournalError as error:
                self._fall(error)
        if done is None:
            done = self._let_go(messages)
        self._publish()
        return done

    def tend(self) -> list[Message]:
        """Try again to keep events, look after the file, delete what is due; what is to be sent of all that."""
        if self._folder is None:
            return []
        now_s = self._clock()
        if self._outage is None:
            self._look_after(self._folder, now_s)
        told: list[Message] = []
        if self._outage is not None and now_s >= self._outage.retry_at_s:
            told += self._recover(self._folder, self._outage, now_s)
        if self._untold if self._outage is None else not self._outage.told:
            told += self.commit([])
        self._publish()
        return told

    def welcome(self) -> Welcome:
        """Where the counts are. Any thread."""
        return Welcome(boot_id=self._boot_id, line=self._line, counts=self._counts)

    def close(self) -> None:
        """Tell the journal what has not been told yet, and let go of it."""
        if self._discarded is not None:
            self._tell_discarded(self._discarded, self._clock())
        if self._untold and self._outage is None:
            self.commit([])
        if self._journal is not None:
            self._journal.close()
            self._journal = None

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

    def _keep(self, messages: Sequence[Message]) -> list[Message]:
        """Keep events, after those of the journal's own that wait to be told.

        Raises:
            JournalError: none of them is kept, as far as is known.
        """
        journal = self._journal
        assert journal is not None
        count = self._count.copy()
        done = self._complete([*map(Message, self._untold), *messages], count)
        at_ns = self._wall_ns()
        records: list[Record] = []
        progress: dict[str, Progress] = {}
        for event, png in ((message.event, message.png) for message in done):
            if isinstance(event, StatusEvent):
                continue
            records.append(Record(event.seq, at_ns, event.topic, header_of(event), png))
            if isinstance(event, VerdictEvent):
                progress[event.camera] = Progress(event.boot_id, event.frame_number + event.frames - 1)
        if records:
            try:
                journal.append(records, progress)
            except JournalFullError:
                # What is free inside the file can be used even where the disk has no room any more.
                self._make_room(journal)
                if journal.last_seq < records[0].seq:
                    journal.append(records, progress)
        self._count, self._untold = count, []
        self._note_size(journal)
        if records:
            for wake in self.wake:
                wake()
        return done

    def _let_go(self, messages: Sequence[Message]) -> list[Message]:
        """Number events in this boot's own count, after one that says that it has come to that."""
        outage = self._outage
        assert outage is not None
        if not outage.told:
            outage.told = True
            said = self._event("live_only", f"events are not kept from now on: {outage.error}")
            messages = [Message(said), *messages]
        outage.by_topic.update(m.event.topic for m in messages if not isinstance(m.event, StatusEvent))
        return self._complete(messages, self._live_count)

    def _complete(self, messages: Sequence[Message], count: Count) -> list[Message]:
        """Messages with their place in a count."""
        return [
            replace(
                message,
                event=self._status(message.event, count)
                if isinstance(message.event, StatusEvent)
                else count.next(message.event),
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
            journal=None if state is None else msgspec.structs.replace(state, consumers=self._consumers()),
        )

    # What goes wrong, and what is done then.

    def _fall(self, error: JournalError) -> None:
        """Go on live only."""
        now_s = self._clock()
        steady = now_s - self._back_at_s >= STEADY_SECONDS
        self._wait_s = RETRY_SECONDS if steady else min(2 * self._wait_s, MOST_RETRY_SECONDS)
        damaged = str(error) if isinstance(error, JournalDamagedError) else None
        at_once = damaged is not None and steady  # what helps then is known
        retry_at_s = now_s if at_once else now_s + self._wait_s
        self._outage = _Outage(error, retry_at_s, self._live_count.last_seq + 1, damaged=damaged)
        self._let_go_of_file(error)
        logger.error("events are not kept from now on: %s", error)

    def _let_go_of_file(self, error: JournalError) -> None:
        """After a fault, except where the disk is full: opening takes room that may not be there."""
        if self._journal is not None and not isinstance(error, JournalFullError):
            self._journal.close()
            self._journal = None

    def _recover(self, folder: Path, outage: _Outage, now_s: float) -> list[Message]:
        """Try to keep events again; what is to be sent if they are: first of all, what the journal does not hold."""
        try:
            if outage.damaged is not None:
                outage.why_anew = f"{outage.damaged}; it is {move_aside(folder / FILE_NAME).name} now"
                outage.damaged = None
            journal = self._journal
            if journal is None:
                journal = self._open(folder, outage.why_anew)
                # What a disk failed to write may be what it had said to have written: all of it is written anew.
                journal.checkpoint()
            else:
                self._make_room(journal)
                self._take_over(journal)
            done = self._keep([Message(self._recording(outage))])
        except JournalError as error:
            self._let_go_of_file(error)
            if type(error) is not type(outage.error):
                logger.error("events are still not kept: %s", error)
            outage.error = error
            if isinstance(error, JournalDamagedError):
                outage.damaged = str(error)
            outage.retry_at_s = now_s + self._wait_s
            return []
        self._outage = None
        self._back_at_s = now_s
        logger.info("events are kept again, in journal %s", journal.journal_id)
        return done

    def _recording(self, outage: _Outage) -> JournalEvent:
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

    def _open(self, folder: Path, why: str | None = None) -> Journal:
        """Open the journal, or a new one in the place of a damaged one.

        Args:
            why: there is no journal, if it is known.
        Raises:
            JournalError: it cannot be.
        """
        try:
            journal = self._open_if_none_is_missing(folder)
        except JournalDamagedError as error:
            logger.error("%s", error)
            why = f"{error}; it is {move_aside(folder / FILE_NAME).name} now"
            journal = self._open_if_none_is_missing(folder)
        self._journal = journal
        if journal.journal_id != self._count.journal_id:
            self._untold, self._discarded = [], None  # they were of another journal
        self._take_over(journal)
        if journal.last_seq == 0:
            self._untold = [self._event("begun", why or "there was no journal")]
        return journal

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

    def _take_over(self, journal: Journal) -> None:
        """Count as the file says."""
        self._count = Count(journal.journal_id, journal.topics, journal.last_seq)
        self._note_size(journal)

    def _look_after(self, folder: Path, now_s: float) -> None:
        """See that the journal is what it was, and that it does not grow."""
        journal, doubt = self._journal, self._doubt
        assert journal is not None
        try:
            if doubt is not None:
                self._doubt = None
                if doubt[0] == journal.journal_id:
                    raise JournalDamagedError(doubt[1])
            if now_s >= self._look_at_s:
                self._look_at_s = now_s + LOOK_SECONDS
                journal.require_in_place()
            quiet = not self._discard_some(journal, now_s)
            discarded = self._discarded
            if discarded is not None and now_s - self._discarded_told_at_s >= SECONDS_BETWEEN_DISCARDED_TOLD:
                long = now_s - discarded.since_s >= SECONDS_BETWEEN_DISCARDED_TOLD
                if quiet or long:
                    self._tell_discarded(discarded, now_s)
        except JournalReplacedError as error:
            logger.error("%s", error)
            journal.close()
            self._journal = None
            try:
                self._open(folder, str(error))
            except JournalError as failed:
                self._fall(failed)
        except JournalError as error:
            self._fall(error)

    def _make_room(self, journal: Journal) -> None:
        """What a full disk leaves to be done.

        Raises:
            JournalError: not even that can be done.
        """
        journal.checkpoint()
        self._discard_some(journal, self._clock())
        journal.look_again()

    def _discard_some(self, journal: Journal, now_s: float) -> bool:
        """Delete what is due, as much as goes at once; whether something was."""
        now_ns = self._wall_ns()
        if not self._retention.is_due(journal, now_ns):
            return False
        acked = self._acked(journal.journal_id)
        try:
            gone = self._retention.discard_some(journal, acked, now_ns)
        except JournalFullError:  # deleting takes room too, beside the file
            journal.checkpoint()
            gone = self._retention.discard_some(journal, acked, now_ns)
        if gone is None:
            return False
        self._note_size(journal)
        missed = [name for name, seq in acked.items() if seq < gone.last_seq]
        if missed:
            if self._discarded is None:
                self._discarded = Discarded(gone.first_seq, gone.last_seq, now_s)
            self._discarded.add(gone, missed)
            self._discarded_events += gone.last_seq - gone.first_seq + 1
        return True

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
            boot_id=self._boot_id, seq=0, at_ns=self._wall_ns(), line=self._line, what=what, detail=detail
        )
        return msgspec.structs.replace(event, **fields)

    def _note_size(self, journal: Journal) -> None:
        self._first_seq, self._size_bytes = journal.first_seq, journal.size_bytes

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
            live_only=None if self._outage is None else str(self._outage.error),
            unjournalled=self._live_count.last_seq,
            discarded=self._discarded_events,
        )
