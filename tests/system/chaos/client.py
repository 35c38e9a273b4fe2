"""A client under faults, in a process of its own: records each event before it asks for more.

python -m tests.system.chaos.client ROLE       ROLE: a Role, in JSON
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

import msgspec

from edge.delivery.client.follower import Follower
from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.subscriber import Subscriber
from edge.errors import EventsLostError
from edge.wire.events import Message, StatusEvent, header_of
from tests.system.chaos.records import Began, Got, Heard, Missed, Record

SLOW_EVERY, SLOW_S = 20, 0.16
"""So many events are worked on for so long: one that had been acknowledged too early would be lost by a kill."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What a client does."""

    name: str
    record: str
    """Path."""
    topics: list[str]
    events: str | None = None
    """Where the line publishes: it listens live."""
    journal: str | None = None
    """Where the line serves its journal: it follows."""
    slow_until: str | None = None
    """It takes its time with some events until there is a file of this path."""


def follow(role: Role, record: Record) -> None:
    """As a durable consumer: an event is acknowledged as the next one is asked for."""
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
    """Live."""
    assert role.events is not None
    with Subscriber(role.events, topics=role.topics) as events:
        for heard in events:
            match heard:
                case Gap():
                    record.add(Missed(at_ns=time.time_ns(), **dataclasses.asdict(heard)))
                case Message(event=StatusEvent(counts=counts) as event):
                    record.add(Heard(at_ns=time.time_ns(), boot_id=event.boot_id, counts=counts))
                case Message(event=event) if not isinstance(event, StatusEvent):
                    record.add(Got(at_ns=time.time_ns(), header=msgspec.Raw(header_of(event))))


def client_command(role: Role) -> list[str]:
    """What runs this."""
    return [sys.executable, "-m", "tests.system.chaos.client", msgspec.json.encode(role).decode()]


def main() -> None:
    role = msgspec.json.decode(sys.argv[1], type=Role)
    with contextlib.closing(Record(Path(role.record))) as record:
        record.add(Began(at_ns=time.time_ns()))
        (follow if role.events is None else listen)(role, record)


if __name__ == "__main__":
    main()
