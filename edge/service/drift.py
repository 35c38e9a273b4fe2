"""Watches the drift of a running line: measures some of its frames, and reports what begins or ceases to drift."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from heatline.edge.colour import to_rgb
from heatline.edge.drift import CameraReference, DriftMonitor, DriftSetup, describe_drift
from heatline.edge.inspection.inspector import Outcome, Setup
from heatline.edge.wire.events import DriftReading

logger = logging.getLogger(__name__)

RESTARTED = "it is compared with the calibration of the setup that is active now"
Emit = Callable[[str, str, DriftReading, str, Setup], None]


@dataclass
class _Watch:
    """A camera that is watched by one setup."""

    reference: CameraReference
    monitor: DriftMonitor
    next_at_s: float = float("-inf")


class LineDrift:
    """Watches all cameras of a line. One thread calls `add`; any thread may call `state`.

    Args:
        emit: called with camera, measure, reading, a sentence and the setup if a measure begins or ceases to drift.
        clock: monotonic, s.
    """

    def __init__(self, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._watches: dict[str, _Watch | None] = {}
        self._drifts: dict[str, DriftSetup] = {}

    def add(self, outcome: Outcome) -> None:
        """Measure a judged frame if one is due. Its pixels must be there still.

        A frame without a verdict does not count: it does not show the product, or its pixels are missing.
        """
        setup, frame, judgement = outcome.setup, outcome.frame, outcome.judgement
        if setup is None or frame is None or judgement is None:
            return
        camera = outcome.stamp.camera
        if self._drifts.get(camera) is not setup.drift:
            self._begin(camera, setup)
        watch, now_s = self._watches.get(camera), self._clock()
        if watch is None or now_s < watch.next_at_s:
            return
        watch.next_at_s = now_s + setup.drift.every_s
        try:
            good = (judgement.score, judgement.heatmap) if judgement.verdict == "GOOD" else None
            values = watch.reference.values(to_rgb(frame.image, frame.pixel_format), judgement.pose, good)
        except Exception:  # a warning must never end inspection
            logger.exception("camera %s: its drift is not watched any more, as a frame could not be measured", camera)
            self._watches = {**self._watches, camera: None}
            return
        for measure, reading in watch.monitor.add(values):
            self._report(camera, measure, reading, describe_drift(measure, reading), setup)

    def state(self) -> dict[str, dict[str, DriftReading]]:
        """Return the present readings by camera and measure; a camera that is not watched is missing."""
        return {camera: dict(watch.monitor.readings) for camera, watch in self._watches.items() if watch is not None}

    def _begin(self, camera: str, setup: Setup) -> None:
        """Compare a camera's frames with another setup's reference from now on."""
        before, self._drifts[camera] = self._watches.get(camera), setup.drift
        if before is not None:
            for measure, reading in before.monitor.readings.items():
                if reading.drifted:
                    over = msgspec.structs.replace(reading, drifted=False)
                    self._report(camera, measure, over, RESTARTED, setup)
        reference = setup.drift.cameras.get(camera)
        watch = None if reference is None else _Watch(reference, DriftMonitor(reference.expected(), setup.drift.window))
        self._watches = {**self._watches, camera: watch}

    def _report(self, camera: str, measure: str, reading: DriftReading, detail: str, setup: Setup) -> None:
        logger.log(logging.WARNING if reading.drifted else logging.INFO, "camera %s: %s: %s", camera, measure, detail)
        self._emit(camera, measure, reading, detail, setup)
