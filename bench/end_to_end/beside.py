"""What evidence and the page take from a service for which a frame always waits, in interleaved turns."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import msgspec

from heatline.bench.end_to_end.line import FIRST_WITHIN_SECONDS, Line, Scene, running
from heatline.bench.end_to_end.saturated import service_turn
from heatline.bench.end_to_end.viewers import Viewers
from heatline.bench.engine_process import in_own_process
from heatline.bench.spread import Spread, interleaved
from heatline.bench.watched_line import Keys, free_address
from heatline.edge.errors import BenchError
from heatline.edge.service.sidecar import MODULE

PICTURES = 20
DEFECTIVE = 0.05
"""Share of the pictures that are DEFECT, as a line has few."""
GOOD_EVERY = 4
"""One of so many GOOD frames is to be stored, so that pictures are written all the time."""
VIEWERS = 2
START_SECONDS = 10.0
"""For recorder and page to start, while the service is stopped: a busy one leaves them so little of the processor that
it would take minutes."""
CONNECT_SECONDS = 2.0
"""Before each turn: connections end while a service is stopped for long."""
PLAIN, EVIDENCE, PAGE, BOTH = "plain", "evidence", "page", "both"


class BesideTurn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a service, and what was done beside it."""

    frames: int
    frames_per_s: float
    over_plain: float | None
    """Ratio to the mean of the plain turn before and the one after; None: this is a plain turn."""
    cpu_ms_per_frame: dict[str, float]
    stored: int
    """Pictures that the recorder stored, by the line's status, which comes once a second."""
    skipped: int
    """Pictures that it should have stored and did not."""
    shown: list[int]
    """Pictures that each viewer got; all other frames were not shown to it."""


