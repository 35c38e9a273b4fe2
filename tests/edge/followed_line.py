"""A line as durable consumers see it: a journal, the server of the journal, and bare sockets that follow it."""

import contextlib
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.follow import Consumers, FollowServer
from heatline.edge.delivery.journal import Journal, Record
from heatline.edge.wire.events import AlarmEvent, BundleName, CountedEvent, PartEvent, Times, VerdictEvent
from heatline.edge.wire.following import (
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    Reply,
    Request,
    events_of,
    reply_from,
)
from heatline.edge.wire.requests import Refused, to_bytes
from tests.edge.secured import WITHIN_SECONDS as WITHIN_SECONDS
from tests.edge.secured import until

HEARTBEAT_SECONDS = 0.1
BOOT = "0123456789abcdef0123456789abcdef"
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)
GOOD, DEFECT, ALARM, PART = "verdict.top.GOOD", "verdict.top.DEFECT", "alarm", "part.NO_VERDICT"


def event(seq: int, topic: str, journal_id: str | None, detail: str = "") -> CountedEvent:
    """Return an event with a topic."""
    if topic == "alarm":
        return AlarmEvent(
            boot_id=BOOT, seq=seq, at_ns=seq, line="line1", camera="top", alarm="silent", detail=detail, active=True,
            began_at_ns=seq, acting=True, journal_id=journal_id, previous_seq=0,
        )  # fmt: skip
    if topic == PART:
        return PartEvent(
            boot_id=BOOT, seq=seq, at_ns=seq, line="line1", part_id=f"P-{seq}", verdict="NO_VERDICT",
            reason="part.missing", views=[], missing=["side"], began_at_ns=seq, latency_ms=9.0, bundle=BUNDLE,
            acting=True, journal_id=journal_id, previous_seq=0,
        )  # fmt: skip
    _, camera, verdict = topic.split(".")
    return VerdictEvent(
        boot_id=BOOT, seq=seq, camera=camera, frame_id=seq, frame_number=seq, part_id=f"P-{seq}",
        times=Times(captured_at_ns=1_790_000_000_123_456_789 + seq, captured_monotonic_ns=seq),
        verdict=msgspec.convert(verdict, type=VerdictEvent.__annotations__["verdict"]), detail=detail or None,
        score_threshold=1.5, evidence_threshold=4.125, precision="f32", bundle=BUNDLE, latency_ms=1.0, acting=True,
        journal_id=journal_id, previous_seq=0,
    )  # fmt: skip


class FollowedLine(contextlib.AbstractContextManager["FollowedLine"]):
    """A journal and its server; the server can be restarted, and the journal replaced."""

    def __init__(
        self, folder: Path, address: str, heartbeat_s: float = HEARTBEAT_SECONDS, access: Access | None = None
    ) -> None:
        self.folder, self.address, self._heartbeat_s = folder, address, heartbeat_s
        self._access = access or Access()
        self.journal = Journal(folder, "line1")
        self._context = zmq.Context()
        self._clients: list[Client] = []
        self.start()

    def client(self, receive_queue: int = 0) -> "Client":
        """Return a new client, which is closed with the line at the latest."""
        self._clients.append(Client(self._context, self.address, receive_queue))
        return self._clients[-1]

    def start(self) -> None:
        self.consumers = Consumers(self.folder)
        self.server = FollowServer(self.address, self.folder, self.consumers, self._heartbeat_s, self._access)
        self.server.start()

    def stop(self) -> None:
        self.server.close()
        self.consumers.write()

    def restart(self) -> None:
        self.stop()
        self.start()

    def add(self, *topics: str, png: bytes | None = None, detail: str = "") -> list[Delivered]:
        """Journal one event for each topic in one commit; return what a consumer gets."""
        first = self.journal.contents.last_seq + 1
        headers = [to_bytes(event(first + n, topic, self.journal_id, detail)) for n, topic in enumerate(topics)]
        self.journal.append(
            [Record(first + n, time.time_ns(), topic, headers[n], png) for n, topic in enumerate(topics)], {}
        )
        self.server.wake()
        return [Delivered(self.journal_id, first + n, header, png) for n, header in enumerate(headers)]

    def replace_journal(self) -> None:
        """Start another journal, as the service does when the old one is damaged."""
        path = self.journal.path
        self.journal.close()
        for file in list(path.parent.glob(f"{path.name}*")):
            file.rename(file.with_name(f"old-{file.name}"))
        self.journal = Journal(self.folder, "line1")

    @property
    def journal_id(self) -> str:
        return self.journal.contents.journal_id

    def acked(self, name: str = "mes1") -> int:
        """Return the last event that a consumer acknowledged; -1 if there is no consumer of this name."""
        position = self.consumers.positions.get(name)
        return position.acked_seq if position else -1

    def wait_until_acked(self, seq: int, name: str = "mes1") -> None:
        wait_until(lambda: self.acked(name) == seq, f"{name} has acknowledged event {seq}")

    def wait_until_on_disk(self, **acked: int) -> None:
        """Wait until the disk holds exactly these acknowledgements."""
        wait_until(lambda: self.consumers.acked(self.journal_id) == acked, f"{acked} is on the disk")

    def wait_until_gone(self, name: str = "mes1") -> None:
        wait_until(lambda: not self.server.states()[name].connected, f"{name} is disconnected")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._context.term()
        self.stop()
        self.journal.close()


