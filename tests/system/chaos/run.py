"""A run under faults, planned by a seed: from the line's start until every client has caught up and was ended."""

import contextlib
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import zmq

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import StatusEvent, event_from
from tests.command import HEATLINE
from tests.edge.fault_disks import small_disk
from tests.edge.journals import stored_rows
from tests.edge.lines import Restartable, write_line_with
from tests.edge.secured import Port, free_port
from tests.system.chaos.checks import Stored
from tests.system.chaos.clients import Client, ClientPlan, head_of
from tests.system.chaos.tcp_proxy import Link, proxy
from tests.system.command import ALL_GOOD, report_line

T = TypeVar("T")

LINE = "line"
DISK = "disk"
LINK_FAULTS = ("cut", "reset", "half-closed to the client", "half-closed to the line", "silent", "slow")
KILLS_PER_S = 0.4
"""Of all processes together, 24 in a minute."""
LEAST_KILLS = 4
STARTING_S = 0.2, 1.5
"""Age of a line that is killed as it starts."""
LINK_FAULT_EVERY_S = 4.0
"""On each link, from the end of a fault to the begin of the next, on average."""
LINK_FAULT_S = 0.1, 2.5
SILENT_S = 1.0, 6.0
"""Longer, so that some peers disconnect."""
LONGEST_PAUSE_S = 0.3
"""Before each piece that a slow link passes on."""
AWAY_S = 0.0, 1.5
"""From a kill to the next start."""
STOPPED_S = 2.0, 6.0
DISK_FULL_S = 1.0, 3.0
"""From when the line notices it."""


class Fault(msgspec.Struct, frozen=True):
    """A fault and its target."""

    at_s: float
    """By a clock that stops while the line is down, so that slow starts make a plan no easier."""
    kind: str
    """One of `LINK_FAULTS`, `killed`, `killed as it starts`, `stopped` or `full`."""
    target: str
    """`LINE`, `DISK` or a client."""
    for_s: float
    """Duration by the wall clock; of a killed process until its restart; of one killed as it starts, its age."""

    def __str__(self) -> str:
        return f"{self.at_s:6.2f} s  {self.target} {self.kind} for {self.for_s:.2f} s"


def make_plan(seed: int, seconds: float, clients: Sequence[ClientPlan]) -> list[Fault]:
    """Draw faults within these seconds, in the order of time.

    One kill in three is of the line, another one of a client at the same moment.
    """
    draw = random.Random(seed)
    faults = [Fault(draw.uniform(0.3, 0.6) * seconds, "full", DISK, draw.uniform(*DISK_FULL_S))]
    kills = max(LEAST_KILLS, round(KILLS_PER_S * seconds))
    killable = _shuffled(draw, [client.name for client in clients if client.killed])
    line_kinds = _shuffled(draw, ("killed", "killed", "killed as it starts"))
    for number in range(kills):
        at_s = (number - number % 3 + draw.random() * (1 + number % 3)) * seconds / kills
        if number % 3 == 0:
            line_killed_s, kind = at_s, next(line_kinds)
            faults.append(Fault(at_s, kind, LINE, draw.uniform(*(AWAY_S if kind == "killed" else STARTING_S))))
        else:
            faults.append(
                Fault(line_killed_s if number % 3 == 1 else at_s, "killed", next(killable), draw.uniform(*AWAY_S))
            )
    link_kinds = _shuffled(draw, LINK_FAULTS)
    for client in clients:
        if client.stopped:
            faults.append(Fault(draw.uniform(0.1, 0.6) * seconds, "stopped", client.name, draw.uniform(*STOPPED_S)))
        at_s = draw.expovariate(1 / LINK_FAULT_EVERY_S)
        while at_s < seconds:
            kind = next(link_kinds)
            for_s = draw.uniform(*(SILENT_S if kind == "silent" else LINK_FAULT_S))
            faults.append(Fault(at_s, kind, client.name, for_s))
            at_s += for_s + draw.expovariate(1 / LINK_FAULT_EVERY_S)
    return sorted(faults, key=lambda fault: fault.at_s)


def _shuffled(draw: random.Random, values: Sequence[T]) -> Iterator[T]:
    """Yield all values in random order, repeatedly."""
    while True:
        yield from draw.sample(values, len(values))


