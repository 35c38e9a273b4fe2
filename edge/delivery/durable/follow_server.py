"""Serves the journal to durable consumers. docs/durable.md describes the protocol."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zmq

from heatline.edge.delivery.auth import Access, Authenticator
from heatline.edge.delivery.durable.consumers import MOST_CONSUMERS, Consumers
from heatline.edge.delivery.durable.journal_tail import JournalTail
from heatline.edge.delivery.durable.subscription import Subscription
from heatline.edge.delivery.journal.reader import Page
from heatline.edge.delivery.servers import REQUESTS_AT_ONCE, Route, RouterServer
from heatline.edge.delivery.sockets import notice_vanished_peers
from heatline.edge.errors import JournalError
from heatline.edge.wire.events import Consumer
from heatline.edge.wire.following import (
    PROTOCOL,
    AckRequest,
    Following,
    FollowRequest,
    ForgetRequest,
    Forgotten,
    Former,
    Reason,
    Request,
    refusal,
)
from heatline.edge.wire.requests import Refused, to_bytes

HEARTBEAT_SECONDS = 1.0
SEND_HIGH_WATER_MARK = 8
"""Messages queued for a client that does not read. Dropped messages are sent again."""
TICK_MS = 100
"""Interval at which acknowledgements are stored."""
SUPERSEDED_KEPT = 16
"""Clients of a name that are refused because a newer one came."""
PASSES_AT_THE_END = 100


class FollowServer(RouterServer[Request]):
    """Sends events as far as the consumers' windows allow. When it is closed, it first sends what is in the journal.

    A consumer that reads nothing has at most `BYTES_UNACKNOWLEDGED` and one event in flight.

    Args:
        address: ZeroMQ address to bind, `tcp://...` or `ipc://...`.
        folder: folder of the journal.
        consumers: positions of the consumers.
        heartbeat_s: longest time between two batches to a consumer, which may be empty.
        access: who may connect, if the address is not local.
    """

    thread_name = "follow"
    name = "journal"
    protocol = PROTOCOL
    send_high_water_mark = SEND_HIGH_WATER_MARK

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
        self.on_damaged: list[Callable[[str, str], None]] = []
        """Functions to call, on the server's thread, with the id of a damaged journal and what is wrong with it."""
        self._journal = JournalTail(folder, self.on_damaged)
        self._subscriptions: dict[str, Subscription] = {}
        self._connected: frozenset[str] = frozenset()
        self._superseded: dict[str, deque[str]] = {}
        self._wrote_s = float("-inf")

    def wake(self) -> None:
        """Send new events now. Any thread."""
        with self._lock:
            self._wake_up()

    @property
    def refused(self) -> Mapping[str, int]:
        """Number of refusals since the start, by reason. Any thread."""
        socket = f"{self.name}."
        counts = self._access.refusals.counts()
        return {name.removeprefix(socket): count for name, count in counts.items() if name.startswith(socket)}

    def states(self) -> dict[str, Consumer]:
        """Return the state of each consumer, by name: how far it is, also if it keeps its position. Any thread."""
        connected, journal_id = self._connected, self._journal.journal_id or ""
        try:
            positions = self._consumers.positions()
        except JournalError:
            return {}
        subscriptions = [each for each in list(self._subscriptions.values()) if each.journal_id == journal_id]
        taken = {each.request.name: each.taken_seq for each in subscriptions}
        return {
            name: Consumer(
                acked_seq=max(each.in_journal(journal_id), taken.get(name, 0)),
                connected=name in connected,
                seen_at_ns=each.seen_at_ns,
            )
            for name, each in positions.items()
        }

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        super()._set_up(socket)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending reports a client that has gone or takes nothing
        notice_vanished_peers(socket)

    def _serve(self, socket: zmq.Socket[bytes], authenticator: Authenticator) -> None:
        more = False
        while not self._closing:
            woken = self._wait(socket, 0 if more else TICK_MS)
            try:
                more = self._run_once(socket, authenticator, woken)
            except Exception as error:  # a bug must not end the service for all consumers
                self._faults.error("%s: durable consumers could not be served", self.address, exc_info=error)
                more = False
        try:
            for _ in range(PASSES_AT_THE_END):
                if not self._run_once(socket, authenticator, woken=True):
                    break
        except Exception as error:
            self._faults.error("%s: durable consumers could not be served", self.address, exc_info=error)
        self._consumers.write()
        self._journal.close()

    def _run_once(self, socket: zmq.Socket[bytes], authenticator: Authenticator, woken: bool) -> bool:
        """Do all work that is due; return whether more is left."""
        authenticator.tick()
        if self._journal.refresh(at_once=woken):
            for subscription in list(self._subscriptions.values()):
                self._begin(socket, subscription)
        for route, request in self._requests(socket, authenticator, REQUESTS_AT_ONCE):
            self._take(socket, route, request)
        more = [self._push(socket, subscription) for subscription in list(self._subscriptions.values())]
        self._send_due_heartbeats(socket)
        now_s = time.monotonic()
        if now_s - self._wrote_s >= TICK_MS / 1000:
            self._consumers.write()
            self._wrote_s = now_s
        return any(more)

    # Requests.

    def _take(self, socket: zmq.Socket[bytes], route: Route, request: Request | Refused) -> None:
        match request:
            case Refused():
                self._send(socket, route, [to_bytes(request)])
            case FollowRequest():
                self._follow(socket, route, request)
            case AckRequest():
                self._acknowledge(socket, route, request)
            case ForgetRequest():
                self._forget(socket, route, request)

    def _follow(self, socket: zmq.Socket[bytes], route: Route, request: FollowRequest) -> None:
        name = request.name
        if request.client in self._superseded.get(name, ()):
            self._refuse(socket, route, "superseded", f"a newer client follows as {name}; only one can")
            return
        try:
            self._require_registered(request)
        except _TooManyConsumersError as error:
            self._refuse(socket, route, "too_many_consumers", str(error))
            return
        except JournalError as error:
            self._refuse(socket, route, "unavailable", f"{error}; follow again")
            return
        before = self._subscriptions.pop(name, None)
        if before is not None and before.request.client != request.client:
            self._superseded.setdefault(name, deque(maxlen=SUPERSEDED_KEPT)).append(before.request.client)
            superseded = refusal("superseded", f"a newer client follows as {name}; only one can")
            if self._send(socket, before.route, [to_bytes(superseded)]):  # otherwise the client had gone
                self._count(superseded)
        other = self._subscription_of(route)
        if other is not None:  # a socket follows under one name only
            self._end(other)
        self._subscriptions[name] = subscription = Subscription(route, request)
        self._connected = frozenset(self._subscriptions)
        self._consumers.seen(name)
        self._begin(socket, subscription)

    def _require_registered(self, request: FollowRequest) -> None:
        """Register a new consumer.

        Raises:
            JournalError: the journal cannot be read now, or the consumer cannot be registered.
        """
        journal = self._journal
        if journal.journal_id is None:
            raise JournalError(journal.fault or "the journal was not read yet")
        positions = self._consumers.positions()
        if request.name in positions:
            return
        if len(positions) >= MOST_CONSUMERS:
            raise _TooManyConsumersError(
                f"there are {MOST_CONSUMERS} consumers already; remove one that is not used any more "
                "(heatline follow --forget)"
            )
        first = journal.first_seq - 1 if journal.first_seq else journal.last_seq
        # A consumer that existed before must not miss the events sent meanwhile.
        from_next = request.start == "next" and not self._consumers.lost_consumers
        self._consumers.register(request.name, journal.journal_id, journal.last_seq if from_next else first)

    def _begin(self, socket: zmq.Socket[bytes], subscription: Subscription) -> None:
        """Begin to send to a consumer, after the last event that it acknowledged."""
        name, journal = subscription.request.name, self._journal
        assert journal.journal_id is not None
        position = self._consumers.positions()[name]
        acked_seq = position.in_journal(journal.journal_id)
        subscription.begin(journal.journal_id, acked_seq)
        former = None
        if position.journal_id != journal.journal_id:
            former = Former(journal_id=position.journal_id, acked_seq=position.acked_seq)
            subscription.await_acknowledgement(acked_seq)
            subscription.acked_seq = acked_seq - 1
        following = Following(
            name=name,
            journal_id=journal.journal_id,
            acked_seq=acked_seq,
            first_seq=journal.first_seq,
            last_seq=journal.last_seq,
            heartbeat_s=self._heartbeat_s,
            former=former,
        )
        if self._send(socket, subscription.route, [to_bytes(following)]):
            subscription.sent_s = time.monotonic()
        else:
            self._end(subscription)

    def _acknowledge(self, socket: zmq.Socket[bytes], route: Route, request: AckRequest) -> None:
        subscription = self._subscription_of(route)
        if subscription is None or subscription.request.name != request.name:
            self._refuse(socket, route, "not_following", f"this client does not follow as {request.name}; follow first")
        elif subscription.journal_id != request.journal_id:
            detail = f"the line's journal is {subscription.journal_id} now; the acknowledgement names another one"
            self._refuse(socket, route, "other_journal", detail)
        elif request.seq > subscription.sent_through:
            detail = (
                f"event {request.seq} was acknowledged, but only events up to {subscription.sent_through} were sent"
            )
            self._refuse(socket, route, "not_sent", detail)
        else:
            subscription.acknowledge(request.seq)
            if not request.keep_position:
                subscription.acked_seq = request.seq
                self._record_position(subscription)

    def _forget(self, socket: zmq.Socket[bytes], route: Route, request: ForgetRequest) -> None:
        name = request.name
        try:
            names = sorted(self._consumers.positions())
            if name not in names:
                known = f"there are {', '.join(names)}" if names else "there is none"
                detail = f"there is no consumer {name}; {known}"
                self._refuse(socket, route, "unknown_consumer", detail, request.request_id)
                return
            if name in self._subscriptions:
                self._send_heartbeat(socket, self._subscriptions[name])  # notices a client that has gone
            if name in self._subscriptions:
                detail = f"a client follows as {name}; end it first"
                self._refuse(socket, route, "busy", detail, request.request_id)
                return
            self._consumers.forget(name)
        except JournalError as error:
            self._refuse(socket, route, "unavailable", f"{error}; ask again", request.request_id)
            return
        self._superseded.pop(name, None)
        self._send(socket, route, [to_bytes(Forgotten(request_id=request.request_id, name=name))])

    # Events.

    def _push(self, socket: zmq.Socket[bytes], subscription: Subscription) -> bool:
        """Send a consumer at most one batch, as far as its window allows; return whether there is more."""
        try:
            page = subscription.next_page(self._journal)
        except JournalError:  # logged before, and tried again
            return False
        if page is None:
            return False
        if page.records or page.lost_through is not None:
            if not self._send(socket, subscription.route, subscription.batch(page, self._journal.last_seq)):
                subscription.full_s = time.monotonic()
                return False
            subscription.sent(page)
        else:
            subscription.scanned_through = page.through_seq
            if subscription.acked_seq >= subscription.last_event:
                self._record_position(subscription)
        return subscription.scanned_through < self._journal.last_seq

    def _send_due_heartbeats(self, socket: zmq.Socket[bytes]) -> None:
        """Send the heartbeats that are due, and notice clients that have gone."""
        for subscription in list(self._subscriptions.values()):
            if time.monotonic() - subscription.sent_s >= self._heartbeat_s:
                self._send_heartbeat(socket, subscription)

    def _send_heartbeat(self, socket: zmq.Socket[bytes], subscription: Subscription) -> None:
        nothing = Page([], subscription.scanned_through, None)
        if self._send(socket, subscription.route, subscription.batch(nothing, self._journal.last_seq)):
            subscription.sent_through = subscription.scanned_through
        subscription.sent_s = time.monotonic()

    def _record_position(self, subscription: Subscription) -> None:
        """Record a position. Events that the topics leave out count as acknowledged once all that were sent are."""
        name, journal_id, acked_seq = subscription.request.name, subscription.journal_id, subscription.acked_seq
        if acked_seq >= subscription.last_event:
            acked_seq = subscription.scanned_through
        before = self._consumers.positions()[name].in_journal(journal_id)
        self._consumers.acknowledge(name, journal_id, max(acked_seq, before))

    # Sockets.

    def _subscription_of(self, route: Route) -> Subscription | None:
        return next((each for each in self._subscriptions.values() if each.route[0] == route[0]), None)

    def _end(self, subscription: Subscription) -> None:
        if self._subscriptions.get(subscription.request.name) is subscription:
            del self._subscriptions[subscription.request.name]
        self._connected = frozenset(self._subscriptions)

    def _send(self, socket: zmq.Socket[bytes], route: Route, parts: Sequence[bytes]) -> bool:
        """Send parts; return whether the client took them. The subscription of a client that has gone ends."""
        try:
            try:
                socket.send_multipart([*route, *parts], zmq.NOBLOCK)
            except zmq.Again:
                socket.getsockopt(zmq.EVENTS)  # has ZeroMQ process what the client read meanwhile
                socket.send_multipart([*route, *parts], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            subscription = self._subscription_of(route)
            if subscription is not None:
                self._end(subscription)
            return False
        return True

    def _refuse(
        self, socket: zmq.Socket[bytes], route: Route, reason: Reason, detail: str, request_id: str | None = None
    ) -> None:
        refused = refusal(reason, detail, request_id)
        self._count(refused)
        self._send(socket, route, [to_bytes(refused)])


class _TooManyConsumersError(JournalError):
    pass
