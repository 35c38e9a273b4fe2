"""The Modbus bridge as a process beside a line: no result is lost, whatever ends, and each mistake is one sentence."""

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from heatline.edge.bridge.line import LineState
from heatline.edge.bridge.modbus.bridge import TOPICS, LatestVerdicts, Mailbox, StatusBlock, feed
from heatline.edge.bridge.modbus.registers import LINE, MAILBOX, Entry, RegisterBank, camera_block, register_map
from heatline.edge.config import load_config
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.errors import ConfigError, SupersededError
from heatline.edge.service.changeover import require_exchangeable
from heatline.edge.wire.events import Handshake, Message, StatusEvent, VerdictEvent
from tests.command import HEATLINE, complaint, heatline
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, event, wait_until
from tests.edge.lines import started
from tests.edge.modbus_plc import Plc, served
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.test_modbus_registers import PLACES

CAMERAS = [camera_block(1), camera_block(2)]
LINE_FILE = """
bundle = "b"
[[cameras]]
kind = "folder"
name = "top"
path = "."
[[cameras]]
kind = "folder"
name = "side"
path = "."
[events]
bind = "ipc://{folder}/events"
[journal]
bind = "ipc://{folder}/follow"
"""


def write_line(folder: Path, modbus: str) -> Path:
    file = folder / "line1.toml"
    file.write_text(LINE_FILE.format(folder=folder) + modbus)
    return file


@pytest.fixture
def file(tmp_path: Path, address: str) -> Path:
    return write_line(tmp_path, f'[modbus]\nlisten = "{address.removeprefix("tcp://")}"\nstart = "first"\n')


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow") as line:
        yield line


@pytest.fixture
def port(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextlib.contextmanager
def bridged(file: Path, port: int) -> "Iterator[tuple[subprocess.Popen[str], Plc]]":
    with started(HEATLINE, "bridge", "modbus", file) as process, Plc(port) as plc:
        yield process, plc


def key_of(values: object) -> str:
    """Return the id of a result as every bridge tells it."""
    assert isinstance(values, dict)
    return f"{values['journal_id']}-{values['seq']}"


def test_the_plc_gets_every_result_once_although_the_bridge_and_the_line_are_killed(
    line: FollowedLine, file: Path, port: int
) -> None:
    events = line.add(GOOD, ALARM, DEFECT, GOOD, "verdict.side.NO_VERDICT")
    results = [each for each in events if each.topic != ALARM]
    with bridged(file, port) as (process, plc):
        first = plc.take()
        assert (key_of(first), first["verdict"], first["camera"]) == (results[0].key, 1, 1)
        assert first["part_id"] == "P-1"
        second = plc.next_result()
        line.wait_until_acked(events[0].seq, "modbus")
        process.kill()
    with bridged(file, port) as (process, plc):
        again = plc.next_result()
        assert again["number"] == second["number"]
        assert (key_of(again), again["verdict"]) == (results[1].key, 2)
        line.restart()
        plc.acknowledge(again["number"])
        third = plc.take()
        assert key_of(third) == results[2].key
        plc.until(MAILBOX, lambda values: values["seq"] == results[3].seq)
        line.wait_until_acked(results[2].seq, "modbus")
        process.kill()
    results += line.add(*[GOOD] * 3)
    with bridged(file, port) as (process, plc):
        taken = [plc.take() for _ in range(4)]
        assert [key_of(each) for each in taken] == [each.key for each in results[3:]]
        assert (taken[0]["verdict"], taken[0]["camera"]) == (3, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_SECONDS) == 0
        line.wait_until_acked(results[-1].seq, "modbus")


def test_lost_results_are_shown_and_the_bridge_goes_on(line: FollowedLine, file: Path, port: int) -> None:
    line.add(*[GOOD] * 3)
    with bridged(file, port) as (process, plc):
        plc.take()
        line.wait_until_acked(1, "modbus")
        process.kill()
    line.add(*[GOOD] * 2)
    line.journal.discard(4)
    with bridged(file, port) as (process, plc):
        lost = plc.take()
        assert (lost["kind"], lost["lost_after"], lost["seq"], lost["verdict"]) == (2, 1, 4, 0)
        assert plc.read(LINE)["losses"] == 1
        assert plc.take()["seq"] == 5
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_SECONDS) == 0
        assert process.stderr is not None
        assert "were deleted before modbus received them" in process.stderr.read()