class Client:
    """A bare DEALER socket that follows and sends only what the test requests."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, receive_queue: int = 0) -> None:
        self._name, self._journal_id = "mes1", "none"
        self._reached = 0
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, receive_queue)  # 0: all
        self.socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        self.socket.connect(address)

    def send(self, request: Request | bytes) -> None:
        self.socket.send(request if isinstance(request, bytes) else to_bytes(request))

    def follow(self, name: str = "mes1", client: str = "c1", **options: Any) -> Following:
        self.send(FollowRequest(name=name, client=client, **options))
        return self.following()

    def ack(self, seq: int, journal_id: str | None = None, **options: Any) -> None:
        """Acknowledge events of the journal that it follows, under the name that it follows as."""
        self.send(AckRequest(name=self._name, journal_id=journal_id or self._journal_id, seq=seq, **options))

    def receive(self) -> tuple[Reply, list[Delivered]]:
        """Receive the next message; check that batches leave no gap."""
        parts = self.socket.recv_multipart()
        reply = reply_from(parts[0])
        if isinstance(reply, Following):
            self._name, self._journal_id, self._reached = reply.name, reply.journal_id, reply.acked_seq
        if not isinstance(reply, Batch):
            return reply, []
        assert (reply.journal_id, reply.after_seq) == (self._journal_id, self._reached)
        self._reached = reply.through_seq
        return reply, events_of(reply, parts)

    def following(self) -> Following:
        reply, _ = self._receive_content()
        assert isinstance(reply, Following), reply
        return reply

    def refused(self) -> Refused:
        reply, _ = self._receive_content()
        assert isinstance(reply, Refused), reply
        return reply

    def batch(self) -> tuple[Batch, list[Delivered]]:
        """Receive the next batch that is not a heartbeat."""
        reply, events = self._receive_content()
        assert isinstance(reply, Batch), reply
        return reply, events

    def events(self, count: int) -> list[Delivered]:
        """Receive events from any number of batches."""
        received: list[Delivered] = []
        while len(received) < count:
            received += self.batch()[1]
        assert len(received) == count, "a batch had more events than the test expects"
        return received

    def heartbeat(self) -> Batch:
        """Receive the next message, which must be an empty batch: the line has nothing else to send."""
        reply, events = self.receive()
        assert isinstance(reply, Batch), reply
        assert (events, reply.lost_through) == ([], None)
        return reply

    def heartbeat_through(self, seq: int) -> None:
        """Receive only heartbeats, until one reaches an event."""
        wait_until(lambda: self.heartbeat().through_seq == seq, f"a heartbeat reaches event {seq}")

    def close(self) -> None:
        self.socket.close()

    def _receive_content(self) -> tuple[Reply, list[Delivered]]:
        while True:
            reply, events = self.receive()
            if not isinstance(reply, Batch) or events or reply.lost_through is not None:
                return reply, events


wait_until = until
