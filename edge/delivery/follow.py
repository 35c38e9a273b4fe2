"""Serves the journal to durable consumers, and stores their positions. docs/durable.md describes the protocol."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import zmq

from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.journal import FILE_NAME as JOURNAL
from heatline.edge.delivery.journal import Contents, JournalReader, Page, journal_errors
from heatline.edge.delivery.servers import REQUESTS_AT_ONCE, Route, RouterServer
from heatline.edge.errors import JournalError
from heatline.edge.util.files import make_folder, replacing, sync_folder
from heatline.edge.wire import following as wire
from heatline.edge.wire.events import Consumer
from heatline.edge.wire.requests import Refused, refuse, to_bytes

logger = logging.getLogger(__name__)

FILE_NAME = "consumers.json"
NOT_KNOWN = "(not known)"
"""Takes the place of the consumers' names while the file cannot be read."""
HEARTBEAT_SECONDS = 1.0
TICK_MS = 100
SECONDS_BETWEEN_WRITES = 1.0
"""Interval at which acknowledgements are stored."""
SECONDS_BETWEEN_TRIES = 1.0
"""After a fault of the journal."""
PASSES_AT_THE_END = 100
BYTES_PER_BATCH = 1 << 20
"""A larger event makes a batch of its own."""
BYTES_UNACKNOWLEDGED = 4 << 20
"""A consumer with this many unacknowledged bytes gets no more events, whatever its window."""


class Position(NamedTuple):
    """How far a consumer has acknowledged."""

    journal_id: str
    acked_seq: int
    """All events up to this one were acknowledged."""
    seen_at_ns: int
    """Time of its last request: UTC, ns since 1970."""

    def in_journal(self, journal_id: str) -> int:
        """Return the last event of a journal that was acknowledged; 0 if none was."""
        return self.acked_seq if self.journal_id == journal_id else 0