def lines_of(
    folder: Path, bundle: Bundle, rate_fps: float, state: Path, events: Port, tables: str
) -> tuple[Restartable, Restartable]:
    """Return a line with two cameras, and the same line with cameras that wait for a trigger and never get one.

    Their files are `inspecting/line.toml` and `idle/line.toml` of the folder, their log is `line.log`.

    Args:
        tables: keys of `[events]`, and further tables.
    """
    lines = []
    for name, trigger in (("inspecting", "free"), ("idle", "software")):
        (folder / name).mkdir()
        camera = {"kind": "pattern", "draw_size": [64, 48], "rate_fps": rate_fps / 2, "waiting_frames": 16}
        cameras = {side: {**camera, "trigger": trigger} for side in ("left", "right")}
        # Without a socket for commands, no camera may wait for a trigger.
        commands = f'[commands]\nbind = "ipc://{folder}/{name}/commands"'
        file = write_line_with(folder / name, bundle.path, events.local, cameras, f"{tables}\n{ALL_GOOD}{commands}")
        # A line that is started again inspects at once, whether it has a subscriber or not.
        file.write_text(file.read_text().replace("wait_for_subscriber_s = 60\n", ""))
        env = {"STATE_DIRECTORY": str(state)}
        lines.append(Restartable("the line", [HEATLINE, "run", file], folder / "line.log", env))
    inspecting, idle = lines
    return inspecting, idle


def stored_in(state: Path) -> list[Stored]:
    """Read the journal of a folder."""
    return [Stored(seq, topic, header) for seq, topic, header, _ in stored_rows(state)]


POLL_MS = 50


