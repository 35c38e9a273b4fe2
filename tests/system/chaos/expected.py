"""What clients are checked against: all events of a line, as its journals hold them and as anybody heard them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from tests.system.chaos.records import head_of

Promise = Literal["journal", "lost", "order", "bytes", "unknown", "unasked", "gap", "frames", "told"]


class Broken(msgspec.Struct, frozen=True):
    """A promise that was not kept.

    `journal`: the journal is at odds with itself. `lost`: an event that it holds did not come. `order`: one came before
    another that it should have come after. `bytes`: one came other than it is stored. `unknown`: one came that nothing
    holds. `unasked`: one came of a topic that was not asked for. `gap`: one did not come, and its listener does not
    know; or it says so of one that came. `frames`: a frame has no event, or two. `told`: the journal does not say how
    many events it does not hold.
    """

    who: str
    promise: Promise
    what: str


class Stored(msgspec.Struct, frozen=True):
    """An event as the journal holds it."""

    seq: int
    topic: str
    header: bytes


class Expected:
    """All events that there were.

    Args:
        journals: each journal's, in its order; journals in the order in which they were begun.
        heard: headers of all events that anybody heard live. Those that no journal holds are known from them alone.
        boots: of the line, in their order.
    """

    def __init__(
        self, journals: Mapping[str, Sequence[Stored]], heard: Iterable[bytes], boots: Sequence[str] = ()
    ) -> None:
        self.journals, self.boots = journals, boots
        self.heard = list(heard)
        self.headers: dict[tuple[str, int], bytes] = {}
        """By whose count, and the number in it."""
        self.topics: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """By whose count and topic: numbers, ascending."""
        self.told_of: dict[str, list[tuple[str, int]]] = defaultdict(list)
        """By boot: events that say that there are some of it that no journal holds."""
        self.broken: list[Broken] = []
        """Events that were heard in two ways, or that say that a journal holds them."""
        for journal_id, records in journals.items():
            for stored in records:
                self._add(journal_id, stored.seq, stored.topic, stored.header)
                if stored.topic == "journal" and (of_boot := head_of(stored.header).of_boot) is not None:
                    self.told_of[of_boot].append((journal_id, stored.seq))
        for header in self.heard:
            self._hear(header)
        for topics in self.topics.values():
            for numbers in topics.values():
                numbers.sort()

    @property
    def unjournalled(self) -> list[bytes]:
        """Headers of the events that no journal holds, as far as anybody heard them."""
        return [header for (count, _), header in self.headers.items() if count not in self.journals]

    def up_to(self, through: Mapping[str, int]) -> "Expected":
        """The same, of each journal only what it counted up to some number."""
        return Expected(
            {
                journal_id: [stored for stored in records if stored.seq <= through.get(journal_id, 0)]
                for journal_id, records in self.journals.items()
            },
            [],
        )

    def wanted(self, topics: Collection[str]) -> list[tuple[str, int]]:
        """What a durable consumer of these topics must get, in order."""
        return [
            (journal_id, stored.seq)
            for journal_id, records in self.journals.items()
            for stored in records
            if stored.topic.startswith(tuple(topics))
        ]

    def _hear(self, header: bytes) -> None:
        head = head_of(header)
        stored = self.headers.get((head.count, head.seq))
        if stored is None and head.journal_id is not None:
            self.broken.append(Broken("journal", "unknown", f"{head.key} was heard live, and the journal has it not"))
        elif stored is None:
            self._add(head.count, head.seq, head.topic, header)
        elif stored != header:
            self.broken.append(Broken("live", "bytes", f"{head.key} was heard in two ways"))

    def _add(self, count: str, seq: int, topic: str, header: bytes) -> None:
        self.headers[count, seq] = header
        self.topics[count][topic].append(seq)


def runs_of(keys: Sequence[tuple[str, int]]) -> str:
    """The first runs of numbers, by their counts, in words."""
    runs: list[list[tuple[str, int]]] = []
    for key in keys:
        if runs and runs[-1][-1] == (key[0], key[1] - 1):
            runs[-1].append(key)
        else:
            runs.append([key])
    said = [f"{run[0][0]}-{run[0][1]}" + (f" to {run[-1][1]}" if len(run) > 1 else "") for run in runs[:3]]
    return ", ".join(said) + (f" and {len(runs) - 3} more runs" if len(runs) > 3 else "")