class _FileOfJournal:
    """A file in the journal's folder. Its fault is logged when it begins and when it is over."""

    waiting: ClassVar[str]
    """What waits for the file during a fault, as a clause."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fault: str | None = None
        """Why the file cannot be used now, as a sentence; None while it can."""
        self._failed_s = float("-inf")

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """Raise a fault of the disk as a JournalError."""
        try:
            with journal_errors(self._path):
                yield
        except JournalError as error:
            if self.fault is None:
                logger.error("%s; %s", error, self.waiting)
            self.fault, self._failed_s = str(error), time.monotonic()
            raise
        if self.fault is not None:
            logger.info("%s can be used again", self._path)
        self.fault = None


class Consumers(_FileOfJournal):
    """The durable consumers of a line, and their positions: a file beside the journal.

    A fault of the disk ends nothing: acknowledgements stay in memory, and `write` tries again. One thread changes
    consumers; any thread may read them. Until the file is read, there are no consumers, none can be added, and no event
    counts as acknowledged: it could be deleted although a consumer did not get it.
    """

    waiting = "the positions of durable consumers wait for it"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE_NAME)
        self.positions: Mapping[str, Position] = {}
        """The position of each consumer by name. A snapshot, which is never changed."""
        self._written: Mapping[str, Position] | None = None
        """What the file holds; None: it was not read yet."""
        self.write()

    @property
    def has_lost_names(self) -> bool:
        """Whether a damaged file lies beside this one: a name that seems new may be one of these."""
        return self._path.with_name(f"{FILE_NAME}.damaged").exists()

    def acked(self, journal_id: str) -> dict[str, int]:
        """Return the last event of a journal that each consumer acknowledged, as it is on the disk. After a crash, a
        consumer continues after it: later events must not be deleted.
        """
        written = {NOT_KNOWN: Position("", 0, 0)} if self._written is None else self._written
        return {name: each.in_journal(journal_id) for name, each in written.items()}

    def register(self, name: str, journal_id: str, acked_seq: int) -> None:
        """Register a new consumer on the disk, or raise a JournalError: from now on, events are retained for it."""
        self._store({**self.positions, name: Position(journal_id, acked_seq, time.time_ns())})

    def forget(self, name: str) -> None:
        """Remove a consumer from the disk; otherwise like `register`."""
        self._store({each: position for each, position in self.positions.items() if each != name})

    def acknowledge(self, name: str, journal_id: str, seq: int) -> None:
        """Record that a consumer acknowledged all events up to one. The next `write` stores it."""
        self.positions = {**self.positions, name: Position(journal_id, seq, time.time_ns())}

    def write(self) -> None:
        """Store the acknowledgements on the disk, or read the file first. If that fails, a later call tries again."""
        with contextlib.suppress(JournalError):
            if self._written is None:
                with self._used():
                    self.positions = self._written = self._read()
            elif self.positions != self._written:
                self._store(self.positions)

    def _read(self) -> dict[str, Position]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Position])
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, UnicodeDecodeError):
            aside = self._path.replace(self._path.with_name(f"{FILE_NAME}.damaged"))
            logger.error("%s was damaged; it is %s now, and all consumers are new", self._path, aside)
            return {}

    def _store(self, positions: Mapping[str, Position]) -> None:
        if self._written is None:
            raise JournalError(self.fault or f"{self._path} was not read yet")
        with self._used():
            make_folder(self._path.parent)
            with replacing(self._path, unique=True) as new:
                new.write_bytes(msgspec.json.encode(positions))
            sync_folder(self._path.parent)
        self.positions = self._written = positions


class JournalTail(_FileOfJournal):
    """The end of a folder's journal, read by one thread; opened again when it was replaced or could not be read."""

    waiting = "durable consumers wait until it can be read"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / JOURNAL)
        self._reader: JournalReader | None = None
        self.held = Contents()
        """What the journal held that was read last."""

    def refresh(self) -> None:
        if self._reader is not None and (self.fault is not None or not self._reader.is_in_place):
            self.close()
        if self.fault is not None and time.monotonic() < self._failed_s + SECONDS_BETWEEN_TRIES:
            return
        with contextlib.suppress(JournalError), self._used():
            self._reader = self._reader or JournalReader.open_file(self._path)
            self.held = self._reader.contents()

    def read(self, after_seq: int, **wanted: Any) -> Page:
        """Read events as `JournalReader.read` does."""
        if self._reader is None or self.fault is not None:
            raise JournalError(self.fault or "the journal is being opened")
        with self._used():
            return self._reader.read(after_seq, **wanted)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Subscription:
    """What a consumer was sent of one journal on one connection, what its window allows, and what is sent next."""

    def __init__(self, route: Route, request: wire.FollowRequest, journal_id: str, acked_seq: int) -> None:
        self.route, self.request, self.journal_id = route, request, journal_id
        self.sent_through = acked_seq
        """The consumer knows that it has all events up to this one; the next batch starts after it."""
        self.scanned_through = acked_seq
        """All events up to this one were scanned, and those of the consumer's topics were sent."""
        self.last_event = acked_seq
        """The last event, or notice of a loss, that was sent."""
        self.acked_seq = acked_seq
        """The last event up to which the consumer wants none again."""
        self.taken_seq = acked_seq
        """The last event that it has acknowledged at all."""
        self.unacknowledged: deque[tuple[int, int]] = deque()
        """Events in flight: number and bytes of each."""
        self.sent_s = time.monotonic()

    def next_page(self, journal: JournalTail) -> Page | None:
        """Return the next page of the journal, as far as the window allows; None if there is no event or no room."""
        room = self.request.window - len(self.unacknowledged)
        bytes_left = BYTES_UNACKNOWLEDGED - sum(size for _, size in self.unacknowledged)
        if self.scanned_through >= journal.held.last_seq or room <= 0 or bytes_left <= 0:
            return None
        return journal.read(
            self.scanned_through,
            topics=self.request.topics,
            at_most=room,
            at_most_bytes=min(bytes_left, BYTES_PER_BATCH),
            heatmaps=self.request.heatmaps,
        )

    def sent(self, page: Page) -> None:
        if page.lost_through is not None:
            self.await_acknowledgement(page.lost_through)
        for record in page.records:
            self.await_acknowledgement(record.seq, len(record.header) + len(record.heatmap or b""))
        self.sent_through = self.scanned_through = page.through_seq

    def await_acknowledgement(self, seq: int, size: int = 0) -> None:
        """Record that an event, or the notice of a loss, is in flight. A notice is repeated until acknowledged."""
        self.last_event = seq
        self.unacknowledged.append((seq, size))

    def acknowledge(self, seq: int) -> None:
        self.taken_seq = max(seq, self.taken_seq)
        while self.unacknowledged and self.unacknowledged[0][0] <= seq:
            self.unacknowledged.popleft()


