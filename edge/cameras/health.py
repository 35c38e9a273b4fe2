"""What is told of a camera: how it is, and its death and its return, once each."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from edge.cameras.liveness import Fault
from edge.cameras.state import CameraAlarm, CameraState, State

logger = logging.getLogger(__name__)

ONLY_FRAMES_DISPROVE = ("silent", "frozen", "clock", "stale", "frame_ids")
"""Faults of a camera that answers all the while."""


class Health:
    """How one camera is. One thread changes it, any looks.

    Args:
        tell: hears of its death and its return.
    """

    def __init__(self, camera: str, tell: Callable[[CameraAlarm], None]) -> None:
        self.fault: Fault | None = None
        """What is wrong with it; None once it has shown that it is alive."""
        self._camera, self._tell = camera, tell
        self._alarm: CameraAlarm | None = None
        """Told and not over."""
        self._state: tuple[State, int] = ("OPENING", time.time_ns())

    @property
    def is_dead(self) -> bool:
        """Whether its death was told, and its return was not."""
        return self._alarm is not None

    @property
    def only_frames_disprove_it(self) -> bool:
        """Whether the camera is dead of something that it answers in spite of."""
        return self.fault is not None and self.fault.reason in ONLY_FRAMES_DISPROVE

    def state(self, openings: int, counters: dict[str, int]) -> CameraState:
        """How it is now."""
        (state, since_at_ns), fault = self._state, self.fault
        return CameraState(
            state=state,
            reason=fault.reason if fault else None,
            detail=fault.detail if fault else None,
            since_at_ns=since_at_ns,
            openings=openings,
            counters=counters,
        )

    def set(self, state: State) -> None:
        """It is in this state from now on, if it is not yet."""
        if state != self._state[0]:
            self._state = state, time.time_ns()

    def die(self, fault: Fault) -> None:
        """The camera is dead, of this."""
        self.fault = fault
        if self._alarm is None:
            logger.error("camera %s is dead (%s): %s", self._camera, fault.reason, fault.detail)
            self._alarm = CameraAlarm(self._camera, fault.reason, fault.detail, True, time.time_ns())
            self.set("DEAD")
            self._tell(self._alarm)

    def live(self, state: State) -> None:
        """The camera has shown that it is alive."""
        alarm, self._alarm, self.fault = self._alarm, None, None
        self.set(state)
        if alarm is not None:
            logger.info("camera %s is back", self._camera)
            self._tell(replace(alarm, active=False))
