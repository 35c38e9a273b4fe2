"""A run under faults, planned by a seed: from the line's start until every client has caught up and was ended."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, get_args

import msgspec
import zmq

from heatline.bench.watched_line import ALL_GOOD, Keys, line_process, write_line_file
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import BenchError, JournalError
from heatline.edge.wire.events import StatusEvent, event_from
from tests.system.chaos.checks import Expected, Stored
from tests.system.chaos.clients import Client, ClientPlan, StatusReceived, head_of, item_of, last_line
from tests.system.chaos.tcp_proxy import Link, Proxy

LinkFault = Literal[
    "cut", "reset", "half-closed to the client", "half-closed to the line", "silent", "delayed", "throttled"
]
FaultKind = LinkFault | Literal["killed", "killed as it starts", "stopped", "full"]
T = TypeVar("T")

LINK_FAULTS: Sequence[LinkFault] = get_args(LinkFault)
LINE = "line"
DISK = "disk"
KILLS_PER_S = 0.4
"""Of all processes together, 24 in a minute."""
LEAST_KILLS = 4
OF_THE_LINE = 1 / 3
"""Share of the kills that hit the line."""
TOGETHER = 0.3
"""Share of the line's kills in which another process is killed at the same moment."""
AS_IT_STARTS = 0.25
"""Share of the line's kills after which it is killed again before it reports a frame."""
STARTING_S = 0.2, 1.5
"""Its age then."""
LINK_FAULT_EVERY_S = 4.0
"""On each link, from the end of a fault to the begin of the next, on average."""
LINK_FAULT_S = 0.1, 2.5
SILENT_S = 1.0, 6.0
"""Longer, so that some peers disconnect."""
DELAY_S = 0.005, 0.5
THROTTLED_TO_BYTES_PER_S = 20e3, 200e3
AWAY_S = 0.0, 1.5
"""From a kill to the next start."""
STOPPED_S = 2.0, 6.0
DISK_FULL_S = 1.0, 3.0
"""From when the line notices it."""


class Fault(msgspec.Struct, frozen=True):
    """A fault and its target."""

    at_s: float
    """By a clock that stops while the line is down, so that slow starts make a plan no easier."""
    kind: FaultKind
    target: str
    """A process, a link (`CLIENT events` or `CLIENT journal`), or the disk."""
    for_s: float
    """Duration by the wall clock; of a killed process until its restart; of one killed as it starts, its age."""
    degree: float | None = None
    """Of a delay, s; of a throttle, bytes per second."""

    def __str__(self) -> str:
        how = "" if self.kind == "reset" or self.kind.startswith("half-closed") else f" for {self.for_s:.2f} s"
        if self.degree is not None:
            how = f" ({self.degree:.3g} {'s' if self.kind == 'delayed' else 'bytes/s'}){how}"
        return f"{self.at_s:6.2f} s  {self.target} {self.kind}{how}"


def make_plan(
    seed: int,
    seconds: float,
    *,
    killable: Sequence[str],
    stoppable: Sequence[str],
    links: Sequence[str],
    has_disk: bool,
) -> list[Fault]:
    """Draw faults within these seconds, in the order of time.

    Args:
        killable: processes besides the line that may be killed.
        stoppable: processes that may be stopped for a while.
        links: through which clients reach the line.
        has_disk: whether the disk can be filled.
    """
    draw = random.Random(seed)
    kills = max(LEAST_KILLS, round(KILLS_PER_S * seconds))
    faults = [*_kills(draw, seconds, kills, killable), *_link_faults(draw, seconds, links)]
    for target in stoppable:
        faults.append(Fault(draw.uniform(0.1, 0.6) * seconds, "stopped", target, draw.uniform(*STOPPED_S)))
    if has_disk:
        faults.append(Fault(draw.uniform(0.3, 0.6) * seconds, "full", DISK, draw.uniform(*DISK_FULL_S)))
    return sorted(faults, key=lambda fault: fault.at_s)


def kills_in(plan: Iterable[Fault]) -> int:
    """Count the kills of a plan."""
    return sum(fault.kind.startswith("killed") for fault in plan)


