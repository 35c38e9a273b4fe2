"""The plan of faults, drawn from a seed so that a run can be repeated."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar, get_args

import msgspec

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
