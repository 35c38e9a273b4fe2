"""The state of one camera, and the alarms that report its death and its recovery once each."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from heatline.edge.cameras.liveness import Fault
from heatline.edge.cameras.state import CameraAlarm, State
from heatline.edge.wire.events import CameraState

logger = logging.getLogger(__name__)

ENDED_BY_GOOD_FRAMES_ONLY = ("silent", "frozen", "clock", "stale", "frame_ids")
"""Faults of a camera that still answers requests: only good frames disprove them."""


class Health:
    """State of one camera. One thread changes it; any thread may read it.

    Args:
        on_alarm: called when the camera dies and when it recovers.
    """

    def __init__(self, camera: str, on_alarm: Callable[[CameraAlarm], None]) -> None:
        self.fault: Fault | None = None
        """What is wrong with the camera; None once it has shown that it is alive."""
        self._camera, self._on_alarm = camera, on_alarm
        self._alarm: CameraAlarm | None = None
        """The alarm that was reported and has not ended."""
        self._state: tuple[State, int] = ("OPENING", time.time_ns())

    @property
    def is_dead(self) -> bool:
        """Whether an alarm is active."""
        return self._alarm is not None

    @property
    def needs_good_frame(self) -> bool:
        """Whether only a good frame ends the fault, since the camera answers requests in spite of it."""
        return self.fault is not None and self.fault.reason in ENDED_BY_GOOD_FRAMES_ONLY

    def state(self, openings: int, counters: dict[str, int]) -> CameraState:
        """Return the current state."""
        (state, since_at_ns), fault = self._state, self.fault
        return CameraState(
            state=state,
            reason=fault.reason if fault else None,
            detail=fault.detail if fault else None,
            since_at_ns=since_at_ns,
            openings=openings,
            counters=counters,
        )

    def set_state(self, state: State) -> None:
        """Enter a state; the time of entry stays if the camera is in it already."""
        if state != self._state[0]:
            self._state = state, time.time_ns()

    def mark_dead(self, fault: Fault) -> None:
        """Record a fault, and report the camera's death unless an alarm is active."""
        self.fault = fault
        if self._alarm is None:
            logger.error("camera %s is dead (%s): %s", self._camera, fault.reason, fault.detail)
            self._alarm = CameraAlarm(self._camera, fault.reason, fault.detail, True, time.time_ns())
            self.set_state("DEAD")
            self._on_alarm(self._alarm)

    def mark_alive(self, state: State) -> None:
        """Clear the fault, and report the camera's recovery if an alarm is active."""
        alarm, self._alarm, self.fault = self._alarm, None, None
        self.set_state(state)
        if alarm is not None:
            logger.info("camera %s is back", self._camera)
            self._on_alarm(replace(alarm, active=False))
