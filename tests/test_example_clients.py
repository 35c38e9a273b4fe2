"""The clients that need nothing of heatline, in two languages, against a real line: what docs/durable.md and
docs/protocol.md say is enough.
"""

import contextlib
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.delivery.journal.journalling import Journalling
from edge.delivery.messages import Message
from edge.delivery.publisher import Publisher
from tests.edge.followed_line import ALARM, BOOT, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, event, wait_until

CLIENTS = Path(__file__).parents[1] / "examples" / "clients"
SILENCE = "silence: nothing is inspected"


def command(name: str) -> list[str]:
    """How a client is run; skips where what it needs is not installed."""
    if name.endswith(".py"):
        return [sys.executable, str(CLIENTS / name)]
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js: install the Debian packages nodejs and npm")
    if not (CLIENTS / "node" / "node_modules" / "zeromq").is_dir():
        pytest.skip("the npm package zeromq is not there: make node-clients")
    return [node, str(CLIENTS / "node" / name)]


class Running:
    """A client, and what it has said so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._said: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        for stream, take in ((process.stdout, self._said.put), (process.stderr, self._errors.append)):
            assert stream is not None
            threading.Thread(
                target=lambda stream=stream, take=take: [take(line.rstrip("\n")) for line in stream], daemon=True
            ).start()

    def says(self, count: int) -> list[str]:
        """Its next lines, but those that say that nothing comes."""
        said: list[str] = []
        while len(said) < count:
            line = self._said.get(timeout=WITHIN_SECONDS)
            said += [line] if line != SILENCE else []
        return said

    def complains(self, of: str) -> str:
        """A line on its standard error."""
        wait_until(lambda: any(of in line for line in self._errors), f"it complains of {of}")
        return next(line for line in self._errors if of in line)


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[Running]:
    with subprocess.Popen(
        [*command(name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["live.py", "durable.py"])
def test_a_client_in_python_has_less_than_thirty_lines_and_needs_nothing_of_heatline(name: str) -> None:
    text = (CLIENTS / name).read_text()
    assert len(text.splitlines()) < 30
    assert "edge" not in text


# Durable.


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow", heartbeat_s=1.0) as line:
        yield line


def acked(line: FollowedLine) -> int:
    return line.consumers.acked(line.journal.journal_id).get("mes1", -1)


@pytest.fixture(params=["durable.py", "durable.mjs"])
def durable(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.long
def test_a_durable_client_gets_every_event_once_through_a_restart_of_the_line(line: FollowedLine, durable: str) -> None:
    told = line.tell(GOOD, DEFECT, png=b"a picture") + line.tell(*[ALARM] * 150)
    with running(durable, line.address, "mes1") as client:
        came = client.says(152)
        wait_until(lambda: acked(line) == 152, "all is acknowledged")
        line.stop()
        line.start()
        told += line.tell(DEFECT)
        assert came + client.says(1) == [each.header.decode() for each in told]
        wait_until(lambda: acked(line) == 153, "it goes on")
    told = line.tell(GOOD)
    with running(durable, line.address, "mes1") as client:
        assert client.says(1) == [told[0].header.decode()], "only what it had not acknowledged"


@pytest.mark.long
@pytest.mark.parametrize(("name", "again"), [("durable.py", 5), ("durable.mjs", 0)])
def test_what_the_line_forgot_that_a_durable_client_has_comes_again_as_it_was(
    line: FollowedLine, name: str, again: int
) -> None:
    """The one in Node.js leaves it out."""
    told = line.tell(*[GOOD] * 5)
    with running(name, line.address, "mes1") as client:
        client.says(5)
        wait_until(lambda: acked(line) == 5, "all is acknowledged")
        line.stop()
        (line.folder / "consumers.db").unlink()
        line.start()
        told += line.tell(DEFECT)
        assert client.says(again + 1) == [each.header.decode() for each in told[5 - again :]]


def test_a_durable_client_says_what_is_lost(line: FollowedLine, durable: str) -> None:
    line.tell(*[GOOD] * 5)
    line.consumers.register("mes1", line.journal.journal_id, 0)
    line.journal.discard(3)
    with running(durable, line.address, "mes1") as client:
        assert '"lost_through":3' in client.complains("LOST")
        client.says(2)
        wait_until(lambda: acked(line) == 5, "it goes on")
        former = line.journal.journal_id
        line.begin_another_journal()
        told = line.tell(DEFECT)
        assert client.says(1) == [told[0].header.decode()]
        client.complains(f'"former":{{"journal_id":"{former}","acked_seq":5}}')
        wait_until(lambda: acked(line) == 1, "it goes on in the other one")


def test_of_two_durable_clients_of_one_name_the_older_ends(line: FollowedLine, durable: str) -> None:
    line.tell(GOOD)
    with running(durable, line.address, "mes1") as older:
        older.says(1)
        wait_until(lambda: acked(line) == 1, "it is there")
        with running(durable, line.address, "mes1") as newer:
            assert older.process.wait(WITHIN_SECONDS) == 1
            assert '"superseded"' in older.complains("superseded")
            told = line.tell(DEFECT)
            assert newer.says(1) == [told[0].header.decode()]


def test_a_durable_client_waits_for_a_line(tmp_path: Path, durable: str) -> None:
    address = f"ipc://{tmp_path}/follow"
    with running(durable, address, "mes1") as client, FollowedLine(tmp_path / "journal", address) as line:
        told = line.tell(GOOD)
        assert client.says(1) == [told[0].header.decode()]


# Live.


@pytest.fixture(params=["live.py", "live.mjs"])
def live(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def published(address: str, folder: Path) -> Iterator[Publisher]:
    """A line's events, journalled and sent."""
    journalling = Journalling("line1", BOOT, folder, 1e9, 1 << 30, lambda _: {})
    publisher = Publisher(address, journalling)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.close()
        journalling.close()