def test_two_bridges_of_one_name_end_the_older_with_a_sentence(
    line: FollowedLine, file: Path, port: int, tmp_path: Path
) -> None:
    line.add(GOOD)
    with bridged(file, port) as (process, plc):
        plc.next_result()
        with line.client().socket:
            newer = line.client()
            newer.follow("modbus", "a newer one")
            assert process.wait(WITHIN_SECONDS) == SupersededError.exit_code, "although the PLC acknowledges nothing"
        assert process.stderr is not None
        sentences = [each for each in process.stderr.read().splitlines() if each.startswith("heatline:")]
        assert len(sentences) == 1
        assert "refuses modbus (superseded)" in sentences[0]


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_the_end_acknowledges_what_the_plc_has_and_nothing_else(line: FollowedLine, is_acknowledged: bool) -> None:
    line.add(GOOD, GOOD)
    mailbox, is_over = Mailbox(RegisterBank(register_map(2), "high_first")), threading.Event()

    def show(_: object, entry: Entry) -> None:
        if is_acknowledged or entry.seq == 1:
            mailbox.acknowledged.set()
        if entry.seq == 2:
            is_over.set()

    with Follower(line.address, "modbus", topics=TOPICS, timeout_s=0.25) as events:
        feed(events, PLACES, mailbox, show, is_over)
    line.wait_until_acked(2 if is_acknowledged else 1, "modbus")
    line.wait_until_gone("modbus")
    assert line.acked("modbus") == (2 if is_acknowledged else 1)


