"""A client under faults, in a process of its own, which records each event before it requests the next.

python -m tests.system.chaos.client ROLE       ROLE: a Role, in JSON
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import msgspec

from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.errors import EventsLostError
from heatline.edge.wire.events import Message, StatusEvent, header_of
from tests.system.chaos.records import Began, Got, Missed, Record, StatusReceived

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
    return [sys.executable, "-m", "tests.system.chaos.client", msgspec.json.encode(role).decode()]


def main() -> None:
    role = msgspec.json.decode(sys.argv[1], type=Role)
    with contextlib.closing(Record(Path(role.record))) as record:
        record.add(Began(at_ns=time.time_ns()))
        (follow if role.events is None else listen)(role, record)


if __name__ == "__main__":
    main()
