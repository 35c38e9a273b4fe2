"""The clients of a line under faults, and what each records before it requests the next event.

python -m tests.system.chaos.clients ROLE       ROLE: a Role, in JSON
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from heatline.bench.watched_process import HEATLINE, WatchedProcess
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.errors import EventsLostError
from heatline.edge.wire.events import Counts, Message, StatusEvent, header_of

TAIL_BYTES = 1 << 20
"""Longer than any line."""


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
    last_frame_id: int | None = None
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
        return self.journal_id or f"boot {self.boot_id}"

    @property
    def key(self) -> str:
        return f"{self.count}-{self.seq}"


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """The client was started, and knows no earlier event."""

    at_ns: int
    """UTC, ns since 1970, as in all records."""


class Got(msgspec.Struct, frozen=True, kw_only=True, tag="got"):
    """A received event."""

    at_ns: int
    header: msgspec.Raw


class StatusReceived(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """A received status, with the line's counts."""

    at_ns: int
    boot_id: str
    counts: Counts


class Missed(msgspec.Struct, frozen=True, kw_only=True, tag="missed"):
    """A gap: the client missed at least one of the events after `after_seq` up to `through_seq`."""

    at_ns: int
    journal_id: str | None
    boot_id: str | None
    topic: str | None
    """None: the topic is unknown."""
    after_seq: int
    through_seq: int

    @property
    def count(self) -> str:
        return self.journal_id or f"boot {self.boot_id}"


Item = Began | Got | StatusReceived | Missed

_encoder = msgspec.json.Encoder()
_items: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
_heads = msgspec.json.Decoder(Head)


def item_of(line: bytes) -> Item:
    """Decode a line of a record."""
    return _items.decode(line)


def head_of(header: bytes | msgspec.Raw) -> Head:
    """Decode the checked fields of a header.

    Raises:
        MsgspecError: it is not a header.
    """
    return _heads.decode(header)


class Record:
    """The record file of a client. On creation it removes the unfinished line of a killed client.

    Args:
        path: appended to.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        whole = path.read_bytes().rpartition(b"\n")
        os.ftruncate(self._fd, len(whole[0]) + len(whole[1]))

    def add(self, item: Item) -> None:
        """Write an item, which then outlives the client."""
        line = memoryview(_encoder.encode(item) + b"\n")
        while line:
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        os.close(self._fd)


def read_record(path: Path) -> Iterator[Item]:
    """Read a record, without an unfinished last line."""
    return map(_items.decode, whole_lines(path))


def last_line(path: Path) -> bytes | None:
    """Return the last finished line of a file; None: there is none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(-min(file.seek(0, os.SEEK_END), TAIL_BYTES), os.SEEK_END)
        *lines, _ = file.read().split(b"\n")
        return lines[-1] if lines else None
    return None


def whole_lines(path: Path) -> list[bytes]:
    """Return the finished lines of a file; none if it does not exist."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


SLOW_EVERY, SLOW_S = 20, 0.16
"""Every so many events, a slow client works so long on one; acknowledged too early, a kill would lose it."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a client."""

    name: str
    record: str
    """Path."""
    topics: list[str]
    events: str | None = None
    """Address of the line's events, for a live subscriber."""
    journal: str | None = None
    """Address of the line's journal, for a durable consumer."""
    slow_until: str | None = None
    """The client is slow with some events until this file exists."""


def follow(role: Role, record: Record) -> None:
    """Follow as a durable consumer, which acknowledges an event when it requests the next."""
    assert role.journal is not None
    slow, count = role.slow_until is not None, 0
    with Follower(role.journal, role.name, topics=role.topics) as events:
        while True:
            try:
                for event in events:
                    came_ns = time.time_ns()
                    count += 1
                    if slow and count % SLOW_EVERY == 0:
                        time.sleep(SLOW_S)
                        slow = not Path(str(role.slow_until)).exists()
                    record.add(Got(at_ns=came_ns, header=msgspec.Raw(event.header)))
            except EventsLostError as lost:
                record.add(
                    Missed(
                        at_ns=time.time_ns(),
                        journal_id=lost.journal_id,
                        boot_id=None,
                        topic=None,
                        after_seq=lost.after_seq,
                        through_seq=lost.through_seq,
                    )
                )


