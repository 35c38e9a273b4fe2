"""Who is there under faults, beside the line: durable consumers and live subscribers, each behind links of its own."""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from bench.chaos.actor import HEATLINE, Actor
from bench.chaos.client import Role
from bench.chaos.records import Got, item_of, last_line, whole_lines
from bench.chaos.tcp_proxy import Link

Kind = Literal["heatline follow", "Follower", "Subscriber", "client of protocol.md"]
PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def documented_client() -> str | None:
    """The Python program that docs/protocol.md shows; none where this is no checkout."""
    try:
        _, _, below = PROTOCOL.read_text().partition("\n## A client\n")
    except OSError:
        return None
    found = re.search(r"^```python\n(.*?)^```$", below, flags=re.MULTILINE | re.DOTALL)
    return None if found is None else found[1]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A client, and what may happen to it."""

    name: str
    kind: Kind
    topics: tuple[str, ...] = ("",)
    slow: bool = False
    """It takes its time with some events."""
    killed: bool = False
    """Whether it may be."""
    stopped: bool = False
    """Whether it may stop reading for a while."""

    @property
    def durable(self) -> bool:
        return self.kind in ("heatline follow", "Follower")

    @property
    def hears_statuses(self) -> bool:
        """And notes them."""
        return self.kind == "Subscriber" and "status".startswith(self.topics)

    @property
    def ends_with_the_line(self) -> bool:
        """By itself, when the line says that it has stopped."""
        return self.kind == "client of protocol.md"

    @property
    def links(self) -> list[str]:
        """The sockets of the line to which it is connected."""
        return [*(["events"] if not self.durable else []), *(["journal"] if self.durable else [])]

    @property
    def link_names(self) -> list[str]:
        return [f"{self.name} {socket}" for socket in self.links]


CAST = (
    Part(name="mes", kind="heatline follow", killed=True),
    Part(name="ejectors", kind="heatline follow", topics=("verdict.left.",), killed=True),
    Part(name="gateway", kind="Follower", killed=True),
    Part(name="archive", kind="Follower", slow=True, killed=True),
    Part(name="cell", kind="Follower", killed=True, stopped=True),
    Part(name="screen", kind="Subscriber"),
    Part(name="counter", kind="Subscriber", stopped=True),
    Part(name="lamp", kind="Subscriber", topics=("verdict.right.", "alarm")),
    Part(name="bare", kind="client of protocol.md"),
)


class Player:
    """A client in its process, behind its links.

    Args:
        links: by socket of the line.
        folder: for all that it writes.
        hurry: path of a file that is there once nobody may be slow any more.
    """

    def __init__(self, part: Part, links: dict[str, Link], folder: Path, hurry: Path) -> None:
        self.part, self.links = part, links
        self.record = folder / f"{part.name}.jsonl"
        self.actor = Actor(
            part.name,
            self._command(hurry),
            folder / f"{part.name}.log",
            said=self.record if part.kind == "client of protocol.md" else None,
        )

    @property
    def is_in_use(self) -> bool:
        """Whether its life at hand has got something."""
        with contextlib.suppress(FileNotFoundError):
            return self.actor.runs and self.record.stat().st_mtime > self.actor.started_at_s
        return False

    def headers(self) -> Iterator[bytes]:
        """Of all events that it got, over all its lives."""
        for line in whole_lines(self.record):
            if (header := self._header_in(line)) is not None:
                yield header

    def last_header(self) -> bytes | None:
        """Of the last event that it got; of another kind of client, what it was told last may be something else."""
        line = last_line(self.record)
        return None if line is None else self._header_in(line)

    def _header_in(self, line: bytes) -> bytes | None:
        if self.part.kind == "heatline follow":
            return line
        item = item_of(line)
        return bytes(item.header) if isinstance(item, Got) else None

    def _command(self, hurry: Path) -> Sequence[str | Path]:
        part = self.part
        match part.kind:
            case "client of protocol.md":
                program = documented_client()
                assert program is not None
                return [sys.executable, "-c", program, self.links["events"].address]
            case "heatline follow":
                topics = [word for topic in part.topics if topic for word in ("--topic", topic)]
                address = self.links["journal"].address
                return [*HEATLINE, "follow", address, "--name", part.name, *topics, "--jsonl", self.record]
        role = Role(
            name=part.name,
            record=str(self.record),
            topics=list(part.topics),
            events=self.links["events"].address if "events" in self.links else None,
            journal=self.links["journal"].address if "journal" in self.links else None,
            slow_until=str(hurry) if part.slow else None,
        )
        return [sys.executable, "-m", "bench.chaos.client", msgspec.json.encode(role).decode()]
