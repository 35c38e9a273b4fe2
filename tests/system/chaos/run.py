"""A run under faults, from the line's start until every client has caught up and was ended."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from heatline.bench.watched_process import WatchedProcess
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import BenchError, JournalError
from tests.system.chaos.clients import Client
from tests.system.chaos.environment import Environment
from tests.system.chaos.expected import Expected
from tests.system.chaos.plan import DISK, LINE, Fault
from tests.system.chaos.records import StatusReceived, head_of, item_of, last_line
from tests.system.chaos.tcp_proxy import Link

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
            if client.plan.ends_with_the_line and not self._line.runs:
                continue
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
