"""A line as far as durable consumers see it: a journal that is written, and the server of it. And who talks to it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec
import zmq

from edge.delivery.durable.consumers import Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.durable.following import (
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    Refused,
    Reply,
    Request,
    events_of,
    reply_from,
    to_bytes,
)
from edge.delivery.journal.journal import Journal
from edge.delivery.journal.rows import Record
from edge.delivery.messages import AlarmEvent, BundleName, CountedEvent, Times, VerdictEvent, header_of

WITHIN_SECONDS = 40.0
"""Bounds what would otherwise hang; never what is measured."""
HEARTBEAT_SECONDS = 0.1
BOOT = "0123456789abcdef0123456789abcdef"
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)
GOOD, DEFECT, ALARM = "verdict.top.GOOD", "verdict.top.DEFECT", "alarm"


def event(seq: int, topic: str, journal_id: str | None, detail: str = "") -> CountedEvent:
    """An event under a topic."""
    if topic == "alarm":
        return AlarmEvent(
            boot_id=BOOT, seq=seq, at_ns=seq, line="line1", camera="top", alarm="silent", detail=detail, active=True,
            began_at_ns=seq, acting=True, journal_id=journal_id, previous_seq=0,
        )  # fmt: skip
    _, camera, verdict = topic.split(".")
    return VerdictEvent(
        boot_id=BOOT, seq=seq, camera=camera, frame_id=seq, frame_number=seq, part_id=f"P-{seq}",
        times=Times(captured_at_ns=1_790_000_000_123_456_789 + seq, captured_monotonic_ns=seq),
        verdict=msgspec.convert(verdict, type=VerdictEvent.__annotations__["verdict"]), detail=detail or None,
        score_threshold=1.5, evidence_threshold=4.125, precision="f32", bundle=BUNDLE, latency_ms=1.0, acting=True,
        journal_id=journal_id, previous_seq=0,
    )  # fmt: skip


def append_one(journal: Journal) -> None:
    """Journal an event that nobody is told of."""
    seq = journal.last_seq + 1
    header = header_of(event(seq, ALARM, journal.journal_id))
    journal.append([Record(seq, time.time_ns(), ALARM, header)], {})


class FollowedLine:
    """A journal, and what serves it; both can be ended and begun again."""

    def __init__(self, folder: Path, address: str, heartbeat_s: float = HEARTBEAT_SECONDS) -> None:
        self.folder, self.address, self._heartbeat_s = folder, address, heartbeat_s
        self.journal = Journal.open(folder, "line1")
        self.start()

    def start(self) -> None:
        self.consumers = Consumers(self.folder)
        self.server = FollowServer(self.address, self.folder, self.consumers, heartbeat_s=self._heartbeat_s)
        self.server.start()

    def stop(self) -> None:
        self.server.close()
        self.consumers.close()

    def tell(self, *topics: str, png: bytes | None = None, detail: str = "") -> list[Delivered]:
        """Journal an event under each topic in one commit, and have it served; what a consumer gets of it."""
        first = self.journal.last_seq + 1
        headers = [
            header_of(event(first + place, topic, self.journal.journal_id, detail))
            for place, topic in enumerate(topics)
        ]
        self.journal.append(
            [Record(first + n, time.time_ns(), topic, headers[n], png) for n, topic in enumerate(topics)], {}
        )
        self.server.wake()
        return [Delivered(self.journal.journal_id, first + n, header, png) for n, header in enumerate(headers)]

    def begin_another_journal(self) -> None:
        """As the service does with one that is damaged."""
        path = self.journal.path
        self.journal.close()
        for file in list(path.parent.glob(f"{path.name}*")):
            file.rename(file.with_name(f"old-{file.name}"))
        self.journal = Journal.open(self.folder, "line1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.journal.close()


class Client:
    """A bare DEALER socket that follows, and says each thing only when the test does."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, messages_kept: int = 0) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, messages_kept)  # 0: all
        self.socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        self.socket.connect(address)

    def send(self, request: Request | bytes) -> None:
        self.socket.send(request if isinstance(request, bytes) else to_bytes(request))

    def follow(self, name: str = "mes1", client: str = "c1", **wanted: object) -> Following:
        self.send(FollowRequest(name=name, client=client, **wanted))  # type: ignore[arg-type]
        return self.following()

    def ack(self, seq: int, journal_id: str, name: str = "mes1") -> None:
        self.send(AckRequest(name=name, journal_id=journal_id, seq=seq))

    def receive(self) -> tuple[Reply, list[Delivered]]:
        parts = self.socket.recv_multipart()
        reply = reply_from(parts[0])
        return reply, events_of(reply, parts) if isinstance(reply, Batch) else []

    def following(self) -> Following:
        reply, _ = self._other_than_heartbeats()
        assert isinstance(reply, Following), reply
        return reply

    def refused(self) -> Refused:
        reply, _ = self._other_than_heartbeats()
        assert isinstance(reply, Refused), reply
        return reply

    def batch(self) -> tuple[Batch, list[Delivered]]:
        """The next batch that says anything."""
        reply, events = self._other_than_heartbeats()
        assert isinstance(reply, Batch), reply
        return reply, events

    def events(self, count: int) -> list[Delivered]:
        """The next events, of however many batches."""
        came: list[Delivered] = []
        while len(came) < count:
            came += self.batch()[1]
        assert len(came) == count, "more came at once than the test knows of"
        return came

    def heartbeat(self) -> Batch:
        """The next message, which must be a batch of no events: the line had nothing else to say."""
        reply, events = self.receive()
        assert isinstance(reply, Batch), reply
        assert events == []
        assert reply.lost_through is None
        return reply

    def heartbeat_until(self, true: Callable[[Batch], bool]) -> Batch:
        give_up = time.monotonic() + WITHIN_SECONDS
        while not true(beat := self.heartbeat()):
            assert time.monotonic() < give_up, beat
        return beat

    def close(self) -> None:
        self.socket.close()

    def _other_than_heartbeats(self) -> tuple[Reply, list[Delivered]]:
        while True:
            reply, events = self.receive()
            if not isinstance(reply, Batch) or events or reply.lost_through is not None:
                return reply, events


@contextlib.contextmanager
def clients(address: str) -> Iterator[Callable[..., Client]]:
    """Makes clients of one address, and closes them at the end."""
    with contextlib.ExitStack() as opened:
        context = opened.enter_context(zmq.Context())

        def client(messages_kept: int = 0) -> Client:
            made = Client(context, address, messages_kept)
            opened.callback(made.close)
            return made

        yield client


def keys(events: Sequence[Delivered]) -> list[str]:
    return [each.key for each in events]


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Look again and again; the bound is generous."""
    give_up = time.monotonic() + WITHIN_SECONDS
    while not true():
        assert time.monotonic() < give_up, f"not within {WITHIN_SECONDS:.0f} s: {what}"
        time.sleep(0.01)
