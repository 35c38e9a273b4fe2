"""The example clients in Python and Node.js, which do not use heatline, with a real line."""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatline.edge.delivery.journal_writer import JournalWriter
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.wire.events import Message
from tests.edge.followed_line import ALARM, BOOT, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, event, wait_until
from tests.edge.lines import started
from tests.edge.secured import begun
from tests.edge.wire_examples import HANDSHAKE
from tests.needs import need

CLIENTS = Path(__file__).parents[1] / "examples" / "clients"
SILENCE = "silence: nothing is inspected"


def command(name: str) -> list[str]:
    """Return the command of a client; skip the test if its packages are not installed."""
    if name.endswith(".py"):
        return [sys.executable, str(CLIENTS / name)]
    node = need("nodejs", "npm")
    if not (CLIENTS / "node" / "node_modules" / "zeromq").is_dir():
        pytest.skip("`make node-clients` installs what they need")
    return [node, str(CLIENTS / "node" / name)]


class Running:
    """A running client and its output."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._output: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        for stream, take in ((process.stdout, self._output.put), (process.stderr, self._errors.append)):
            threading.Thread(
                target=lambda stream=stream, take=take: [take(line.rstrip("\n")) for line in stream], daemon=True
            ).start()

    def prints(self, count: int) -> list[str]:
        """Return the client's next lines, except those about silence."""
        lines: list[str] = []
        while len(lines) < count:
            line = self._output.get(timeout=WITHIN_SECONDS)
            lines += [line] if line != SILENCE else []
        return lines

    def is_silent(self) -> bool:
        return self._output.get(timeout=WITHIN_SECONDS) == SILENCE

    def wait_for_error(self, text: str) -> str:
        """Wait for a line on the client's standard error."""
        wait_until(lambda: any(text in line for line in self._errors), f"it reports {text}")
        return next(line for line in self._errors if text in line)


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[Running]:
    with started(*command(name), *arguments) as process:
        yield Running(process)


@pytest.mark.parametrize(("name", "repeated"), [("durable.py", 5), ("durable.mjs", 0)])
def test_a_durable_client_gets_every_event_and_reports_losses(tmp_path: Path, name: str, repeated: int) -> None:
    """The line restarts and loses the acknowledgements; the client in Node.js prints no event twice."""
    address = f"ipc://{tmp_path}/follow"
    with (
        running(name, address, "mes1") as older,  # the client waits for the line
        FollowedLine(tmp_path / "journal", address, heartbeat_s=1.0) as line,
    ):
        events = line.add(GOOD, DEFECT, png=b"a picture") + line.add(*[ALARM] * 3)
        assert older.prints(5) == [each.header.decode() for each in events]
        line.wait_until_on_disk(mes1=5)
        line.stop()
        (line.folder / "consumers.json").unlink()
        line.start()
        events += line.add(*[DEFECT] * 150)
        assert older.prints(repeated + 150) == [each.header.decode() for each in events[5 - repeated :]]
        line.wait_until_on_disk(mes1=155)
        with running(name, address, "mes1") as newer:
            assert older.process.wait(WITHIN_SECONDS) == 1
            assert '"superseded"' in older.wait_for_error("superseded")
            (event,) = line.add(DEFECT)
            assert newer.prints(1) == [event.header.decode()], "only the unacknowledged event"
            line.wait_until_on_disk(mes1=156)
        events = line.add(*[GOOD] * 5)
        line.journal.discard(159)
        with running(name, address, "mes1") as client:
            assert '"lost_through":159' in client.wait_for_error("LOST")
            assert client.prints(2) == [each.header.decode() for each in events[3:]]
            line.wait_until_on_disk(mes1=161)
            former = line.journal_id
            line.replace_journal()
            (event,) = line.add(DEFECT)
            assert client.prints(1) == [event.header.decode()]
            client.wait_for_error(f'"former":{{"journal_id":"{former}","acked_seq":161}}')
            line.wait_until_on_disk(mes1=1)


@contextlib.contextmanager
def published(address: str, folder: Path) -> Iterator[Publisher]:
    """Yield a publisher that journals and sends a line's events."""
    with (
        contextlib.closing(JournalWriter("line1", BOOT, folder, 1 << 30, lambda _: {})) as writer,
        begun(Publisher(address, writer)) as publisher,
    ):
        yield publisher


def publish(publisher: Publisher, *topics: str, png: bytes | None = None) -> None:
    for topic in topics:
        publisher.send(Message(event(0, topic, None), png))


@pytest.mark.parametrize("name", ["live.py", "live.mjs"])
def test_a_live_client_prints_events_silence_and_missed_events(address: str, tmp_path: Path, name: str) -> None:
    with running(name, address) as client, contextlib.ExitStack() as first:
        assert client.is_silent()
        with published(f"ipc://{tmp_path}/elsewhere", tmp_path) as elsewhere:
            publish(elsewhere, GOOD)  # before the client subscribes, so it is not missed
        publisher = first.enter_context(published(address, tmp_path))
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publish(publisher, DEFECT, png=b"a picture")
        (line,) = client.prints(1)
        seq, topic, at_ns = line.split()
        assert (topic, at_ns) == (DEFECT, "1790000000123456789"), "an integer beyond 2^53"
        publisher.send(Message(HANDSHAKE.event))
        publish(publisher, ALARM)
        assert client.prints(1)[0].split()[:2] == [str(int(seq) + 1), ALARM]
        first.close()
        with published(f"ipc://{tmp_path}/elsewhere", tmp_path) as elsewhere:
            publish(elsewhere, DEFECT, GOOD)
        with published(address, tmp_path) as publisher:
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            publisher.send(Message(HANDSHAKE.event))
            assert set(client.prints(2)) == {
                f"missed events of {DEFECT} after {seq} up to {int(seq) + 2}",
                f"missed events of {GOOD} after {int(seq) - 1} up to {int(seq) + 3}",
            }
            publish(publisher, GOOD)
            assert client.prints(1)[0].split()[:2] == [str(int(seq) + 4), GOOD]
