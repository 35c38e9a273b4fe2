"""The expected events: all events of a line, from its journals and from all live subscribers."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from tests.system.chaos.records import head_of

Promise = Literal["journal", "lost", "order", "bytes", "unknown", "unsubscribed", "gap", "frames", "report"]


class Broken(msgspec.Struct, frozen=True):
    """A broken promise.

    `journal`: the journal contradicts itself. `lost`: a stored event did not come. `order`: events came in the wrong
    order. `bytes`: an event came with other bytes than stored. `unknown`: an event came that is not stored.
    `unsubscribed`: an event came of a topic without a subscription. `gap`: an event did not come, and its subscriber
    reported no gap, or it reported a gap, but all events came. `frames`: a frame has no event, or two. `report`: the
    journal does not report how many events it lacks.
    """

    who: str
    promise: Promise
    what: str


class Stored(msgspec.Struct, frozen=True):
    """An event as stored in the journal."""

    seq: int
    topic: str
    header: bytes


class Expected:
    """All events of a run.

    Args:
        journals: events of each journal in its order; journals in the order of their begin.
        received: headers of all events that were received live, the only source of those that no journal holds.
        boots: of the line, in their order.
    """

    def __init__(
        self, journals: Mapping[str, Sequence[Stored]], received: Iterable[bytes], boots: Sequence[str] = ()
    ) -> None:
        self.journals, self.boots = journals, boots
        self.received = list(received)
        self.headers: dict[tuple[str, int], bytes] = {}
        """Headers by count and number."""
        self.topics: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Numbers by count and topic, ascending."""
        self.reports_of: dict[str, list[tuple[str, int]]] = defaultdict(list)
        """By boot: events which report that no journal holds some events of that boot."""
        self.broken: list[Broken] = []
        """Events that were received with different bytes, or that no journal holds though they name one."""
        for journal_id, records in journals.items():
            for stored in records:
                self._add(journal_id, stored.seq, stored.topic, stored.header)
                if stored.topic == "journal" and (of_boot := head_of(stored.header).of_boot) is not None:
                    self.reports_of[of_boot].append((journal_id, stored.seq))
        for header in self.received:
            self._add_received(header)
        for topics in self.topics.values():
            for numbers in topics.values():
                numbers.sort()

    @property
    def unjournalled(self) -> list[bytes]:
        """Headers of the events that no journal holds and a subscriber received."""
        return [header for (count, _), header in self.headers.items() if count not in self.journals]

    def up_to(self, through: Mapping[str, int]) -> "Expected":
        """Return the expected events with each journal up to a number only."""
        return Expected(
            {
                journal_id: [stored for stored in records if stored.seq <= through.get(journal_id, 0)]
                for journal_id, records in self.journals.items()
            },
            [],
        )

    def wanted(self, topics: Collection[str]) -> list[tuple[str, int]]:
        """Return the events that a durable consumer of these topics must get, in order."""
        return [
            (journal_id, stored.seq)
            for journal_id, records in self.journals.items()
            for stored in records
            if stored.topic.startswith(tuple(topics))
        ]

    def _add_received(self, header: bytes) -> None:
        head = head_of(header)
        stored = self.headers.get((head.count, head.seq))
        if stored is None and head.journal_id is not None:
            self.broken.append(Broken("journal", "unknown", f"{head.key} was received live, and is not stored"))
        elif stored is None:
            self._add(head.count, head.seq, head.topic, header)
        elif stored != header:
            self.broken.append(Broken("live", "bytes", f"{head.key} was received with different bytes"))

    def _add(self, count: str, seq: int, topic: str, header: bytes) -> None:
        self.headers[count, seq] = header
        self.topics[count][topic].append(seq)


def runs_of(keys: Sequence[tuple[str, int]]) -> str:
    """Format the first runs of numbers, by their counts."""
    runs: list[list[tuple[str, int]]] = []
    for key in keys:
        if runs and runs[-1][-1] == (key[0], key[1] - 1):
            runs[-1].append(key)
        else:
            runs.append([key])
    shown = [f"{run[0][0]}-{run[0][1]}" + (f" to {run[-1][1]}" if len(run) > 1 else "") for run in runs[:3]]
    return ", ".join(shown) + (f" and {len(runs) - 3} more runs" if len(runs) > 3 else "")
