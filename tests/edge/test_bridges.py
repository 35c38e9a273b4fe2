"""What each bridge owes the plant: every journalled result, in order, whatever is killed, and never a stale state.

Each runs as a process, between a real journal and a plant that stores each result once by its id.
"""

import asyncio
import contextlib
import re
import shutil
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NamedTuple, Self

import pytest
from asyncua import Client, ua
from pymodbus.exceptions import ModbusException

from heatline.edge.bridge.modbus.registers import HANDSHAKE_REASONS, LINE, MAILBOX
from heatline.edge.cli.bridge import bridge as bridges
from heatline.edge.config import load_config
from heatline.edge.delivery.journal import Record
from heatline.edge.errors import SupersededError
from heatline.edge.service.changeover import require_exchangeable
from heatline.edge.wire.events import JournalEvent
from heatline.edge.wire.requests import to_bytes
from tests.command import complaint, heatline
from tests.edge.bridged_line import LINE_FILE, BridgedLine, Identity, OpcuaDoor, Plc, acknowledge, call, ids, read
from tests.edge.brokers import Broker, Plant
from tests.edge.followed_line import ALARM, BOOT, DEFECT, GOOD, PART, WITHIN_SECONDS, event, wait_until
from tests.edge.lines import NotifySocket
from tests.edge.status_only_line import READY, StatusOnlyLine, a_status
from tests.golden import assert_golden

NO_VERDICT = "verdict.side.NO_VERDICT"
EVALUATIONS = {GOOD: 1, DEFECT: 2, NO_VERDICT: 3, PART: 3}
"""Of OPC 40001-101."""
WORDS = {topic.rpartition(".")[2]: number for topic, number in EVALUATIONS.items()}


AWAY = (OSError, ua.UaError, ModbusException)
"""The bridge was killed, or does not listen yet."""


class Got(NamedTuple):
    """A result as the plant has it."""

    id: str
    evaluation: int
    part_id: str


