"""The clients of a line under faults, and what each records before it requests the next event.

python -m tests.system.chaos.clients PLAN ADDRESS RECORD       PLAN: a ClientPlan, in JSON
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.wire.events import Counts, Message, StatusEvent
from heatline.edge.wire.requests import to_bytes
from tests.command import HEATLINE
from tests.edge.lines import Restartable


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The checked fields of an event's header, read as docs/protocol.md describes, without heatline's own code."""

    type: str
    boot_id: str
    seq: int = 0
    journal_id: str | None = None
    previous_seq: int | None = None
    camera: str | None = None
    verdict: str | None = None
    reason: str | None = None
    frame_id: int | None = None
    frame_number: int = 0
    frames: int = 1
    times: dict[str, int | None] = {}
    kind: str | None = None
    of_boot: str | None = None
    events: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def topic(self) -> str:
        return f"verdict.{self.camera}.{self.verdict}" if self.type == "verdict" else self.type

    @property
    def count(self) -> str:
        """Count that `seq` belongs to: of the journal, or of the boot's events that no journal holds."""
        return self.journal_id or self.boot_id

    @property
    def key(self) -> str:
        return f"{self.count}-{self.seq}"


class Began(msgspec.Struct, frozen=True, tag="began"):
    """The client was started, and knows no earlier event."""


class Got(msgspec.Struct, frozen=True, kw_only=True, tag="got"):
    """A received event."""

    at_ns: int
    """UTC, ns since 1970."""
    header: msgspec.Raw


class StatusReceived(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """A received status, with the line's counts."""

    boot_id: str
    counts: Counts


class Missed(msgspec.Struct, frozen=True, kw_only=True, tag="missed"):
    """A gap: the client missed at least one of the events after `after_seq` up to `through_seq`."""

    journal_id: str | None
    boot_id: str
    topic: str
    after_seq: int
    through_seq: int

    @property
    def count(self) -> str:
        return self.journal_id or self.boot_id


Item = Began | Got | StatusReceived | Missed

_items: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
_heads = msgspec.json.Decoder(Head)


def head_of(header: bytes | msgspec.Raw) -> Head:
    """Decode the checked fields of a header."""
    return _heads.decode(header)


class Record:
    """The record file of a client. On creation it removes the unfinished line of a killed client. `path`: appended
    to."""

    def __init__(self, path: Path) -> None:
        path.touch()
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab", buffering=0)

    def add(self, item: Item) -> None:
        """Write an item, which then outlives the client."""
        self._file.write(msgspec.json.encode(item) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_record(path: Path) -> Iterator[Item]:
    """Read a record, without an unfinished last line."""
    return map(_items.decode, whole_lines(path))


def whole_lines(path: Path) -> list[bytes]:
    """Return the finished lines of a file; none if it does not exist."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


SLOW_EVERY, SLOW_S = 50, 0.1
"""Every so many events, a durable consumer works so long on one; acknowledged too early, a kill would lose it."""


class ClientPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A client and the faults that may hit it, besides those of its link."""

    name: str
    kind: Literal["heatline follow", "Follower", "Subscriber"]
    topics: tuple[str, ...] = ("",)
    slow: bool = False
    killed: bool = False
    """Whether it may be killed."""
    stopped: bool = False
    """Whether it may be stopped for a while."""

    @property
    def durable(self) -> bool:
        return self.kind != "Subscriber"


def follow(plan: ClientPlan, address: str, record: Record) -> None:
    """Follow as a durable consumer, which acknowledges an event when it requests the next."""
    with Follower(address, plan.name, topics=plan.topics) as events:
        for number, event in enumerate(events):
            came_ns = time.time_ns()
            if plan.slow and number % SLOW_EVERY == 0:
                time.sleep(SLOW_S)
            record.add(Got(at_ns=came_ns, header=msgspec.Raw(event.header)))


def listen(plan: ClientPlan, address: str, record: Record) -> None:
    """Subscribe live."""
    with Subscriber(address, topics=plan.topics) as events:
        for received in events:
            match received:
                case Gap():
                    record.add(Missed(**dataclasses.asdict(received)))
                case Message(event=StatusEvent(counts=counts) as event):
                    record.add(StatusReceived(boot_id=event.boot_id, counts=counts))
                case Message(event=event) if not isinstance(event, StatusEvent):
                    record.add(Got(at_ns=time.time_ns(), header=msgspec.Raw(to_bytes(event))))


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=ClientPlan)
    with contextlib.closing(Record(Path(sys.argv[3]))) as record:
        record.add(Began())
        (follow if plan.durable else listen)(plan, sys.argv[2], record)


CLIENTS = (
    ClientPlan(name="mes", kind="heatline follow", killed=True),
    ClientPlan(name="ejectors", kind="heatline follow", topics=("verdict.left.",), killed=True),
    ClientPlan(name="gateway", kind="Follower", killed=True),
    ClientPlan(name="archive", kind="Follower", slow=True, killed=True),
    ClientPlan(name="cell", kind="Follower", killed=True, stopped=True),
    ClientPlan(name="screen", kind="Subscriber"),
    ClientPlan(name="counter", kind="Subscriber", stopped=True),
    ClientPlan(name="lamp", kind="Subscriber", topics=("verdict.right.", "alarm")),
)


class Client:
    """A client in its process, behind its link. `address`: of its link, to the line's journal for a durable consumer,
    else to its events. `folder`: for its files."""

    def __init__(self, plan: ClientPlan, address: str, folder: Path) -> None:
        self.plan = plan
        self.record = folder / f"{plan.name}.jsonl"
        command: list[str | Path]
        if plan.kind == "heatline follow":
            topics = [word for topic in plan.topics if topic for word in ("--topic", topic)]
            command = [HEATLINE, "follow", address, "--name", plan.name, *topics, "--jsonl", self.record]
        else:
            text = msgspec.json.encode(plan).decode()
            command = [sys.executable, "-m", "tests.system.chaos.clients", text, address, self.record]
        self.process = Restartable(plan.name, command, folder / f"{plan.name}.log")

    def headers(self) -> list[bytes]:
        """Return the headers of all events that it received, over all its lives."""
        if self.plan.kind == "heatline follow":
            return whole_lines(self.record)
        return [bytes(item.header) for item in read_record(self.record) if isinstance(item, Got)]


if __name__ == "__main__":
    main()
