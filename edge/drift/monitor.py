"""Compares the last frames of one camera with the reference of its bundle."""

from collections import deque
from collections.abc import Iterator, Mapping
from statistics import median

from heatline.edge.bundle.manifest import Measure
from heatline.edge.drift.reference import ExpectedRange
from heatline.edge.wire.events import DriftReading


class DriftMonitor:
    """Watches the measures of one camera's frames.

    A measure has drifted once the median of its last values lies outside the expected range: more than half of the
    frames lie there, so single frames do not count. It is judged from half a window of values on.

    Args:
        expected: by measure; other measures are not watched.
        window: how many of the last values count.
    """

    def __init__(self, expected: Mapping[Measure, ExpectedRange], window: int) -> None:
        self._expected, self._window = expected, window
        self._values: dict[Measure, deque[float]] = {measure: deque(maxlen=window) for measure in expected}
        self.readings: dict[str, DriftReading] = {}
        """The present readings, of the measures that are judged."""

    def add(self, values: Mapping[Measure, float]) -> Iterator[tuple[Measure, DriftReading]]:
        """Add the values of a frame, and yield each measure that begins or ceases to drift.

        Args:
            values: without the measures that the frame does not give.
        """
        for measure in values.keys() & self._expected.keys():
            kept, expected = self._values[measure], self._expected[measure]
            kept.append(values[measure])
            if len(kept) * 2 < self._window:
                continue
            before = self.readings.get(measure)
            was_drifted = before is not None and before.drifted
            value = median(kept)
            reading = DriftReading(
                value=value,
                calibrated=expected.median,
                low=expected.low,
                high=expected.high,
                frames=len(kept),
                drifted=expected.excludes(value, already=was_drifted),
            )
            self.readings = {**self.readings, measure: reading}  # other threads may read the old one
            if reading.drifted != was_drifted:
                yield measure, reading