def tell(publisher: Publisher, *topics: str, png: bytes | None = None) -> None:
    for topic in topics:
        publisher.send(Message(event(0, topic, None), png))


def test_a_live_client_shows_events_exactly_and_knows_what_it_missed(address: str, tmp_path: Path, live: str) -> None:
    with contextlib.ExitStack() as first:
        publisher = first.enter_context(published(address, tmp_path))
        tell(publisher, GOOD)  # before anybody listens: nobody misses it
        with running(live, address) as client:
            assert publisher.wait_for_subscriber(WITHIN_SECONDS)
            tell(publisher, DEFECT, png=b"a picture")
            (said,) = client.says(1)
            seq, topic, at_ns = said.split()
            assert (topic, at_ns) == (DEFECT, "1790000000123456789"), "an integer beyond 2^53"
            tell(publisher, ALARM)
            assert client.says(1)[0].split()[:2] == [str(int(seq) + 1), ALARM]
            first.close()
            with published(f"ipc://{tmp_path}/elsewhere", tmp_path) as elsewhere:
                tell(elsewhere, DEFECT, GOOD)
            with published(address, tmp_path) as publisher:
                missed = set(client.says(2))
                assert missed == {
                    f"missed events of {DEFECT} after {seq} up to {int(seq) + 2}",
                    f"missed events of {GOOD} after {int(seq) - 1} up to {int(seq) + 3}",
                }
                tell(publisher, GOOD)
                assert client.says(1)[0].split()[:2] == [str(int(seq) + 4), GOOD]


@pytest.mark.long
def test_a_live_client_that_is_told_nothing_says_so(address: str, live: str) -> None:
    with running(live, address) as client:
        assert client._said.get(timeout=WITHIN_SECONDS) == SILENCE


def test_a_live_client_in_node_takes_only_the_topics_that_it_names(address: str, tmp_path: Path) -> None:
    with published(address, tmp_path) as publisher, running("live.mjs", address, "verdict.top.DEFECT") as client:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        tell(publisher, GOOD, DEFECT, GOOD, GOOD, DEFECT)
        assert [line.split()[1] for line in client.says(2)] == [DEFECT, DEFECT], "and misses nothing of others"