def _kills(draw: random.Random, seconds: float, kills: int, killable: Sequence[str]) -> list[Fault]:
    """Draw kills: those of the line are spread over the time, so that it reports frames between them."""
    faults: list[Fault] = []
    of_the_line = max(2, round(kills * OF_THE_LINE))
    others = _shuffled(draw, killable)
    slots = [(slot + draw.random()) * seconds / of_the_line for slot in range(of_the_line)]
    while slots and len(faults) < kills:
        at_s = slots.pop(0)
        faults.append(Fault(at_s, "killed", LINE, draw.uniform(*AWAY_S)))
        if draw.random() < TOGETHER and len(faults) < kills:
            faults.append(Fault(at_s, "killed", next(others), draw.uniform(*AWAY_S)))
        if draw.random() < AS_IT_STARTS and slots:
            slots.pop()
            faults.append(Fault(at_s, "killed as it starts", LINE, draw.uniform(*STARTING_S)))
    while len(faults) < kills:
        faults.append(Fault(draw.random() * seconds, "killed", next(others), draw.uniform(*AWAY_S)))
    return faults


def _link_faults(draw: random.Random, seconds: float, links: Sequence[str]) -> list[Fault]:
    """Draw faults of links, one after the other on each link, in about equal numbers of each kind."""
    faults: list[Fault] = []
    kinds = _shuffled(draw, LINK_FAULTS)
    for link in links:
        at_s = draw.expovariate(1 / LINK_FAULT_EVERY_S)
        while at_s < seconds:
            kind = next(kinds)
            for_s = draw.uniform(*(SILENT_S if kind == "silent" else LINK_FAULT_S))
            faults.append(Fault(at_s, kind, link, for_s, _degree(draw, kind)))
            at_s += for_s + draw.expovariate(1 / LINK_FAULT_EVERY_S)
    return faults


def _degree(draw: random.Random, kind: LinkFault) -> float | None:
    match kind:
        case "delayed":
            return draw.uniform(*DELAY_S)
        case "throttled":
            return draw.uniform(*THROTTLED_TO_BYTES_PER_S)
        case _:
            return None


def _shuffled(draw: random.Random, values: Sequence[T]) -> Iterator[T]:
    """Yield all values in random order, repeatedly."""
    while True:
        yield from draw.sample(values, len(values))


LEAST_DISK_MIB = 64
BYTES_PER_EVENT = 4000
"""On the disk, with a margin."""
PORTS = 20_000, 30_000
"""Below the ports that the kernel assigns: a client that connects to a stopped server could get the server's port as
its own, and connect to itself."""
PIECES = bytes(1 << 20), bytes(4096)
"""Pieces that fill a disk to its last block."""


class SmallDisk:
    """A file system in memory, mounted at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Write until the disk has no room."""
        for piece in PIECES:
            with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(piece)

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


class Environment:
    """All processes of a run, for the duration of the `with` block.

    Args:
        rate_fps: of all cameras together.
        seconds: duration of the faults.
        report_line: takes a line of progress.
    """

    def __init__(
        self,
        bundle: Bundle,
        clients: Sequence[ClientPlan],
        rate_fps: float,
        seconds: float,
        report_line: Callable[[str], None],
    ) -> None:
        self.seconds = seconds
        with ExitStack() as begun:
            self._folder = Path(begun.enter_context(tempfile.TemporaryDirectory(prefix="heatline-chaos-")))
            disk_mib = max(LEAST_DISK_MIB, round(2 * rate_fps * seconds * BYTES_PER_EVENT / 2**20))
            disk = self._folder / "disk"
            disk.mkdir()
            self.disk = _mounted(disk, disk_mib, begun, report_line)
            self.state = disk / "state"
            self.state.mkdir()
            ports = {"events": _free_port(), "journal": _free_port()}
            proxy = begun.enter_context(Proxy())
            self.hurry = self._folder / "hurry"
            self.clients: dict[str, Client] = {}
            self.links: dict[str, Link] = {}
            for plan in clients:
                self.links[plan.link] = link = proxy.link("127.0.0.1", ports[plan.socket])
                self.clients[plan.name] = client = Client(plan, link.address, self._folder, self.hurry)
                begun.enter_context(client.process)
            self.reference = begun.enter_context(ReferenceSubscriber(f"tcp://127.0.0.1:{ports['events']}"))
            tables: dict[str, Keys] = {
                "engine": {"precision": "f32"},
                "thresholds": ALL_GOOD,
                "events": {"bind": f"tcp://127.0.0.1:{ports['events']}", "heatmaps": "never"},
                "journal": {"bind": f"tcp://127.0.0.1:{ports['journal']}", "retain_mib": disk_mib // 2},
            }
            camera: Keys = {"kind": "pattern", "draw_size": [64, 48], "rate_fps": rate_fps / 2, "waiting_frames": 16}
            self.line = begun.enter_context(self._line("line", bundle, {**camera, "trigger": "free"}, tables))
            self.idle_line = begun.enter_context(self._line("idle", bundle, {**camera, "trigger": "software"}, tables))
            """The same line with cameras that wait for a trigger, and never get one."""
            for client in self.clients.values():
                client.process.start()
            self._at_end = begun.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._at_end.close()

    def _line(self, name: str, bundle: Bundle, camera: Keys, tables: dict[str, Keys]) -> WatchedProcess:
        folder = self._folder / name
        folder.mkdir()
        config = folder / "line.toml"
        cameras = [{**camera, "name": side} for side in ("left", "right")]
        # Without a socket for commands, no camera may wait for a trigger.
        write_line_file(config, bundle.path, cameras, {**tables, "commands": {"bind": f"ipc://{folder}/commands"}})
        env = {"STATE_DIRECTORY": str(self.state), "OPENCV_LOG_LEVEL": "SILENT"}
        return line_process(config, self._folder / f"{name}.log", env=env)

    def keep(self, folder: Path) -> None:
        """Copy all written files."""
        shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("filler", "commands"), dirs_exist_ok=True)

    def journals(self) -> dict[str, list[Stored]]:
        """Read all of the line's journals, in the order of their begin."""
        found: dict[str, list[Stored]] = {}
        for path in [*self.state.glob("journal.db.damaged"), self.state / "journal.db"]:
            with JournalReader.open_file(path) as journal:
                records, through, last = list[Stored](), 0, journal.range()[1]
                while through < last:
                    page = journal.read(through, through_seq=last)
                    records += [Stored(each.seq, each.topic, each.header) for each in page.records]
                    through = page.through_seq
                found[journal.journal_id] = records
        return found