@pytest.mark.parametrize(
    ("modbus", "sentence"),
    [
        ("", "has no table [modbus]"),
        ('[modbus]\nlisten = "0.0.0.0:1502"', "which other machines can reach, and Modbus has no login"),
        ('[modbus]\nlisten = "127.0.0.1:70000"', "PORT 1 to 65535"),
        ('[modbus]\nallow = ["10.0.0.1/24"]', "not an address or network (10.0.0.1/24 has host bits set)"),
        ('[modbus]\nword_order = "big"', "modbus.word_order is 'big'; expected"),
        ('[modbus]\nname = "a b"', "modbus.name is 'a b'; expected"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path: Path, modbus: str, sentence: str) -> None:
    done = heatline("bridge", "modbus", write_line(tmp_path, modbus))
    assert (done.returncode, sentence in complaint(done)) == (ConfigError.exit_code, True), complaint(done)


def test_a_line_without_a_file_or_without_a_journal_is_one_sentence(tmp_path: Path) -> None:
    done = heatline("bridge", "modbus", "tcp://127.0.0.1:5558")
    assert (done.returncode, "cannot be read" in complaint(done)) == (ConfigError.exit_code, True)
    file = write_line(tmp_path, "[modbus]\n")
    file.write_text(file.read_text().replace(f'[journal]\nbind = "ipc://{tmp_path}/follow"', ""))
    done = heatline("bridge", "modbus", file)
    assert (done.returncode, "set journal.bind there" in complaint(done)) == (ConfigError.exit_code, True)
    assert heatline("bridge", "modbus").returncode == 2


def test_a_changed_table_never_concerns_the_running_line(tmp_path: Path) -> None:
    now = load_config(write_line(tmp_path, ""))
    wanted = load_config(write_line(tmp_path, '[modbus]\nlisten = "127.0.0.1:1999"\n'))
    require_exchangeable(now, wanted)
    require_exchangeable(wanted, now)


# State and heartbeat.


class FakeState(LineState):
    """What is known of a line, as a test sets it."""

    def __init__(self) -> None:
        super().__init__("ipc://nobody")
        self.set_to: StatusEvent | None = None
        self.heard = False

    @property
    def status(self) -> StatusEvent | None:
        return self.set_to

    @property
    def is_heard(self) -> bool:
        return self.heard and self.set_to is not None and self.set_to.state != "STOPPED"


class Watched:
    """The registers of a line's state."""

    def __init__(self) -> None:
        self.bank = RegisterBank(register_map(2), "high_first")
        self.state, self.beat = FakeState(), 0
        self.latest = LatestVerdicts(self.bank, CAMERAS, PLACES)
        self.panel = StatusBlock(self.bank, self.state, PLACES, CAMERAS, self.latest)

    def hear(self, state: str = "READY", reason: str | None = None, moves: bool = True, **what: object) -> None:
        self.beat += moves
        handshake = msgspec.convert({"state": state, "reason": reason, "heartbeat": self.beat}, Handshake)
        self.state.set_to, self.state.heard = a_status(handshake=handshake, **what), True

    def beats(self, times: int, hear: bool = True, **how: object) -> int:
        """Return how often the heartbeat changes."""
        before = self.line("heartbeat")
        for _ in range(times):
            if hear:
                self.hear(**how)  # type: ignore[arg-type]
            asyncio.run(self.panel.refresh())
        return self.line("heartbeat") - before

    def line(self, name: str) -> int:
        return self.bank.number(LINE, name)


def test_the_heartbeat_is_that_of_the_line_and_stands_still_while_the_line_is_not_heard() -> None:
    watched = Watched()
    assert watched.beats(3, hear=False) == 0, "nothing was heard yet"
    assert (watched.line("heartbeat"), watched.line("state"), watched.line("state_reason")) == (0, 4, 6)
    watched.beats(1)
    assert watched.beats(10) == 10
    assert watched.beats(10, state="DEGRADED", reason="camera_dead") == 10
    assert watched.beats(3, moves=False) == 0, "the line's own heartbeat stands still"
    assert watched.beats(3) == 3
    assert watched.beats(5, state="NOT_READY", reason="stalled", moves=False) == 0
    assert (watched.line("state"), watched.line("state_reason")) == (4, 3)
    watched.state.heard = False
    assert watched.beats(5, hear=False) == 0
    assert (watched.line("is_heard"), watched.line("state"), watched.line("state_reason")) == (0, 4, 6)
    watched.hear(state="READY")
    assert watched.state.set_to is not None
    watched.state.set_to = msgspec.structs.replace(watched.state.set_to, state="STOPPED")
    asyncio.run(watched.panel.refresh())
    assert (watched.line("is_heard"), watched.line("state_reason")) == (0, 5)


def test_the_state_of_line_and_cameras_is_copied() -> None:
    watched = Watched()
    watched.hear(state="DEGRADED", reason="a_new_reason", acting=False)
    asyncio.run(watched.panel.refresh())
    found = {name: watched.line(name) for name in ("state", "state_reason", "is_simulated", "product", "cameras")}
    assert found == {"state": 3, "state_reason": 65535, "is_simulated": 1, "product": 1, "cameras": 2}
    top, side = CAMERAS
    account = a_status().ledger["top"]
    counters = {name: watched.bank.number(top, name) for name in ("captured", "inspected", "dropped", "failed")}
    assert counters == {
        "captured": account.captured, "inspected": account.inspected, "failed": 0,
        "dropped": sum(account.dropped.values()),
    }  # fmt: skip
    assert (watched.bank.number(top, "state"), watched.bank.number(side, "state")) == (2, 4)
    assert watched.bank.data(LINE, "boot_id") == bytes.fromhex(a_status().boot_id)


def verdict(seq: int, topic: str = GOOD) -> VerdictEvent:
    made = event(seq, topic, None)
    assert isinstance(made, VerdictEvent)
    return made


def test_no_verdict_stays_of_a_line_that_is_silent_or_a_camera_that_is_dead() -> None:
    watched = Watched()
    top, side = CAMERAS
    watched.hear()
    asyncio.run(watched.panel.refresh())
    for name in ("top", "side", "nobody"):
        watched.latest.take(verdict(1, f"verdict.{name}.GOOD"))
    assert (watched.bank.number(top, "verdict"), watched.bank.number(top, "results")) == (1, 1)
    watched.hear()  # in which side is dead
    asyncio.run(watched.panel.refresh())
    assert (watched.bank.number(top, "verdict"), watched.bank.number(side, "verdict")) == (1, 0)
    watched.state.heard = False
    asyncio.run(watched.panel.refresh())
    assert watched.bank.number(top, "verdict") == 0
    assert watched.bank.number(top, "results") == 1, "counters stay"


def test_the_newest_verdict_of_each_camera_is_shown_at_once(address: str, tmp_path: Path) -> None:
    at_line = f"ipc://{tmp_path}/events"
    publisher = Publisher(at_line)
    publisher.start()
    with served(address) as server, contextlib.closing(publisher), contextlib.ExitStack() as open_:
        plc = server.plc()
        latest, seq = LatestVerdicts(server.bank, CAMERAS, PLACES), 0
        open_.enter_context(LineState(at_line, on_live=lambda live: server.soon(latest.take, live)))

        def sent_is_shown() -> bool:
            nonlocal seq
            seq += 1
            publisher.send(Message(msgspec.structs.replace(verdict(seq), previous_seq=seq - 1)))
            return bool(plc.read(CAMERAS[0])["seq"])

        wait_until(sent_is_shown, "the bridge is subscribed")
        plc.until(CAMERAS[0], lambda values: values["seq"] == seq)
        publisher.send(Message(verdict(seq + 1, DEFECT)))
        publisher.send(Message(verdict(seq + 2, "verdict.side.GOOD")))
        shown = plc.until(CAMERAS[0], lambda values: values["verdict"] == 2)
        assert (shown["seq"], shown["part_id"], shown["journal_id"]) == (seq + 1, f"P-{seq + 1}", "00" * 16)
        counted = {GOOD: seq + 3, DEFECT: seq + 1, "verdict.side.GOOD": seq + 2}
        missed = msgspec.structs.replace(a_status().counts, unjournalled=counted)
        publisher.send(Message(a_status(counts=missed, boot_id=verdict(1).boot_id)))
        plc.until(CAMERAS[0], lambda values: values["verdict"] == 0, "a verdict was missed: the shown one is old")
        assert plc.read(CAMERAS[1])["verdict"] == 1


def test_a_process_shows_the_state_of_its_line(file: Path, port: int, tmp_path: Path) -> None:
    ready = Handshake(state="READY", heartbeat=1)
    with (
        bridged(file, port) as (_, plc),
        StatusOnlyLine(f"ipc://{tmp_path}/events", a_status(handshake=ready)),
    ):
        values = plc.until(LINE, lambda values: values["heartbeat"] > 0)
        assert (values["is_heard"], values["state"], values["state_reason"]) == (1, 1, 0)
