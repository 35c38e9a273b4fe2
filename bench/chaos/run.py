"""One run under faults, from the line's start until everybody has all and has been ended."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.chaos.actor import Actor
from bench.chaos.cast import Player
from bench.chaos.plan import DISK, LINE, Fault
from bench.chaos.records import Heard, head_of, item_of, last_line
from bench.chaos.stage import Stage
from bench.chaos.tcp_proxy import Link
from bench.chaos.truth import Truth
from bench.chaos.witness import Witness
from edge.delivery.journal.reader import JournalReader
from edge.errors import BenchError, JournalError

TICK_S = 0.02
TELLS_WITHIN_S = 90.0
FELT_WITHIN_S = 60.0
"""A full disk: what was written ahead has room of its own."""
RECORDS_WITHIN_S = 60.0
CATCHES_UP_WITHIN_S = 180.0
IN_USE_S = 3.0
"""A client that has got nothing for so long may be killed all the same: its link may be cut."""
AGAIN_AFTER_S = 1.0
"""A client that ended by itself is started again; it may end at once."""


@dataclass
class Seen:
    """What came of a run."""

    truth: Truth
    players: Mapping[str, Player]
    """With the records of what they got."""
    told_s: float
    """For how long the line told what it saw."""
    boots: int
    kills: Counter[str]
    faults: Counter[str]
    ended: list[str]
    """Processes that ended by themselves, in words: none should."""
    drained_s: float
    """From the begin of a line that takes no frame any more until everybody had all."""
    felt_full: bool | None
    """Whether the line went live only on the full disk; none: it was never full."""
    recorded_again_s: float | None
    """From the moment at which there was room again."""
    through: dict[str, int]
    """By journal: how far it counted when the clients were ended."""


def play(stage: Stage, plan: Sequence[Fault], say: Callable[[str], None]) -> Seen:
    """Do what is planned, let everybody catch up, and end all.

    Args:
        say: is told what is done.
    Raises:
        BenchError: the line does not start, does not tell, or does not stop.
    """
    run = _Run(stage, say)
    run.until_told()
    run.suffer(plan)
    run.recover()
    drained_s = run.drain()
    through = {journal_id: records[-1].seq for journal_id, records in stage.journals().items() if records}
    for player in stage.players.values():
        player.actor.kill()
    _end(stage.idle_line)
    return Seen(
        truth=Truth(stage.journals(), stage.witness.headers, stage.witness.boots),
        players=stage.players,
        told_s=run.clock_s,
        boots=len(stage.witness.boots),
        kills=run.kills,
        faults=run.faults,
        ended=run.ended,
        drained_s=drained_s,
        felt_full=run.felt_full,
        recorded_again_s=run.recorded_again_s,
        through=through,
    )


@dataclass
class _Run:
    """One run as it goes on."""

    stage: Stage
    say: Callable[[str], None]
    clock_s: float = 0.0
    """Stands still while the line is down."""
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ended: list[str] = field(default_factory=list)
    felt_full: bool | None = None
    recorded_again_s: float | None = None
    _past_boots: frozenset[str] = frozenset()
    _last_s: float = field(default_factory=time.monotonic)
    _told_last_s: float = field(default_factory=time.monotonic)
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What ends faults, and when, monotonic."""
    _filled_for_s: float | None = None
    """While the disk is full: for how long, once it is felt."""
    _filled_s: float = 0.0
    _freed_s: float | None = None
    _wanted_up_to: int = -1
    _wanted_last: dict[str, tuple[str, int] | None] = field(default_factory=dict)

    @property
    def tells(self) -> bool:
        """Whether the line's life at hand has told of a frame."""
        witness = self.stage.witness
        return self.stage.line.runs and witness.boot_id not in self._past_boots and witness.frames_of_boot > 0

    def until_told(self) -> None:
        """Start the line, and wait until it tells of frames."""
        self._start_line()
        while not self.tells:
            self._tick()

    def suffer(self, plan: Sequence[Fault]) -> None:
        """Have all faults happen, and the clock come to its end."""
        due = list(plan)
        while due or self.clock_s < self.stage.seconds:
            self._tick()
            for fault in list(due):
                if fault.at_s <= self.clock_s and self._is_ready(fault):
                    due.remove(fault)
                    self.faults[fault.kind] += 1
                    self.say(str(fault))
                    self._begin(fault)

    def recover(self) -> None:
        """No fault any more: all links healed, all clients and the line there, events kept."""
        self.say(f"{self.clock_s:6.2f} s  no more faults")
        while self._later or self._filled_for_s is not None:
            self._later = [(0.0, end) for _, end in self._later]
            self._tick()
        for link in self.stage.links.values():
            link.heal()
        give_up_s = time.monotonic() + RECORDS_WITHIN_S
        while not self.tells or self.stage.witness.live_only or self._freed_s is not None:
            self._tick()
            if time.monotonic() > give_up_s:
                why = self.stage.witness.status
                raise BenchError(f"events are not kept {RECORDS_WITHIN_S:.0f} s after there was room again: {why}")

    def drain(self) -> float:
        """End the line, have it serve what there is without a new frame, until everybody has all; seconds."""
        stage = self.stage
        _end(stage.line)
        self._past_boots = frozenset(stage.witness.boots)
        stage.hurry.touch()
        stage.idle_line.start()
        began_s = time.monotonic()
        while waiting := self._waiting():
            if time.monotonic() > began_s + CATCHES_UP_WITHIN_S:
                self.say(f"after {CATCHES_UP_WITHIN_S:.0f} s, not all had caught up: {', '.join(waiting)}")
                break
            time.sleep(10 * TICK_S)
            self._supervise()
            self._see_to_ends(time.monotonic())
            if wrong := stage.idle_line.check():
                raise BenchError(wrong)
        return time.monotonic() - began_s

    def _waiting(self) -> list[str]:
        """Who has not got all yet, or has not heard of the line since it takes no frames."""
        boot_id = self.stage.witness.boot_id
        if boot_id in self._past_boots:
            return ["the line"]
        try:
            wanted = self._wanted()
        except JournalError as error:
            return [str(error)]
        waiting = []
        for name, player in self.stage.players.items():
            if player.part.durable:
                header = player.last_header()
                got = None if header is None else (head_of(header).count, head_of(header).seq)
                done = wanted[name] in (None, got)
            elif player.part.hears_statuses:
                line = last_line(player.record)
                item = None if line is None else item_of(line)
                done = isinstance(item, Heard) and item.boot_id == boot_id
            else:
                done = True
            if not done:
                waiting.append(name)
        return waiting

    def _wanted(self) -> Mapping[str, tuple[str, int] | None]:
        """The last event that each durable consumer must get, as the journal is now."""
        with JournalReader.open(self.stage.state) as journal:
            last_seq = journal.last_seq
        if last_seq != self._wanted_up_to:
            truth = Truth(self.stage.journals(), [])
            for name, player in self.stage.players.items():
                wanted = truth.wanted(player.part.topics)
                self._wanted_last[name] = wanted[-1] if wanted else None
            self._wanted_up_to = last_seq
        return self._wanted_last

    def _tick(self) -> None:
        time.sleep(TICK_S)
        now_s = time.monotonic()
        if self.tells:
            self.clock_s += now_s - self._last_s
            self._told_last_s = now_s
        elif now_s > self._told_last_s + TELLS_WITHIN_S:
            line = self.stage.line
            raise BenchError(f"the line told nothing for {TELLS_WITHIN_S:.0f} s; {line.log_in_words()}")
        self._last_s = now_s
        self._see_to_ends(now_s)
        self._see_to_the_disk(now_s)
        self._supervise()

    def _see_to_ends(self, now_s: float) -> None:
        """End what is over."""
        over = [end for due_s, end in self._later if due_s <= now_s]
        self._later = [one for one in self._later if one[0] > now_s]
        for end in over:
            end()

    def _supervise(self) -> None:
        """Nobody ends by himself."""
        for player in self.stage.players.values():
            if player.part.ends_with_the_line and not self.stage.line.runs:
                continue
            if (wrong := player.actor.check()) is not None:
                self.say(wrong)
                self.ended.append(wrong)
                self._at(AGAIN_AFTER_S, player.actor.start)
        if (wrong := self.stage.line.check()) is not None:
            raise BenchError(wrong)

    # Faults.

    def _is_ready(self, fault: Fault) -> bool:
        """Whether the one whom it is to hit is there."""
        if fault.target in self.stage.links or fault.target == DISK:
            return True
        if fault.target == LINE:
            line = self.stage.line
            return line.runs and (self.tells if fault.kind == "killed" else line.age_s >= fault.for_s)
        player = self.stage.players[fault.target]
        if not player.actor.runs:
            return False
        return player.is_in_use or player.actor.age_s > IN_USE_S

    def _begin(self, fault: Fault) -> None:
        if fault.target in self.stage.links:
            self._hit_link(self.stage.links[fault.target], fault)
        elif fault.target == DISK:
            assert self.stage.disk is not None
            self._filled_for_s, self._filled_s, self.felt_full = fault.for_s, time.monotonic(), False
        elif fault.target == LINE:
            self.kills["line"] += 1
            self._past_boots = frozenset(self.stage.witness.boots)
            self.stage.line.kill()
            self._at(fault.for_s if fault.kind == "killed" else 0.0, self._start_line)
        elif fault.kind == "stopped":
            actor = self.stage.players[fault.target].actor
            pid = actor.stop()
            self._at(fault.for_s, lambda: actor.go_on(pid))
        else:
            actor = self.stage.players[fault.target].actor
            self.kills["clients"] += 1
            actor.kill()
            self._at(fault.for_s, actor.start)

    def _hit_link(self, link: Link, fault: Fault) -> None:
        match fault.kind:
            case "cut":
                link.cut()
            case "silent":
                link.silence()
            case "delayed":
                link.delay(fault.degree or 0.0)
            case "throttled":
                link.throttle(fault.degree or 1.0)
            case "reset":
                link.reset()
                return
            case "half-closed to the client":
                link.half_close("client")
                return
            case _:
                link.half_close("server")
                return
        self._at(fault.for_s, link.heal)

    def _see_to_the_disk(self, now_s: float) -> None:
        """A full disk stays so until it is felt, and then as long as planned."""
        witness = self.stage.witness
        if self._filled_for_s is not None:
            assert self.stage.disk is not None
            self.stage.disk.fill()
            if not self.felt_full and witness.live_only:
                self.felt_full, self._filled_s = True, now_s
                self.say(f"{self.clock_s:6.2f} s  events are live only: {_why(witness)}")
            if now_s > self._filled_s + (self._filled_for_s if self.felt_full else FELT_WITHIN_S):
                self.stage.disk.free()
                self._filled_for_s, self._freed_s = None, now_s
                self.say(f"{self.clock_s:6.2f} s  the disk has room again")
        elif self._freed_s is not None and not witness.live_only and self.tells:
            self.recorded_again_s, self._freed_s = now_s - self._freed_s, None

    def _at(self, in_s: float, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + in_s, do))

    def _start_line(self) -> None:
        self.stage.line.start()


def _why(witness: Witness) -> str:
    journal = None if witness.status is None else witness.status.journal
    return "" if journal is None else journal.live_only or ""


def _end(line: Actor) -> None:
    code = line.end()
    if code:
        raise BenchError(f"the line ended with exit code {code} after SIGTERM: {line.log_in_words()}")