class Plants(contextlib.AbstractContextManager["Plants"]):
    """The plant's side of a bridge: `poll` stores what has come, each result once, and acknowledges it."""

    keys: str
    """Of the bridge's table."""
    told: Any
    """What `losses` has in the end of `test_what_is_lost_is_told...`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.results: list[Got] = []
        self.losses: list[Any] = []

    def store(self, got: Got) -> None:
        if got.id not in [each.id for each in self.results]:
            self.results.append(got)

    def die(self) -> None: ...

    def revive(self) -> None: ...

    def poll(self) -> None: ...

    def shows(self, state: str, reason: str = "") -> bool:
        """Return whether the line has a state for a reason, and `READY` with its heartbeat."""
        with contextlib.suppress(*AWAY):
            found = self.state()
            return found == (state, reason, READY.heartbeat if state == "READY" else found[2])
        return False

    def state(self) -> tuple[str, str, int]:
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        self.die()


class ModbusPlc(Plants):
    told = (2, 2, 0), (3, 3, 3), (3, 4, 0), (4, 5, 0)  # kind, seq and frames

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.keys, self._number, self.plc = f'listen = "127.0.0.1:{port}"', 0, Plc(port)

    def poll(self) -> None:
        with contextlib.suppress(*AWAY):
            while (values := self.plc.read(MAILBOX))["kind"] != 0:
                if values["number"] != self._number:
                    self._number = values["number"]
                    if values["kind"] == 1:
                        id_ = f"{values['journal_id']}-{values['seq']}"
                        self.store(Got(id_, values["verdict"], values["part_id"]))
                    else:
                        self.losses.append((values["kind"], values["seq"], values["frames"]))
                self.plc.acknowledge(values["number"])

    def state(self) -> tuple[str, str, int]:
        line = self.plc.read(LINE)
        reasons = {number: word for word, number in HANDSHAKE_REASONS.items()}
        state = ["", "READY", "BUSY", "DEGRADED", "NOT_READY"][line["state"]]
        return state, reasons.get(line["state_reason"], ""), line["heartbeat"] - 1  # 0: never heard

    def die(self) -> None:
        self.plc.client.close()  # it connects again when it reads


class OpcuaMes(Plants):
    told = (7,)  # 2 deleted ones, 3 and an unknown number that were not stored, 1 of another version

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.keys = f'listen = "127.0.0.1:{port}"'
        self._door, self._identity = OpcuaDoor(folder / "opcua", port), Identity("mes", folder)
        self._door.allow(self._identity, "command")
        self._loop, self._client = asyncio.Runner(), contextlib.AsyncExitStack()
        self._connected: Client | None = None

    def poll(self) -> None:
        async def store(client: Client) -> None:
            held = await ids(client)
            for each in held:
                result = await call(client, "ResultManagement.GetResultById", each)
                assert (result[0], result[-1]) == (each, 0)
                self.store(Got(each, result[1], result[6]))
            assert await acknowledge(client, *held) == [[], 0]
            self.losses[:] = [(await read(client, "ResultManagement.LostEvents"))[0]]

        with contextlib.suppress(*AWAY):
            self._ask(store)

    def state(self) -> tuple[str, str, int]:
        async def shown(client: Client) -> Any:
            return [(await read(client, f"Line.{name}"))[0] for name in ("Handshake", "Reason", "Heartbeat")]

        state, reason, heartbeat = self._ask(shown)
        return state, reason, heartbeat

    def die(self) -> None:
        with contextlib.suppress(*AWAY):
            self._loop.run(self._client.aclose())
        self._connected = None  # the next question connects again

    def _ask(self, question: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        async def ask() -> Any:
            if self._connected is None:
                socket.create_connection(("127.0.0.1", self._door.port)).close()  # a client takes long to be refused
                self._connected = await self._client.enter_async_context(self._door.connected(self._identity))
            return await question(self._connected)

        try:
            return self._loop.run(ask())
        except AWAY:
            self.die()
            raise

    def __exit__(self, *_: object) -> None:
        self.die()
        self._loop.close()


class MqttSubscriber(Plants):
    told = ("deleted", 1, 2), ("recording", 3), ("unrecorded", 4)

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.keys = f'broker = "mqtt://127.0.0.1:{port}"\nrepublish_s = 2'
        self._broker = Broker(folder, f"tcp://127.0.0.1:{port}")
        self._subscriber = Plant(self._broker)

    def poll(self) -> None:
        for each in self._subscriber.of("result", "part"):
            if each.json["schema_version"] == 2:
                self.store(Got(each.id, WORDS[each.json["verdict"]], each.json["part_id"]))
        lost = [(each["kind"], each["first_seq"], each["last_seq"]) for each in self._told("lost")]
        self.losses[:] = dict.fromkeys([*lost, *((each["kind"], each["seq"]) for each in self._told("journal"))])

    def state(self) -> tuple[str, str, int]:
        last = [{"state": "", "reason": "", "heartbeat": 0}, *self._told("state")][-1]
        return last["state"], last["reason"] or "", last["heartbeat"]

    def _told(self, kind: str) -> list[Any]:
        return [each.json for each in self._subscriber.of(kind)]

    def die(self) -> None:
        self._broker.kill()

    def revive(self) -> None:
        self._broker.start()

    def __enter__(self) -> Self:
        self._broker.start()
        self._subscriber.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.leave()
        self.die()


PLANTS = {"modbus": ModbusPlc, "mqtt": MqttSubscriber, "opcua": OpcuaMes}


@pytest.fixture(params=sorted(bridges.commands))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plant(kind: str, tmp_path: Path, address: str) -> Iterator[Plants]:
    with PLANTS[kind](tmp_path, int(address.rpartition(":")[2])) as plant:
        yield plant


@pytest.fixture
def line(kind: str, tmp_path: Path, plant: Plants) -> Iterator[BridgedLine]:
    with BridgedLine(tmp_path, kind, plant.keys) as line:
        yield line


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
def test_every_result_reaches_the_plant_in_order_under_kills(plant: Plants, line: BridgedLine, times: int) -> None:
    added: list[Got] = []

    def add(*topics: str) -> None:
        for topic, each in zip(topics, line.journal.add(*topics), strict=True):
            if topic != ALARM:
                added.append(Got(each.key, EVALUATIONS[topic], f"P-{each.seq}"))

    def all_came(after: str) -> None:
        def is_so() -> bool:
            plant.poll()
            return len(plant.results) >= len(added)

        wait_until(is_so, f"all results came {after}")
        assert plant.results == added, after

    for _ in range(times):
        with StatusOnlyLine(line.events, a_status(handshake=READY)), line.bridge():
            add(GOOD, ALARM, DEFECT, PART, NO_VERDICT)
            wait_until(lambda: plant.shows("READY"), "the line is heard")
            add(*[GOOD, DEFECT] * 10)
            plant.die()
            add(NO_VERDICT)
            plant.revive()
            all_came("after the death of the plant")
            add(*[DEFECT, GOOD] * 5)  # on their way when the bridge is killed
        add(GOOD)
        with line.bridge() as bridge:
            all_came("after the death of the bridge")
            with StatusOnlyLine(line.events, a_status(handshake=READY)):
                wait_until(lambda: plant.shows("READY"), "the line is heard")
            line.journal.stop()
            wait_until(lambda: plant.shows("NOT_READY", "unreachable"), "the line is silent")
            line.journal.start()
            add(NO_VERDICT)
            all_came("after the death of the line")
            line.acked(line.journal.journal.contents.last_seq)
            assert bridge.end() == 0


def test_what_is_lost_is_told_and_the_older_bridge_ends(plant: Plants, line: BridgedLine, tmp_path: Path) -> None:
    """Deleted events, those that the line could not store, in a known and an unknown number, and an unreadable one."""
    journal, told = line.journal.journal, {"boot_id": BOOT, "previous_seq": 0, "at_ns": 1, "line": "line1"}
    line.journal.client().follow(line.kind)
    line.journal.add(GOOD, GOOD)
    journal.discard(2)
    told |= {"journal_id": journal.contents.journal_id, "detail": "the disk was full"}
    stored = JournalEvent(seq=3, kind="recording", by_topic={GOOD: 2, DEFECT: 1, ALARM: 5}, **told)
    unknown = JournalEvent(seq=4, kind="unrecorded", **told)
    newer = to_bytes(event(5, GOOD, journal.contents.journal_id)).replace(b'"schema_version":2', b'"schema_version":3')
    headers = {3: ("journal", to_bytes(stored)), 4: ("journal", to_bytes(unknown)), 5: (GOOD, newer)}
    journal.append([Record(seq, time.time_ns(), *headers[seq], None) for seq in headers], {})
    (last,) = line.journal.add(DEFECT)
    with NotifySocket(tmp_path) as systemd, line.bridge(systemd.env) as bridge:
        systemd.wait_for("READY=1")

        def is_told() -> bool:
            plant.poll()
            return bool(plant.results)

        wait_until(is_told, "the last result came")
        assert plant.results == [Got(last.key, 2, "P-6")]
        assert tuple(plant.losses) == plant.told
        for _ in range(4):
            systemd.wait_for("WATCHDOG=1")
        line.acked(6)
        assert f"were deleted before {line.kind} received them" in bridge.log()
        plant.die()
        line.journal.add(GOOD)
        for _ in range(8):  # the last to follow wins, and after 0.3 s of silence the bridge itself follows again
            line.journal.client().follow(line.kind, "a newer one")
            with contextlib.suppress(TimeoutExpired):
                bridge.wait(WITHIN_SECONDS / 8)
                break
        assert bridge.returncode == SupersededError.exit_code
        assert f"refuses {line.kind} (superseded)" in bridge.log()


TLS = 'broker = "mqtts://b:8883"'
TABLES = {
    "modbus": ['listen = "0.0.0.0:1502"', 'listen = "127.0.0.1:70000"', 'listen = "USED"', 'allow = ["10.0.0.1/24"]',
               'word_order = "big"', 'name = "a b"'],
    "mqtt": ["", 'broker = "broker.plant"', 'broker = "mqtts://b:0"', 'broker = "mqtt://10.0.0.1:1883"',
             f'{TLS}\nprefix = "acme/#"', f'{TLS}\nca = "none.pem"', f'{TLS}\nca = "junk"',
             f'{TLS}\ncertificate = "junk"\nkey = "junk"', f'{TLS}\nuser = "u"\npassword_file = "none"',
             f'{TLS}\nuser = "u"\npassword_file = "readable"'],
    "opcua": ['listen = "0.0.0.0:4840"\nunprotected = true', "hold = 0", 'folder = "readable_key"',
              'folder = "other_key"'],
}  # fmt: skip


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tables name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "junk").write_text("junk")
    (folder / "readable").write_text("secret")
    (folder / "readable").chmod(0o640)
    for name, key, mode in (("readable_key", "one", 0o644), ("other_key", "two", 0o600)):
        (folder / name).mkdir()
        shutil.copy(Identity("one", folder).der, folder / name / "server.der")
        private = Identity(key, folder).der.with_suffix(".pem")
        shutil.copy(private, folder / name / "server.key").chmod(mode)
    return folder


def test_what_a_bridge_cannot_use_is_one_sentence(kind: str, files: Path) -> None:
    file, text = files / "line1.toml", LINE_FILE.format(files)
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        no_journal = text.replace(f'[journal]\nbind = "ipc://{files}/follow"', "") + f"[{kind}]\n"
        broker = 'broker = "mqtt://localhost:1883"' if kind == "mqtt" else ""
        cases = {"no table": text, "no journal": no_journal + broker}
        for keys in TABLES[kind]:
            cases[keys] = f"{text}[{kind}]\n{keys}\n".replace("USED", f"127.0.0.1:{port}")
        done = {"an address": heatline("bridge", kind, "tcp://127.0.0.1:5558")}
        for name, lines in cases.items():
            file.write_text(lines)
            done[name] = heatline("bridge", kind, file)
    said = [f"{name}\n{each.returncode}: {complaint(each)}\n" for name, each in done.items()]
    text = re.sub(r"\((\[SSL|NO_CERT|Unable to load).*\); ", "(WHY); ", "\n".join(said))  # a library's own words
    assert_golden(f"bridge_{kind}", text, folder=files, port=port)


def test_a_changed_table_never_concerns_the_running_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "line1.toml"
    file.write_text(LINE_FILE.format(tmp_path))
    without = load_config(file)
    file.write_text(f"{file.read_text()}[{kind}]\n" + ('broker = "mqtts://b:8883"' if kind == "mqtt" else ""))
    require_exchangeable(without, load_config(file))
    require_exchangeable(load_config(file), without)