class BesideService(msgspec.Struct, frozen=True, kw_only=True):
    """All turns of a service."""

    name: str
    frames_per_s: Spread
    over_plain: Spread | None
    """Of the turns."""
    cpu_ms_per_frame: dict[str, Spread]
    """Processor time of the service, of its cameras' processes, and of the monitor's."""
    frames: int
    stored: int
    skipped: int
    shown: int
    """Pictures that all viewers got; all turns together, as are the numbers above."""
    turns: list[BesideTurn]


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A service without evidence and page, compared with others that have one or both."""

    seconds: float
    """Length of a turn."""
    pictures: int
    defective: float
    good_every: int
    viewers: int
    services: list[BesideService]


def measure_beside(scene: Scene, *, seconds: float, rounds: int, report_line: Callable[[str], None]) -> Beside:
    """Interleave turns of four services; the plain one has a turn before and after each turn of another one.

    A service that has no turn is stopped with all its children; its viewers wait.

    Raises:
        BenchError: a process failed, or a service reported a wrong verdict.
    """
    turns: list[tuple[str, BesideTurn]] = []
    with ExitStack() as stack:
        services: dict[str, _Service] = {}
        for name in (PLAIN, EVIDENCE, PAGE, BOTH):
            report_line(f"starting the service: {name}")
            services[name] = stack.enter_context(_started(scene, name))

        def take_turn(name: str) -> None:
            turns.append((name, turn := services[name].take_turn(seconds)))
            report_line(f"{name}: {turn.frames_per_s:.3f} frames/s")

        take_turn(PLAIN)
        for number, names in enumerate(interleaved((EVIDENCE, PAGE, BOTH), rounds)):
            report_line(f"round {number + 1} of {rounds}")
            for name in names:
                take_turn(name)
                take_turn(PLAIN)
    return Beside(
        seconds=seconds,
        pictures=len(scene.expected.scores),
        defective=scene.expected.defective,
        good_every=GOOD_EVERY,
        viewers=VIEWERS,
        services=compared(turns),
    )


def compared(turns: Sequence[tuple[str, BesideTurn]]) -> list[BesideService]:
    """Sum up the turns of each service, and compare each turn with the plain ones around it.

    Args:
        turns: names of services and their turns; each second one is plain, also the first and the last.
    """
    of: dict[str, list[BesideTurn]] = {PLAIN: [turn for _, turn in turns[::2]]}
    for (_, before), (name, turn), (_, after) in zip(turns[::2], turns[1::2], turns[2::2], strict=False):
        ratio = turn.frames_per_s / fmean((before.frames_per_s, after.frames_per_s))
        of.setdefault(name, []).append(msgspec.structs.replace(turn, over_plain=ratio))
    return [_service(name, of[name]) for name in (PLAIN, EVIDENCE, PAGE, BOTH) if name in of]


def _service(name: str, turns: list[BesideTurn]) -> BesideService:
    ratios = [turn.over_plain for turn in turns if turn.over_plain is not None]
    return BesideService(
        name=name,
        frames_per_s=Spread.of([turn.frames_per_s for turn in turns]),
        over_plain=Spread.of(ratios) if ratios else None,
        cpu_ms_per_frame={
            process: Spread.of([turn.cpu_ms_per_frame[process] for turn in turns])
            for process in turns[0].cpu_ms_per_frame
        },
        frames=sum(turn.frames for turn in turns),
        stored=sum(turn.stored for turn in turns),
        skipped=sum(turn.skipped for turn in turns),
        shown=sum(sum(turn.shown) for turn in turns),
        turns=turns,
    )


@dataclass
class _Service:
    """A service that is stopped between its turns."""

    line: Line
    children: Mapping[str, str]
    stores: bool
    """Whether it stores pictures."""
    viewers: Viewers | None
    pause: ExitStack = field(default_factory=ExitStack)

    def stop(self) -> None:
        self.pause.enter_context(self.line.watched.paused())

    def take_turn(self, seconds: float) -> BesideTurn:
        self.pause.close()
        try:
            self.line.receive_until(time.monotonic_ns() + round(CONNECT_SECONDS * 1e9))
            evidence, shown = self.line.evidence, self._shown()
            turn = service_turn(self.line, seconds, self.children)
            return BesideTurn(
                frames=turn.frames,
                frames_per_s=turn.frames_per_s,
                over_plain=None,
                cpu_ms_per_frame=turn.cpu_ms,
                stored=self.line.evidence.kept - evidence.kept,
                skipped=self.line.evidence.skipped - evidence.skipped,
                shown=[after - before for before, after in zip(shown, self._shown(), strict=True)],
            )
        finally:
            self.stop()

    def await_work(self, cameras: int) -> None:
        """Wait until frames are inspected, a picture is stored, and every viewer has got one."""
        self.line.settle(cameras)
        if self.children:
            with self.line.watched.paused(children_run=True):
                time.sleep(START_SECONDS)
        give_up = time.monotonic() + FIRST_WITHIN_SECONDS
        while (self.stores and not self.line.evidence.kept) or not all(self._shown()):
            self.line.next()
            if time.monotonic() > give_up:
                raise BenchError(
                    f"no picture was stored or shown within {FIRST_WITHIN_SECONDS:.0f} s; "
                    f"{self.line.watched.process.log_tail()}"
                )

    def _shown(self) -> list[int]:
        return [] if self.viewers is None else self.viewers.pictures()


@contextmanager
def _started(scene: Scene, name: str) -> Iterator[_Service]:
    """Start a service and its viewers, and stop it as soon as it works."""
    address = free_address().removeprefix("tcp://")
    has = {PLAIN: [], BOTH: [EVIDENCE, PAGE]}.get(name, [name])
    with ExitStack() as stack:
        tables: dict[str, Keys] = {}
        if EVIDENCE in has:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="heatline-bench-")))
            tables["evidence"] = {"folder": str(folder / "evidence"), "good_every": GOOD_EVERY}
        if PAGE in has:
            tables["web"] = {"listen": address}
        line = stack.enter_context(running(scene, None, waits=True, tables=tables))
        viewers = stack.enter_context(in_own_process(Viewers, address, VIEWERS)) if PAGE in has else None
        service = _Service(line, {"monitor": MODULE} if has else {}, EVIDENCE in has, viewers)
        stack.callback(service.pause.close)
        service.await_work(scene.cameras)
        service.stop()
        yield service
