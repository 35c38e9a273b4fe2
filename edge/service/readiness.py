"""Whether the line is ready for the next part, and if not, why. docs/protocol.md says how a PLC must react."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from heatline.edge.wire.events import CameraState, Handshake, HandshakeState, State, in_words

STALLED_AFTER_SECONDS = 5.0
"""The line is stalled if the last stage had no output for so long."""


class Heartbeat:
    """Counts frames and probes that passed all stages, from the hand-off to the publisher. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._last_ns = 0, time.monotonic_ns()

    def begin(self) -> None:
        """Expect output from now on."""
        with self._lock:
            self._last_ns = time.monotonic_ns()

    def beat(self) -> None:
        """Count one output."""
        with self._lock:
            self._count += 1
            self._last_ns = time.monotonic_ns()

    @property
    def count(self) -> int:
        return self._count

    def quiet_for_s(self) -> float:
        """Return the seconds since the last beat, or since `begin` before the first beat."""
        with self._lock:
            return (time.monotonic_ns() - self._last_ns) / 1e9


@dataclass(frozen=True)
class Reason:
    """Why a line is not READY."""

    state: HandshakeState
    code: str
    """As in the handshake's `reason`."""
    sentence: str


@dataclass(frozen=True)
class Condition:
    """Everything that decides a line's readiness."""

    state: State
    cameras: Mapping[str, CameraState]
    quiet_for_s: float
    """Seconds since the last output of the last stage."""
    has_output: bool = True
    """Whether anything has passed all stages yet."""
    waits_for_s: float | None = None
    """How long the line waits for a first subscriber; None: it does not wait."""
    stopping: bool = False
    """Whether the line takes no more new frames."""
    changing: str | None = None
    """A description of what is being prepared."""
    losses: Sequence[str] = ()
    """One sentence per camera whose frames are not inspected."""
    fell_back: str | None = None
    """The precision in use, if it is not the requested one."""
    not_journalled: str | None = None
    """Why events are not stored."""
    in_flight_not_logged: str | None = None
    """Why the frames in flight are unknown after a crash."""
    product_not_stored: str | None = None
    """Why a restart may activate another product."""
    evidence_not_stored: str | None = None
    """Why no pictures are stored although they should be."""

    def reasons(self) -> list[Reason]:
        """Return all reasons why the line is not READY, the most severe first."""
        return [*self._not_ready(), *self._busy(), *self._degraded()]

    def _not_ready(self) -> Iterator[Reason]:
        if self.state == "STARTING" or (self.state == "RUNNING" and not self.has_output):
            waiting = ""
            if self.waits_for_s is not None:
                waiting = f", and waits up to {self.waits_for_s:g} s for a subscriber (events.wait_for_subscriber_s)"
            yield Reason("NOT_READY", "starting", f"the line is starting{waiting}")
        if self.state == "STOPPED" or self.stopping:
            stopping = "the line has stopped" if self.state == "STOPPED" else "the line is stopping"
            yield Reason("NOT_READY", "stopping", stopping)
        if self.quiet_for_s > STALLED_AFTER_SECONDS:
            stalled = f"the inspection had no output for {int(self.quiet_for_s)} s"
            yield Reason("NOT_READY", "stalled", stalled)
        opening = self._opening()
        usable = [
            name
            for name, camera in self.cameras.items()
            if camera.state not in ("DEAD", "ENDED") and name not in opening
        ]
        if not usable and any(camera.state != "ENDED" for camera in self.cameras.values()):
            yield Reason("NOT_READY", "no_camera", "no camera is available")

    def _busy(self) -> Iterator[Reason]:
        if self.changing is not None:
            yield Reason("BUSY", "changing", f"{self.changing} is being prepared")

    def _degraded(self) -> Iterator[Reason]:
        dead = [
            f"camera {name} is dead: {in_words(f'failed.{camera.reason}')}"
            for name, camera in self.cameras.items()
            if camera.reason is not None
        ]
        for sentence in dead + [f"camera {name} is being opened" for name in self._opening()]:
            yield Reason("DEGRADED", "camera_dead", sentence)
        for sentence in self.losses:
            yield Reason("DEGRADED", "frames_lost", sentence)
        if self.fell_back is not None:
            yield Reason("DEGRADED", "precision", f"the line computes in {self.fell_back}")
        if self.not_journalled is not None:
            yield Reason("DEGRADED", "unjournalled", self.not_journalled)
        if self.in_flight_not_logged is not None:
            yield Reason("DEGRADED", "in_flight_not_logged", self.in_flight_not_logged)
        if self.product_not_stored is not None:
            yield Reason("DEGRADED", "product_not_stored", self.product_not_stored)
        if self.evidence_not_stored is not None:
            yield Reason("DEGRADED", "evidence_not_stored", self.evidence_not_stored)

    def _opening(self) -> list[str]:
        """Return the cameras that are being opened. During a change this is expected, so there are none then."""
        return [name for name, camera in self.cameras.items() if camera.state == "OPENING" and self.changing is None]


def make_handshake(reasons: Sequence[Reason], heartbeat: int) -> Handshake:
    """Return the handshake for these reasons. The first, most severe one decides its state."""
    if not reasons:
        return Handshake(state="READY", heartbeat=heartbeat)
    return Handshake(
        state=reasons[0].state,
        reason=reasons[0].code,
        detail=describe_reasons(reasons),
        heartbeat=heartbeat,
    )


def describe_reasons(reasons: Sequence[Reason]) -> str:
    """Join the reasons' sentences."""
    return ", ".join(reason.sentence for reason in reasons)
