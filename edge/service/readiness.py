"""Whether the next part may come, and why not: the handshake. docs/protocol.md says what a PLC makes of it."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge.cameras.state import CameraState
from edge.wire.events import Handshake, HandshakeState, State

STALLED_AFTER_SECONDS = 5.0
"""Nothing came out of the last stage for so long."""


class Heartbeat:
    """Counts what went the whole way, from the hand-off to the publisher. Any thread beats and looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._last_ns = 0, time.monotonic_ns()

    def begin(self) -> None:
        """From now on something should come out."""
        with self._lock:
            self._last_ns = time.monotonic_ns()

    def beat(self) -> None:
        """Something came out."""
        with self._lock:
            self._count += 1
            self._last_ns = time.monotonic_ns()

    @property
    def count(self) -> int:
        return self._count

    def quiet_for_s(self) -> float:
        """For how long nothing came out; before the first beat, since it began."""
        with self._lock:
            return (time.monotonic_ns() - self._last_ns) / 1e9


@dataclass(frozen=True)
class Reason:
    """Why a line is not READY."""

    state: HandshakeState
    word: str
    sentence: str


@dataclass(frozen=True)
class Condition:
    """All that a line's readiness follows from."""

    state: State
    cameras: Mapping[str, CameraState]
    quiet_for_s: float
    """Since when nothing came out of the last stage."""
    seen_through: bool = True
    """Whether anything has come out of it yet."""
    stopping: bool = False
    """Whether it takes no new frames any more."""
    changing: str | None = None
    """What is being made ready."""
    losses: Sequence[str] = ()
    """Whose frames are not inspected, a sentence each."""
    fell_back: str | None = None
    """In which precision it computes, where not in the one that was asked for."""
    unjournalled: str | None = None
    """Why events are not kept."""
    unrecorded: str | None = None
    """Why nobody would know after a crash what was in flight."""
    unremembered: str | None = None
    """Why the product in force would not be in force after a restart."""

    def reasons(self) -> list[Reason]:
        """All that keeps the line from being READY, the gravest first."""
        return [*self._not_ready(), *self._busy(), *self._degraded()]

    def _not_ready(self) -> Iterator[Reason]:
        if self.state == "STARTING" or (self.state == "RUNNING" and not self.seen_through):
            yield Reason("NOT_READY", "starting", "it is starting")
        if self.state == "STOPPED" or self.stopping:
            yield Reason("NOT_READY", "stopping", "it has stopped" if self.state == "STOPPED" else "it is stopping")
        if self.quiet_for_s > STALLED_AFTER_SECONDS:
            quiet = f"nothing came out of the inspection for {int(self.quiet_for_s)} s"
            yield Reason("NOT_READY", "stalled", quiet)
        opening = self._opening()
        there = [
            name for name, how in self.cameras.items() if how.state not in ("DEAD", "ENDED") and name not in opening
        ]
        if not there and any(how.state != "ENDED" for how in self.cameras.values()):
            yield Reason("NOT_READY", "no_camera", "no camera is there")

    def _busy(self) -> Iterator[Reason]:
        if self.changing is not None:
            yield Reason("BUSY", "changing", f"{self.changing} is being made ready")

    def _degraded(self) -> Iterator[Reason]:
        dead = [f"camera {name} is dead ({how.reason})" for name, how in self.cameras.items() if how.reason is not None]
        for sentence in dead + [f"camera {name} is being opened" for name in self._opening()]:
            yield Reason("DEGRADED", "camera_dead", sentence)
        for sentence in self.losses:
            yield Reason("DEGRADED", "frames_lost", sentence)
        if self.fell_back is not None:
            yield Reason("DEGRADED", "precision", f"in {self.fell_back}")
        if self.unjournalled is not None:
            yield Reason("DEGRADED", "unjournalled", self.unjournalled)
        if self.unrecorded is not None:
            yield Reason("DEGRADED", "in_flight_not_logged", self.unrecorded)
        if self.unremembered is not None:
            yield Reason("DEGRADED", "product_not_stored", self.unremembered)

    def _opening(self) -> list[str]:
        """Cameras that are being opened. While a change is made ready, that is no fault of theirs."""
        return [name for name, how in self.cameras.items() if how.state == "OPENING" and self.changing is None]


def handshake(found: Sequence[Reason], heartbeat: int) -> Handshake:
    """What all of this comes to."""
    if not found:
        return Handshake(state="READY", heartbeat=heartbeat)
    return Handshake(
        state=found[0].state,
        reason=found[0].word,
        detail=in_words(found),
        heartbeat=heartbeat,
    )


def in_words(found: Sequence[Reason]) -> str:
    """All sentences as one."""
    return ", ".join(reason.sentence for reason in found)