def listen(role: Role, record: Record) -> None:
    """Subscribe live."""
    assert role.events is not None
    with Subscriber(role.events, topics=role.topics) as events:
        for received in events:
            match received:
                case Gap():
                    record.add(Missed(at_ns=time.time_ns(), **dataclasses.asdict(received)))
                case Message(event=StatusEvent(counts=counts) as event):
                    record.add(StatusReceived(at_ns=time.time_ns(), boot_id=event.boot_id, counts=counts))
                case Message(event=event) if not isinstance(event, StatusEvent):
                    record.add(Got(at_ns=time.time_ns(), header=msgspec.Raw(header_of(event))))


def client_command(role: Role) -> list[str]:
    """Return the command that runs a client."""
    return [sys.executable, "-m", "tests.system.chaos.clients", msgspec.json.encode(role).decode()]


def main() -> None:
    role = msgspec.json.decode(sys.argv[1], type=Role)
    with contextlib.closing(Record(Path(role.record))) as record:
        record.add(Began(at_ns=time.time_ns()))
        (follow if role.events is None else listen)(role, record)


Kind = Literal["heatline follow", "Follower", "Subscriber"]


class ClientPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A client and the faults that may hit it."""

    name: str
    kind: Kind
    topics: tuple[str, ...] = ("",)
    slow: bool = False
    """Whether it is slow with some events."""
    killed: bool = False
    """Whether it may be killed."""
    stopped: bool = False
    """Whether it may be stopped for a while."""

    @property
    def durable(self) -> bool:
        return self.kind in ("heatline follow", "Follower")

    @property
    def records_statuses(self) -> bool:
        """Whether it records statuses."""
        return self.kind == "Subscriber" and "status".startswith(self.topics)

    @property
    def socket(self) -> Literal["events", "journal"]:
        """The line's socket to which it is connected, by a link."""
        return "journal" if self.durable else "events"

    @property
    def link(self) -> str:
        """Name of its link."""
        return f"{self.name} {self.socket}"


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
    """A client in its process, behind its link.

    Args:
        address: of its link.
        folder: for its files.
        hurry: path of a file that exists when no client may be slow any more.
    """

    def __init__(self, plan: ClientPlan, address: str, folder: Path, hurry: Path) -> None:
        self.plan = plan
        self.record = folder / f"{plan.name}.jsonl"
        self.process = WatchedProcess(
            plan.name,
            self._command(address, hurry),
            folder / f"{plan.name}.log",
            env={"PYTHONUNBUFFERED": "1"},
        )

    @property
    def is_in_use(self) -> bool:
        """Whether it has received an event since its last start."""
        with contextlib.suppress(FileNotFoundError):
            return (
                self.process.runs
                and time.time() - self.record.stat().st_mtime < time.monotonic() - self.process.started_s
            )
        return False

    def headers(self) -> Iterator[bytes]:
        """Return the headers of all events that it received, over all its lives."""
        return filter(None, map(self._header_in, whole_lines(self.record)))

    def last_header(self) -> bytes | None:
        """Return the header of its last record; None if that is not an event."""
        line = last_line(self.record)
        return None if line is None else self._header_in(line)

    def _header_in(self, line: bytes) -> bytes | None:
        if self.plan.kind == "heatline follow":
            return line
        item = item_of(line)
        return bytes(item.header) if isinstance(item, Got) else None

    def _command(self, address: str, hurry: Path) -> Sequence[str | Path]:
        plan = self.plan
        if plan.kind == "heatline follow":
            topics = [word for topic in plan.topics if topic for word in ("--topic", topic)]
            return [*HEATLINE, "follow", address, "--name", plan.name, *topics, "--jsonl", self.record]
        role = Role(
            name=plan.name,
            record=str(self.record),
            topics=list(plan.topics),
            events=None if plan.durable else address,
            journal=address if plan.durable else None,
            slow_until=str(hurry) if plan.slow else None,
        )
        return client_command(role)


if __name__ == "__main__":
    main()