class FollowServer(RouterServer[wire.Request]):
    """Sends events as far as the consumers' windows allow. When it is closed, it first sends what is in the journal.

    A consumer that reads nothing has at most `BYTES_UNACKNOWLEDGED` and one event in flight. At least every
    `heartbeat_s`, it gets a batch, which may be empty.
    """

    name = "journal"
    protocol = wire.PROTOCOL
    send_high_water_mark = 8
    """Dropped messages are sent again."""
    options: ClassVar[Mapping[int, int]] = {zmq.ROUTER_MANDATORY: 1}
    """Sending reports a client that has gone or takes nothing."""

    def __init__(
        self,
        address: str,
        folder: Path,
        consumers: Consumers,
        heartbeat_s: float = HEARTBEAT_SECONDS,
        access: Access | None = None,
    ) -> None:
        super().__init__(address, access)
        self._consumers = consumers
        self._heartbeat_s = heartbeat_s
        self._journal = JournalTail(folder)
        self._subscriptions: dict[str, Subscription] = {}
        self._wrote_s = float("-inf")

    def states(self) -> dict[str, Consumer]:
        """Return the state of each consumer, by name: how far it is, also if it keeps its position. Any thread."""
        journal_id, subscriptions = self._journal.held.journal_id, dict(self._subscriptions)
        taken = {name: each.taken_seq for name, each in subscriptions.items() if each.journal_id == journal_id}
        return {
            name: Consumer(
                acked_seq=max(each.in_journal(journal_id), taken.get(name, 0)),
                connected=name in subscriptions,
                seen_at_ns=each.seen_at_ns,
            )
            for name, each in self._consumers.positions.items()
        }

    def _serve(self) -> None:
        more = False
        while not self._closing:
            self._wait(0 if more else TICK_MS)
            more = self._run_once()
        for _ in range(PASSES_AT_THE_END):
            if not self._run_once():
                break
        self._consumers.write()
        self._journal.close()

    def _run_once(self) -> bool:
        """Do all work that is due; return whether more is left."""
        try:
            # Before the journal is read: a new consumer begins in the journal as it is after its request.
            requests = list(self._requests(REQUESTS_AT_ONCE))
            self._journal.refresh()
            for subscription in list(self._subscriptions.values()):
                if subscription.journal_id != self._journal.held.journal_id:
                    self._begin(subscription.route, subscription.request)
            for route, request in requests:
                match request:
                    case Refused():
                        self._send(route, [to_bytes(request)])
                    case wire.FollowRequest():
                        self._follow(route, request)
                    case wire.AckRequest():
                        self._acknowledge(route, request)
                    case wire.ForgetRequest():
                        self._forget(route, request)
            more = [self._push(subscription) for subscription in list(self._subscriptions.values())]
            if time.monotonic() - self._wrote_s >= SECONDS_BETWEEN_WRITES:
                self._consumers.write()
                self._wrote_s = time.monotonic()
            return any(more)
        except Exception as error:  # a bug must not end the service for all consumers
            self._faults.error("%s: durable consumers could not be served", self.address, exc_info=error)
            return False

    # Requests.

    def _follow(self, route: Route, request: wire.FollowRequest) -> None:
        name, held = request.name, self._journal.held
        try:
            if not held.journal_id:
                raise JournalError(self._journal.fault or "the journal was not read yet")
            if name not in self._consumers.positions:
                is_next = request.start == "next" and not self._consumers.has_lost_names
                after_seq = held.last_seq if is_next or not held.first_seq else held.first_seq - 1
                self._consumers.register(name, held.journal_id, after_seq)
        except JournalError as error:
            self._refuse(route, "unavailable", f"{error}; follow again")
            return
        before = self._subscriptions.pop(name, None)
        if before is not None and before.request.client != request.client:
            self._refuse(before.route, "superseded", f"a newer client follows as {name}; only one can")
        self._end(route)  # a socket follows under one name only
        self._consumers.acknowledge(name, *self._consumers.positions[name][:2])  # it was seen
        self._begin(route, request)

    def _begin(self, route: Route, request: wire.FollowRequest) -> None:
        """Begin to send to a consumer, after the last event that it acknowledged."""
        name, held = request.name, self._journal.held
        position = self._consumers.positions[name]
        acked_seq = position.in_journal(held.journal_id)
        self._subscriptions[name] = subscription = Subscription(route, request, held.journal_id, acked_seq)
        former = None
        if position.journal_id != held.journal_id:
            former = wire.Former(journal_id=position.journal_id, acked_seq=position.acked_seq)
            subscription.await_acknowledgement(acked_seq)
            subscription.acked_seq = acked_seq - 1
        following = wire.Following(
            name=name,
            journal_id=held.journal_id,
            acked_seq=acked_seq,
            first_seq=held.first_seq,
            last_seq=held.last_seq,
            heartbeat_s=self._heartbeat_s,
            former=former,
        )
        if not self._send(route, [to_bytes(following)]):
            self._end(route)

    def _acknowledge(self, route: Route, request: wire.AckRequest) -> None:
        subscription = self._subscription_of(route)
        if subscription is None or subscription.request.name != request.name:
            self._refuse(route, "not_following", f"this client does not follow as {request.name}; follow first")
        elif subscription.journal_id != request.journal_id:
            now = f"the line's journal is {subscription.journal_id} now"
            self._refuse(route, "other_journal", f"{now}; the acknowledgement names another one")
        elif request.seq > subscription.sent_through:
            sent = f"only events up to {subscription.sent_through} were sent"
            self._refuse(route, "not_sent", f"event {request.seq} was acknowledged, but {sent}")
        else:
            subscription.acknowledge(request.seq)
            if not request.keep_position:
                subscription.acked_seq = request.seq
                self._record_position(subscription)

    def _forget(self, route: Route, request: wire.ForgetRequest) -> None:
        name, names = request.name, sorted(self._consumers.positions)
        if name in self._subscriptions:
            self._send_page(self._subscriptions[name], None)  # notices a client that has gone
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there is none"
            self._refuse(route, "unknown_consumer", f"there is no consumer {name}; {known}", request.request_id)
        elif name in self._subscriptions:
            self._refuse(route, "busy", f"a client follows as {name}; end it first", request.request_id)
        else:
            try:
                self._consumers.forget(name)
            except JournalError as error:
                self._refuse(route, "unavailable", f"{error}; ask again", request.request_id)
                return
            self._send(route, [to_bytes(wire.Forgotten(request_id=request.request_id, name=name))])

    # Events.

    def _push(self, subscription: Subscription) -> bool:
        """Send a consumer at most one batch, as far as its window allows; return whether there is more. An empty batch
        is a heartbeat, which also notices a client that has gone.
        """
        page = None
        with contextlib.suppress(JournalError):  # logged before, and tried again
            page = subscription.next_page(self._journal)
        if page is not None and (page.records or page.lost_through is not None):
            if not self._send_page(subscription, page):
                return False
        elif page is not None:
            subscription.scanned_through = page.through_seq
            if subscription.acked_seq >= subscription.last_event:
                self._record_position(subscription)
        if time.monotonic() - subscription.sent_s >= self._heartbeat_s:
            self._send_page(subscription, None)
        return page is not None and subscription.scanned_through < self._journal.held.last_seq

    def _send_page(self, subscription: Subscription, page: Page | None) -> bool:
        """Send a page, or a heartbeat; return whether the client took it."""
        sent = page or Page([], subscription.scanned_through, None)
        batch = wire.Batch(
            journal_id=subscription.journal_id,
            after_seq=subscription.sent_through,
            through_seq=sent.through_seq,
            last_seq=max(self._journal.held.last_seq, sent.through_seq),
            events=len(sent.records),
            lost_through=sent.lost_through,
        )
        parts = wire.batch_parts(batch, [(record.header, record.heatmap) for record in sent.records])
        took = self._send(subscription.route, parts)
        subscription.sent_s = time.monotonic()
        if took:
            subscription.sent(sent)
        return took

    def _record_position(self, subscription: Subscription) -> None:
        """Record a position. Events that the topics leave out count as acknowledged once all that were sent are."""
        name, journal_id, acked_seq = subscription.request.name, subscription.journal_id, subscription.acked_seq
        if acked_seq >= subscription.last_event:
            acked_seq = subscription.scanned_through
        before = self._consumers.positions[name].in_journal(journal_id)
        self._consumers.acknowledge(name, journal_id, max(acked_seq, before))

    # Sockets.

    def _subscription_of(self, route: Route) -> Subscription | None:
        return next((each for each in self._subscriptions.values() if each.route[0] == route[0]), None)

    def _end(self, route: Route) -> None:
        client, subscriptions = route[0], self._subscriptions.items()
        self._subscriptions = {name: each for name, each in subscriptions if each.route[0] != client}

    def _send(self, route: Route, parts: Sequence[bytes]) -> bool:
        """Send parts; return whether the client took them. The subscription of a client that has gone ends."""
        for _ in range(2):
            try:
                self._socket.send_multipart([*route, *parts], zmq.NOBLOCK)
            except zmq.Again:
                self._socket.getsockopt(zmq.EVENTS)  # has ZeroMQ process what the client read meanwhile
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._end(route)
                return False
            else:
                return True
        return False

    def _refuse(self, route: Route, reason: wire.Reason, detail: str, request_id: str | None = None) -> None:
        refused = refuse(reason, detail, request_id)
        self._count(refused)
        self._send(route, [to_bytes(refused)])
