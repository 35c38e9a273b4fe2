"""The clients of a line under faults: durable consumers and live subscribers, each behind links of its own."""

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from heatline.bench.watched_process import HEATLINE, WatchedProcess
from tests.system.chaos.client import Role, client_command
from tests.system.chaos.records import Got, item_of, last_line, whole_lines
from tests.system.chaos.tcp_proxy import Link

Kind = Literal["heatline follow", "Follower", "Subscriber", "client of protocol.md"]
PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"


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
    def ends_with_the_line(self) -> bool:
        """Whether it ends when the line has stopped."""
        return self.kind == "client of protocol.md"

    @property
    def sockets(self) -> list[str]:
        """Sockets of the line to which it is connected, each by a link."""
        return [*(["events"] if not self.durable else []), *(["journal"] if self.durable else [])]

    @property
    def links(self) -> list[str]:
        """Names of the links."""
        return [f"{self.name} {socket}" for socket in self.sockets]


CLIENTS = (
    ClientPlan(name="mes", kind="heatline follow", killed=True),
    ClientPlan(name="ejectors", kind="heatline follow", topics=("verdict.left.",), killed=True),
    ClientPlan(name="gateway", kind="Follower", killed=True),
    ClientPlan(name="archive", kind="Follower", slow=True, killed=True),
    ClientPlan(name="cell", kind="Follower", killed=True, stopped=True),
    ClientPlan(name="screen", kind="Subscriber"),
    ClientPlan(name="counter", kind="Subscriber", stopped=True),
    ClientPlan(name="lamp", kind="Subscriber", topics=("verdict.right.", "alarm")),
    ClientPlan(name="bare", kind="client of protocol.md"),
)


class Client:
    """A client in its process, behind its links.

    Args:
        links: by socket of the line.
        folder: for its files.
        hurry: path of a file that exists when no client may be slow any more.
    """

    def __init__(self, plan: ClientPlan, links: Mapping[str, Link], folder: Path, hurry: Path) -> None:
        self.plan = plan
        self.record = folder / f"{plan.name}.jsonl"
        self.process = WatchedProcess(
            plan.name,
            self._command({socket: link.address for socket, link in links.items()}, hurry),
            folder / f"{plan.name}.log",
            env={"PYTHONUNBUFFERED": "1"},
            stdout=self.record if plan.kind == "client of protocol.md" else None,
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

    def _command(self, addresses: Mapping[str, str], hurry: Path) -> Sequence[str | Path]:
        plan = self.plan
        if plan.kind == "client of protocol.md":
            return [sys.executable, "-c", documented_client(), addresses.get("events", "")]
        if plan.kind == "heatline follow":
            topics = [word for topic in plan.topics if topic for word in ("--topic", topic)]
            address = addresses.get("journal", "")
            return [*HEATLINE, "follow", address, "--name", plan.name, *topics, "--jsonl", self.record]
        role = Role(
            name=plan.name,
            record=str(self.record),
            topics=list(plan.topics),
            events=addresses.get("events"),
            journal=addresses.get("journal"),
            slow_until=str(hurry) if plan.slow else None,
        )
        return client_command(role)


def documented_client() -> str:
    """The Python program that docs/protocol.md shows."""
    _, _, below = PROTOCOL.read_text().partition("\n## A client\n")
    found = re.search(r"^```python\n(.*?)^```$", below, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, "docs/protocol.md shows no client"
    return found[1]