def _mounted(place: Path, mib: int, begun: ExitStack, report_line: Callable[[str], None]) -> SmallDisk | None:
    """Mount a disk until `begun` ends; report and return None if that is not possible."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "heatline-chaos", str(place)]
    try:
        subprocess.run(mount, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        report_line(f"NO DISK CAN BE MOUNTED HERE, SO NONE IS FILLED: {why}")
        return None
    assert os.path.ismount(place)
    begun.callback(subprocess.run, ["umount", "--lazy", str(place)], capture_output=True, check=False)
    return SmallDisk(place)


def _free_port() -> int:
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


POLL_MS = 50


class ReferenceSubscriber:
    """Receives in a thread for the duration of the `with` block.

    Args:
        address: of the line's events.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.headers: list[bytes] = []
        """Headers of all events but statuses, in the order of receipt."""
        self.boots: list[str] = []
        """Boot ids of the line, in the order of their first event."""
        self.frames_of_boot = 0
        """Number of verdict events of the last boot."""
        self.status: StatusEvent | None = None
        """The last status."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reference", daemon=True)

    @property
    def live_only(self) -> str | None:
        """Why events are not recorded, by the last status; None: they are."""
        journal = None if self.status is None else self.status.journal
        return None if journal is None else journal.live_only

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 10)
            socket.subscribe("")
            socket.connect(self._address)
            while not self._ending.is_set():
                if socket.poll(POLL_MS):
                    self._record(socket.recv_multipart())

    def _record(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            return  # a welcome
        head = head_of(parts[1])
        if head.boot_id not in self.boots:
            self.frames_of_boot = 0
            self.boots.append(head.boot_id)
        if head.type == "status":
            status = event_from(parts[1])
            assert isinstance(status, StatusEvent)
            self.status = status
            return
        self.headers.append(parts[1])
        self.frames_of_boot += head.type == "verdict" and head.boot_id == self.boots[-1]


TICK_S = 0.02
REPORTS_WITHIN_S = 90.0
NOTICED_WITHIN_S = 60.0
"""Time to notice a full disk: events that are written ahead have room."""
RECORDS_WITHIN_S = 60.0
CATCHES_UP_WITHIN_S = 180.0
IN_USE_S = 3.0
"""A client that received nothing for so long may be killed too, as its link may be cut."""
AGAIN_AFTER_S = 1.0
"""Time until a client that ended by itself is started again, as it may end at once."""


class ChaosRun:
    """State of a run.

    Args:
        report_line: takes a line of progress.
    """

    def __init__(self, environment: Environment, report_line: Callable[[str], None]) -> None:
        self._environment, self._report_line = environment, report_line
        self._line, self._reference, self.clients = environment.line, environment.reference, environment.clients
        self.clock_s = 0.0
        """Time in which the line reported frames; it stops while the line is down."""
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.ended: list[str] = []
        """A sentence for each process that ended by itself; none should."""
        self.noticed_full: bool | None = None
        """Whether events were live only on the full disk; None: the disk was never full."""
        self.recorded_again_s: float | None = None
        """From when the disk had room again until events were recorded."""
        self.drained_s = 0.0
        """From the start of the line without frames until every client had all events."""
        self.through: dict[str, int] = {}
        """By journal: its last number when the clients were ended."""
        self._past_boots: frozenset[str] = frozenset()
        self._last_s = self._reported_s = time.monotonic()
        self._later: list[tuple[float, Callable[[], None]]] = []
        """Functions that end faults, with their times, monotonic."""
        self._filled_for_s: float | None = None
        """While the disk is full: how long it stays full after the line noticed it."""
        self._filled_s = 0.0
        self._freed_s: float | None = None
        self._wanted_up_to = -1
        self._wanted_last: dict[str, tuple[str, int] | None] = {}

    def execute(self, plan: Sequence[Fault]) -> Expected:
        """Inject the planned faults, let every client catch up, and end all; return the expected events.

        Raises:
            BenchError: the line does not start, does not report, or does not stop.
        """
        self._line.start()
        while not self._reports:
            self._tick()
        self._inject(plan)
        self._recover()
        self._drain()
        journals = self._environment.journals()
        self.through = {journal_id: records[-1].seq for journal_id, records in journals.items() if records}
        for client in self.clients.values():
            client.process.kill()
        _end(self._environment.idle_line)
        return Expected(self._environment.journals(), self._reference.headers, self._reference.boots)

    @property
    def _reports(self) -> bool:
        """Whether the line has reported a frame since its last start."""
        boots = self._reference.boots
        return self._line.runs and self._reference.frames_of_boot > 0 and boots[-1] not in self._past_boots

    @property
    def _live_only(self) -> bool:
        return self._reference.live_only is not None

    def _inject(self, plan: Sequence[Fault]) -> None:
        """Inject all faults, until the clock has reached its end."""
        due = list(plan)
        while due or self.clock_s < self._environment.seconds:
            self._tick()
            for fault in list(due):
                if fault.at_s <= self.clock_s and self._is_ready(fault):
                    due.remove(fault)
                    self.faults[fault.kind] += 1
                    self._report_line(str(fault))
                    self._begin(fault)

    def _recover(self) -> None:
        """Heal all links, and wait until all clients and the line run and events are recorded."""
        self._report_line(f"{self.clock_s:6.2f} s  no more faults")
        while self._later or self._filled_for_s is not None:
            self._later = [(0.0, end) for _, end in self._later]
            self._tick()
        for link in self._environment.links.values():
            link.heal()
        give_up_s = time.monotonic() + RECORDS_WITHIN_S
        while not self._reports or self._live_only or self._freed_s is not None:
            self._tick()
            if time.monotonic() > give_up_s:
                why = self._reference.status
                raise BenchError(f"events are not recorded {RECORDS_WITHIN_S:.0f} s after there was room again: {why}")

    def _drain(self) -> None:
        """Restart the line without new frames, until every client has all events."""
        _end(self._line)
        self._past_boots = frozenset(self._reference.boots)
        self._environment.hurry.touch()
        self._environment.idle_line.start()
        began_s = time.monotonic()
        while waiting := self._waiting():
            if time.monotonic() > began_s + CATCHES_UP_WITHIN_S:
                self._report_line(f"after {CATCHES_UP_WITHIN_S:.0f} s, not all had caught up: {', '.join(waiting)}")
                break
            time.sleep(10 * TICK_S)
            self._supervise()
            self._end_faults_that_are_due()
            if wrong := self._environment.idle_line.check():
                raise BenchError(wrong)
        self.drained_s = time.monotonic() - began_s

    def _waiting(self) -> list[str]:
        """Return the clients that lack events, or have no status of the line without frames."""
        boot_id = self._reference.boots[-1]
        if boot_id in self._past_boots:
            return ["the line"]
        try:
            wanted = self._wanted()
        except JournalError as error:
            return [str(error)]
        return [name for name, client in self.clients.items() if not _has_all(client, wanted[name], boot_id)]

    def _wanted(self) -> Mapping[str, tuple[str, int] | None]:
        """Return the last event in the journal for each durable consumer."""
        with JournalReader.open(self._environment.state) as journal:
            last_seq = journal.range()[1]
        if last_seq != self._wanted_up_to:
            expected = Expected(self._environment.journals(), [])
            for name, client in self.clients.items():
                wanted = expected.wanted(client.plan.topics)
                self._wanted_last[name] = wanted[-1] if wanted else None
            self._wanted_up_to = last_seq
        return self._wanted_last

    def _tick(self) -> None:
        time.sleep(TICK_S)
        now_s = time.monotonic()
        if self._reports:
            self.clock_s += now_s - self._last_s
            self._reported_s = now_s
        elif now_s > self._reported_s + REPORTS_WITHIN_S:
            raise BenchError(f"the line reported nothing for {REPORTS_WITHIN_S:.0f} s; {self._line.log_tail()}")
        self._last_s = now_s
        self._end_faults_that_are_due()
        self._fill_or_free_disk(now_s)
        self._supervise()

    def _at(self, in_s: float, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + in_s, do))

    def _end_faults_that_are_due(self) -> None:
        now_s = time.monotonic()
        over = [end for due_s, end in self._later if due_s <= now_s]
        self._later = [one for one in self._later if one[0] > now_s]
        for end in over:
            end()

    def _supervise(self) -> None:
        """Restart clients that ended by themselves, and record that."""
        for client in self.clients.values():
            if (wrong := client.process.check()) is not None:
                self._report_line(wrong)
                self.ended.append(wrong)
                self._at(AGAIN_AFTER_S, client.process.start)
        if (wrong := self._line.check()) is not None:
            raise BenchError(wrong)

    # Faults.

    def _is_ready(self, fault: Fault) -> bool:
        """Return whether the target of a fault is in a state to be hit."""
        if fault.target in self._environment.links or fault.target == DISK:
            return True
        if fault.target == LINE:
            old_enough = self._reports if fault.kind == "killed" else _age_s(self._line) >= fault.for_s
            return self._line.runs and old_enough
        client = self.clients[fault.target]
        return client.process.runs and (client.is_in_use or _age_s(client.process) > IN_USE_S)

    def _begin(self, fault: Fault) -> None:
        if fault.target in self._environment.links:
            self._hit_link(self._environment.links[fault.target], fault)
        elif fault.target == DISK:
            self._filled_for_s, self._filled_s, self.noticed_full = fault.for_s, time.monotonic(), False
        elif fault.target == LINE:
            self.kills["line"] += 1
            self._past_boots = frozenset(self._reference.boots)
            self._line.kill()
            self._at(fault.for_s if fault.kind == "killed" else 0.0, self._line.start)
        elif fault.kind == "stopped":
            process = self.clients[fault.target].process
            pid = process.pause()
            self._at(fault.for_s, lambda: process.resume(pid))
        else:
            process = self.clients[fault.target].process
            self.kills["clients"] += 1
            process.kill()
            self._at(fault.for_s, process.start)

    def _hit_link(self, link: Link, fault: Fault) -> None:
        match fault.kind:
            case "reset":
                link.reset()
                return
            case "half-closed to the client":
                link.half_close("client")
                return
            case "half-closed to the line":
                link.half_close("server")
                return
            case "cut":
                link.cut()
            case "silent":
                link.silence()
            case "delayed":
                link.delay(fault.degree or 0.0)
            case "throttled":
                link.throttle(fault.degree or 1.0)
        self._at(fault.for_s, link.heal)

    def _fill_or_free_disk(self, now_s: float) -> None:
        """Keep the disk full until the line has noticed it, and then for the planned time."""
        if self._filled_for_s is not None:
            disk = self._environment.disk
            assert disk is not None
            disk.fill()
            if not self.noticed_full and self._live_only:
                self.noticed_full, self._filled_s = True, now_s
                self._report_line(f"{self.clock_s:6.2f} s  events are live only: {self._reference.live_only}")
            if now_s > self._filled_s + (self._filled_for_s if self.noticed_full else NOTICED_WITHIN_S):
                disk.free()
                self._filled_for_s, self._freed_s = None, now_s
                self._report_line(f"{self.clock_s:6.2f} s  the disk has room again")
        elif self._freed_s is not None and not self._live_only and self._reports:
            self.recorded_again_s, self._freed_s = now_s - self._freed_s, None


def _has_all(client: Client, wanted: tuple[str, int] | None, boot_id: str) -> bool:
    """Return whether a client has all of its events, or a status of the line's last boot."""
    if client.plan.durable:
        header = client.last_header()
        got = None if header is None else (head_of(header).count, head_of(header).seq)
        return wanted in (None, got)
    if client.plan.records_statuses:
        line = last_line(client.record)
        item = None if line is None else item_of(line)
        return isinstance(item, StatusReceived) and item.boot_id == boot_id
    return True


def _end(line: WatchedProcess) -> None:
    line.terminate()
    line.require_success()


def _age_s(process: WatchedProcess) -> float:
    return time.monotonic() - process.started_s
