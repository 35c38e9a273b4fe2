"""A journal of results that is served as a line serves it, for the benches of bridges."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from heatline.edge.delivery.client.follower import Follower
from heatline.edge.delivery.durable.consumers import Consumers
from heatline.edge.delivery.durable.follow_server import FollowServer
from heatline.edge.delivery.journal.journal import Journal
from heatline.edge.delivery.journal.rows import Record
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import BundleName, Times, VerdictEvent, header_of


class JournalledLine:
    """A journal of results, and its server at `ipc://FOLDER/follow`.

    Args:
        event: makes the result of a seq and a journal's id; by default a GOOD one without a score.
    """

    def __init__(self, folder: Path, event: Callable[[int, str], VerdictEvent] | None = None) -> None:
        self._event = event or _good
        self._journal = Journal.open(folder / "journal", "line1")
        self.consumers = Consumers(folder / "journal")
        self.address = f"ipc://{folder}/follow"
        self._server = FollowServer(self.address, folder / "journal", self.consumers)
        self._server.start()
        self.committed_s: dict[str, float] = {}
        """When each result was committed, by its id, on the monotonic clock."""

    def add(self, count: int) -> None:
        """Journal results in one commit."""
        first, journal_id = self._journal.last_seq + 1, self._journal.journal_id
        events = [self._event(seq, journal_id) for seq in range(first, first + count)]
        records = [
            Record(event.seq, time.time_ns(), f"verdict.top.{event.verdict}", header_of(event), None)
            for event in events
        ]
        self._journal.append(records, {})
        now_s = time.monotonic()
        self.committed_s.update((f"{journal_id}-{record.seq}", now_s) for record in records)
        self._server.wake()

    def close(self) -> None:
        """End the server, and close the journal."""
        self._server.close()
        self.consumers.close()
        self._journal.close()


class PlainConsumer:
    """A durable consumer without a bridge, as the measure of what the journal and its server take."""

    def __init__(self, address: str) -> None:
        self.received_s: dict[str, float] = {}
        """When each event came, by its id, on the monotonic clock."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()

    def _run(self, address: str) -> None:
        with Follower(address, "bench", timeout_s=0.2) as events:
            while not self._ended.is_set():
                for event in events.receive_batch():
                    self.received_s[event.key] = time.monotonic()

    def wait_for(self, ids: Iterable[str], within_s: float) -> list[tuple[str, float]]:
        """Wait until events have come; return their ids and times.

        Raises:
            BenchError: one does not come in time.
        """
        wanted, give_up_s = list(ids), time.monotonic() + within_s
        while not all(each in self.received_s for each in wanted):
            if time.monotonic() > give_up_s:
                raise BenchError(f"a durable consumer did not receive all events within {within_s:.0f} s")
            time.sleep(0.01)
        return [(each, self.received_s[each]) for each in wanted]

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()


def wait_until_listening(port: int, bridge: str, within_s: float) -> None:
    """Wait until a bridge listens on a local port.

    Args:
        bridge: its command, such as `opcua`.
        within_s: seconds.
    Raises:
        BenchError: it does not in time.
    """
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise BenchError(f"the bridge did not start; run heatline bridge {bridge} LINE to see why")


def _good(seq: int, journal_id: str) -> VerdictEvent:
    return VerdictEvent(
        boot_id="0" * 32,
        seq=seq,
        camera="top",
        frame_id=seq,
        frame_number=seq,
        part_id=f"P-{seq}",
        times=Times(captured_at_ns=time.time_ns(), captured_monotonic_ns=time.monotonic_ns()),
        verdict="GOOD",
        score_threshold=1.5,
        evidence_threshold=1.5,
        precision="f32",
        bundle=BundleName(name="boards", version="1", digest="ab" * 32),
        latency_ms=1.0,
        acting=True,
        journal_id=journal_id,
        previous_seq=seq - 1,
    )