class ReferenceSubscriber:
    """Receives in a thread until it is closed. `address`: of the line's events."""

    def __init__(self, address: str) -> None:
        self.headers: list[bytes] = []
        """Headers of all events but statuses, in the order of receipt."""
        self.boots: dict[str, int] = {}
        """By boot of the line in their order: the number of its verdict events."""
        self.live_only: str | None = None
        """Why events are not recorded, by the last status; None: they are."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,), name="reference", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self, address: str) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 10)
            socket.subscribe("")
            socket.connect(address)
            while not self._ending.is_set():
                if socket.poll(POLL_MS) and len(parts := socket.recv_multipart()) > 1:  # a welcome has one part
                    self._record(parts[1])

    def _record(self, header: bytes) -> None:
        head = head_of(header)
        self.boots[head.boot_id] = self.boots.get(head.boot_id, 0) + (head.type == "verdict")
        if head.type != "status":
            self.headers.append(header)
            return
        status = event_from(header)
        assert isinstance(status, StatusEvent)
        self.live_only = None if status.journal is None else status.journal.live_only


LEAST_DISK_MIB = 64
BYTES_PER_EVENT = 4000
"""On the disk, with a margin."""
TICK_S = 0.02
REPORTS_WITHIN_S = 90.0
NOTICED_WITHIN_S = 60.0
"""Time to notice a full disk: events that are written ahead have room."""
RECORDS_WITHIN_S = 60.0
CATCHES_UP_WITHIN_S = 180.0
AGAIN_AFTER_S = 1.0
"""Time until a client that ended by itself is started again, as it may end at once."""


class ChaosRun:
    """A line, its clients behind their links, and its disk. `at_end`: ends all of them. `rate_fps`: of both cameras
    together. `seconds`: duration of the faults."""

    def __init__(
        self, at_end: ExitStack, bundle: Bundle, clients: Sequence[ClientPlan], rate_fps: float, seconds: float
    ) -> None:
        self._seconds = seconds
        self.clock_s = 0.0
        """Time in which the line reported frames; it stops while the line is down."""
        self.faults: Counter[str] = Counter()
        """Faults by their kind."""
        self.ended: list[str] = []
        """A sentence for each process that ended by itself; none should."""
        self.noticed_full: bool | None = None
        """Whether events were live only on the full disk; None: the disk was never full."""
        self.recorded_again_s: float | None = None
        """From when the disk had room again until events were recorded."""
        self._last_s = time.monotonic()
        self._past_boots: frozenset[str] = frozenset()
        self._later: list[tuple[float, Callable[[], None]]] = []
        """Functions that end faults, with their times, monotonic."""
        self._full_for_s = 0.0
        self._filled_until_s: float | None = None
        """While the disk is full."""
        self._freed_s: float | None = None
        self._folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="heatline-chaos-")))
        disk_mib = max(LEAST_DISK_MIB, round(2 * rate_fps * seconds * BYTES_PER_EVENT / 2**20))
        self.state = self._folder / "disk"
        self.has_disk = True
        try:
            at_end.enter_context(small_disk(self.state, disk_mib))
        except pytest.skip.Exception as reason:
            report_line(f"NO DISK CAN BE MOUNTED HERE, SO NONE IS FILLED: {reason}")
            self.has_disk = False
        self._ports = events, journal = free_port(), free_port()
        link_to = at_end.enter_context(proxy())
        self.clients: dict[str, Client] = {}
        self._links: dict[str, Link] = {}
        for plan in clients:
            self._links[plan.name] = link = link_to((journal if plan.durable else events).number)
            self.clients[plan.name] = client = Client(plan, link.address, self._folder)
            at_end.callback(client.process.kill)
        self.reference = ReferenceSubscriber(events.local)
        at_end.callback(self.reference.close)
        tables = f'heatmaps = "never"\n[journal]\nbind = "{journal.local}"\nretain_mib = {disk_mib // 2}'
        self._line, self._idle_line = lines_of(self._folder, bundle, rate_fps, self.state, events, tables)
        at_end.callback(self._line.kill)
        at_end.callback(self._idle_line.kill)

    def keep(self, folder: Path) -> None:
        """Copy all written files."""
        shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("filler", "commands"), dirs_exist_ok=True)

    def execute(self, plan: Iterable[Fault]) -> int:
        """Inject the planned faults, let every client catch up, and end all; return the number of the last event that
        the clients waited for.
        """
        for client in self.clients.values():
            client.process.start()
        self._line.start()
        self._until(lambda: self._reports, REPORTS_WITHIN_S, "no frame is reported")
        self._inject(plan)
        self._recover()
        through = self._drain()
        for client in self.clients.values():
            client.process.kill()
        self._idle_line.end()
        return through

    @property
    def _reports(self) -> bool:
        """Whether the line has reported a frame since its last start."""
        return self._line.running is not None and any(
            frames for boot_id, frames in list(self.reference.boots.items()) if boot_id not in self._past_boots
        )

    def _inject(self, plan: Iterable[Fault]) -> None:
        """Inject all faults, until the clock has reached its end."""
        due = [fault for fault in plan if self.has_disk or fault.target != DISK]
        while due or self.clock_s < self._seconds:
            self._tick()
            for fault in list(due):
                if fault.at_s <= self.clock_s and self._is_ready(fault):
                    due.remove(fault)
                    self.faults[fault.kind] += 1
                    report_line(str(fault))
                    self._begin(fault)

    def _recover(self) -> None:
        """End all faults, and wait until all processes run and events are recorded."""
        report_line(f"{self.clock_s:6.2f} s  no more faults")
        self._until(lambda: not self._later and self._filled_until_s is None, NOTICED_WITHIN_S, "faults do not end")
        for link in self._links.values():
            link.heal()
        self._until(
            lambda: self._reports and self.reference.live_only is None and self._freed_s is None,
            RECORDS_WITHIN_S,
            "events are not recorded after there was room again",
        )

    def _drain(self) -> int:
        """Restart the line without new frames until every client has all events; return the last one's number."""
        self._line.end()
        self._past_boots = frozenset(self.reference.boots)
        self._idle_line.start()
        self._until(lambda: len(self.reference.boots) > len(self._past_boots), REPORTS_WITHIN_S, "no status is sent")
        (boot_id,) = self.reference.boots.keys() - self._past_boots
        stored = stored_in(self.state)
        give_up_s = time.monotonic() + CATCHES_UP_WITHIN_S
        while waiting := [name for name, client in self.clients.items() if not _has_all(client, stored, boot_id)]:
            self._tick()
            if time.monotonic() > give_up_s:
                report_line(f"after {CATCHES_UP_WITHIN_S:.0f} s, not all had caught up: {', '.join(waiting)}")
                break
        return stored[-1].seq

    def _until(self, condition: Callable[[], bool], within_s: float, description: str) -> None:
        give_up_s = time.monotonic() + within_s
        while not condition():
            self._tick()
            state = self.reference.live_only or "all is recorded"
            assert time.monotonic() < give_up_s, f"for {within_s:.0f} s, {description}; {state}"

    def _tick(self) -> None:
        time.sleep(TICK_S)
        now_s = time.monotonic()
        if self._reports:
            self.clock_s += now_s - self._last_s
        self._last_s = now_s
        over = [end for due_s, end in self._later if due_s <= now_s]
        self._later = [one for one in self._later if one[0] > now_s]
        for end in over:
            end()
        self._fill_or_free_disk(now_s)
        self._supervise()

    def _at(self, in_s: float, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + in_s, do))

    def _supervise(self) -> None:
        """Restart clients that ended by themselves, and record that."""
        for client in self.clients.values():
            if (wrong := client.process.ended()) is not None:
                report_line(wrong)
                self.ended.append(wrong)
                self._at(AGAIN_AFTER_S, client.process.start)
        for line in (self._line, self._idle_line):
            wrong = line.ended()
            assert wrong is None, wrong

    # Faults.

    def _is_ready(self, fault: Fault) -> bool:
        """Return whether the target of a fault is in a state to be hit."""
        if fault.target == LINE:
            return self._reports
        if fault.kind in ("killed", "stopped"):
            client = self.clients[fault.target]
            return client.process.running is not None and client.record.exists()
        return True

    def _begin(self, fault: Fault) -> None:
        if fault.target == DISK:
            self._filled_until_s, self.noticed_full = time.monotonic() + NOTICED_WITHIN_S, False
            self._full_for_s = fault.for_s
        elif fault.target == LINE:
            self._kill_line()
            if fault.kind == "killed":
                self._at(fault.for_s, self._line.start)
            else:
                self._line.start()
                self._at(fault.for_s, self._restart_line)
        elif fault.kind == "stopped":
            life = self.clients[fault.target].process.running
            assert life is not None
            life.send_signal(signal.SIGSTOP)
            self._at(fault.for_s, lambda: life.send_signal(signal.SIGCONT))  # which does nothing once it is killed
        elif fault.kind == "killed":
            process = self.clients[fault.target].process
            process.kill()
            self._at(fault.for_s, process.start)
        else:
            self._hit_link(self._links[fault.target], fault)

    def _kill_line(self) -> None:
        self._past_boots = frozenset(self.reference.boots)
        self._line.kill()

    def _restart_line(self) -> None:
        self._kill_line()
        self._line.start()

    def _hit_link(self, link: Link, fault: Fault) -> None:
        hit: dict[str, Callable[[], None]] = {
            "cut": link.cut,
            "reset": link.reset,
            "half-closed to the client": lambda: link.half_close("client"),
            "half-closed to the line": lambda: link.half_close("server"),
            "silent": link.silence,
            "slow": lambda: link.slow_down(min(fault.for_s / 5, LONGEST_PAUSE_S)),
        }
        hit[fault.kind]()
        self._at(fault.for_s, link.heal)

    def _fill_or_free_disk(self, now_s: float) -> None:
        """Keep the disk full until the line has noticed it, and then for the planned time."""
        live_only, filler = self.reference.live_only, self.state / "filler"
        if self._filled_until_s is not None:
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            if not self.noticed_full and live_only is not None:
                self.noticed_full, self._filled_until_s = True, now_s + self._full_for_s
                report_line(f"{self.clock_s:6.2f} s  events are live only: {live_only}")
            if now_s > self._filled_until_s:
                filler.unlink()
                self._filled_until_s, self._freed_s = None, now_s
                report_line(f"{self.clock_s:6.2f} s  the disk has room again")
        elif self._freed_s is not None and live_only is None and self._reports:
            self.recorded_again_s, self._freed_s = now_s - self._freed_s, None


def _has_all(client: Client, stored: Sequence[Stored], boot_id: str) -> bool:
    """Return whether a client has recorded its last event, or a status of the line's last boot."""
    topics = client.plan.topics
    recorded = client.record.read_bytes()
    if client.plan.durable:
        return next((one.header in recorded for one in reversed(stored) if one.topic.startswith(topics)), True)
    return not "status".startswith(topics) or f'"status","boot_id":"{boot_id}"'.encode() in recorded
