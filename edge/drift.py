"""Drift: what the frames of a line are compared with after calibration, how, and what a difference usually means.

Calibration measures good frames and keeps the range of each measure. A line measures some of its frames and compares
the median of the last ones with that range.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.bundle.appearance import ImageStatistics
from heatline.edge.bundle.manifest import QUANTILES, Measure, Reference
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.geometry.scale import Scale
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.reference import Reference as ProductReference
from heatline.edge.wire.events import DriftReading

FEWEST_FRAMES = 10
"""With fewer frames, their range says little."""
FEWEST_SCORES = 30
"""With fewer good frames, scores and evidence are not watched: 5 % of them are about one frame, and a single unusual
score would set a bound."""
MOST_FRAMES = 200
"""How many evenly spread frames are measured."""
MARGIN = 0.25
"""How far the expected range exceeds the quantiles of 5 % and 95 %, as a share of their distance from the median."""
RETURN = 0.2
"""A measure that has drifted must come back this much further, as a share of the distance from the bound to the median:
otherwise a warning would begin and end all the time."""
TOLERATED_SHIFT = 1 / 256
"""Tolerated shift, as a share of the frame's longer side."""
THINNED_PX = 768
"""Least longest side of a large frame when its pixels are averaged. To average all pixels of a frame of 20 MP takes
0.1 s, for which the verdict of the next frame would wait."""
NO_REFERENCE = "the bundle compares frames with no reference"
RELATIVE_SLACK: dict[Measure, float] = {"brightness": 0.03, "sharpness": 0.05}
"""Tolerated difference as a share of the median: frames of one still part are all alike."""
ABSOLUTE_SLACK: dict[Measure, float] = {
    "saturation": 0.02,
    "turn": 0.1,
    "scale": 0.1,
    "match": 0.05,
    "score": 0.25,
    "evidence": 0.25,
    "cleared": 0.02,
}
"""The same in the measure's own unit."""
OF_POSE: tuple[Measure, ...] = "shift_x", "shift_y", "turn", "scale", "match"
"""What the pose of a frame that is compared with a reference tells."""
OF_EVIDENCE: tuple[Measure, ...] = "score", "evidence", "cleared"
"""Of frames judged GOOD: the calibration frames are good, and a run of defective parts is not drift."""
WHAT: Mapping[str, tuple[str, str]] = {
    "brightness": ("the pictures are darker", "the pictures are brighter"),
    "sharpness": ("the pictures are less sharp", "the pictures have more fine detail or noise"),
    "saturation": ("the colours are paler", "the colours are stronger"),
    "shift_x": ("the part lies further left", "the part lies further right"),
    "shift_y": ("the part lies further up", "the part lies further down"),
    "turn": ("the part is turned further counterclockwise", "the part is turned further clockwise"),
    "scale": ("the part is shown smaller", "the part is shown larger"),
    "match": ("the pictures match the reference picture less", "the pictures match the reference picture better"),
    "score": ("good frames score lower", "good frames score higher"),
    "evidence": ("good frames have less evidence", "good frames have more evidence"),
    "cleared": ("the screening stage clears fewer tiles", "the screening stage clears more tiles"),
}
CHECK: dict[Measure, str] = {
    "brightness": "check lamps, exposure time, aperture and dirt on lamp or lens",
    "sharpness": "check focus, distance, vibration, dirt on the lens and the camera's gain",
    "saturation": "check lamps, stray light and white balance, and whether the material is another",
    **dict.fromkeys(OF_POSE, "check the camera's mount, the fixture and the trigger"),
    "scale": "check the camera's distance, zoom and focus",
    "match": "check whether camera or part is turned or moved far, and whether the product is another",
    **dict.fromkeys(OF_EVIDENCE, "check light, focus and position, and whether the material is another"),
}
UNITS: dict[Measure, str] = {
    "shift_x": " px",
    "shift_y": " px",
    "turn": " degrees",
    "scale": " %",
    "score": " logits",
    "evidence": " logits",
}


def measure_picture(rgb: NDArray[np.uint8], pose: Pose | None = None) -> dict[Measure, float]:
    """Measure an RGB uint8 frame [H, W, 3], and its pose if it is compared with a reference; `scale` only if known."""
    grey = ImageStatistics.of(rgb)
    values: dict[Measure, float] = {
        "brightness": grey.brightness,
        "sharpness": grey.sharpness,
        "saturation": saturation_of(rgb),
    }
    if pose is not None:
        larger = 100 * (pose.magnification - 1)
        values |= zip(OF_POSE, (pose.x_px, pose.y_px, pose.degrees, larger, pose.confidence), strict=True)
        if pose.magnification == 1:  # not known
            del values["scale"]
    return values


def saturation_of(rgb: NDArray[np.uint8]) -> float:
    """Return the saturation of an RGB uint8 frame [H, W, 3]: the sum of each pixel's highest value minus its lowest, as
    a share of the sum of the highest. 0: grey, 1: pure colours; it does not depend on the brightness.
    """
    height, width = rgb.shape[:2]
    step = max(1, max(height, width) // THINNED_PX)  # each n-th pixel of each n-th row of a large frame
    thinned = cv2.resize(rgb, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(thinned, (min(64, width), min(64, height)), interpolation=cv2.INTER_AREA)
    highest, lowest = small.max(axis=2).astype(np.int64), small.min(axis=2)
    total = int(highest.sum())
    return float((highest - lowest).sum()) / total if total else 0.0


class ExpectedRange(NamedTuple):
    """The values of a measure that the median of the line's frames may have; without `high`, there is no limit."""

    low: float
    median: float
    high: float | None


def fit_reference(
    samples: Sequence[Mapping[Measure, float]],
    frame_hw: tuple[int, int] | None,
    scores: Sequence[float],
    evidence: Sequence[float],
    why_unscored: str = "",
    cleared: Sequence[float] = (),
) -> Reference | None:
    """Derive the reference from frames that show the product; None: there are fewer than 10.

    Args:
        samples: what `measure_picture` measured of each frame.
        frame_hw: size of the frames, px, if they are compared with a reference.
        scores: of good frames that did not train the model, logits; `why_unscored`: why there are none.
        evidence: the median of each such frame's heatmap, logits.
        cleared: the share of each such frame's tiles that the screening stage clears; empty: there is none.
    """
    if len(samples) < FEWEST_FRAMES:
        return None
    measures: tuple[Measure, ...] = "brightness", "sharpness", "saturation", *OF_POSE
    values: dict[Measure, Sequence[float]] = {
        measure: [each[measure] for each in samples if measure in each] for measure in measures
    }
    has_poses = bool(values["turn"])
    unwatched: dict[Measure, str] = {} if has_poses else dict.fromkeys(OF_POSE, NO_REFERENCE)
    if has_poses and len(values["scale"]) < FEWEST_FRAMES:
        unwatched["scale"] = f"the part's size is sure in {len(values['scale'])} frames, and {FEWEST_FRAMES} are needed"
    if not any(values["saturation"]):
        unwatched["saturation"] = "the pictures are grey"
    values |= {"score": scores, "evidence": evidence}
    if len(scores) < FEWEST_SCORES:
        few = f"this needs {FEWEST_SCORES} good frames, and {len(scores)} came"
        unwatched |= dict.fromkeys(("score", "evidence"), why_unscored or few)
    if len(cleared) >= FEWEST_SCORES:
        values["cleared"] = cleared
    elif cleared:
        unwatched["cleared"] = "too few good frames were held out"
    return Reference(
        frames=len(samples),
        measures={
            name: [float(each) for each in np.quantile(of, QUANTILES)]
            for name, of in values.items()
            if name not in unwatched
        },
        unwatched=unwatched,
        frame_hw=frame_hw if has_poses else None,
    )


def expected_range(reference: Reference, measure: Measure) -> ExpectedRange:
    """Return the values to expect of a measure that the reference has."""
    _, low, median, high, _ = reference.measures[measure]
    slack = RELATIVE_SLACK.get(measure, 0.0) * abs(median) + ABSOLUTE_SLACK.get(measure, 0.0)
    if measure in ("shift_x", "shift_y") and reference.frame_hw is not None:
        slack = TOLERATED_SHIFT * max(reference.frame_hw)
    below = low - MARGIN * (median - low)
    above = high + MARGIN * (high - median)
    return ExpectedRange(min(below, median - slack), median, None if measure == "match" else max(above, median + slack))


@dataclass(frozen=True, eq=False)
class CameraReference:
    """The reference of one camera.

    Args:
        reference: of the bundle.
        area: the region whose bounding box is measured.
        scored: whether scores and evidence of the camera's frames come from the same region as the reference's.
        farthest: the largest values of a pose that alignment finds. Where they are given, the pose tells the shift: a
            warning comes at half of them in any case, before frames are misaligned.
    """

    reference: Reference
    area: RegionOfInterest = WHOLE_FRAME
    scored: bool = True
    farthest: Mapping[Measure, float] = field(default_factory=dict)

    def expected(self) -> dict[Measure, ExpectedRange]:
        """Return the values to expect, of the measures that are watched."""
        measures = self.reference.measures
        found = {
            each: expected_range(self.reference, each) for each in measures if self.scored or each not in OF_EVIDENCE
        }
        for each, farthest in self.farthest.items():
            half, known = farthest / 2, found.get(each)
            if known is None or known.high is None or abs(known.median) > half:
                found[each] = ExpectedRange(-half, 0.0, half)
            else:
                found[each] = ExpectedRange(max(known.low, -half), known.median, min(known.high, half))
        return found

    def values(
        self, rgb: NDArray[np.uint8], pose: Pose | None = None, good: Mapping[Measure, float] = MappingProxyType({})
    ) -> dict[Measure, float]:
        """Measure an RGB uint8 frame [H, W, 3], with its pose if it has one, and what is measured of a GOOD frame."""
        seen = np.ascontiguousarray(rgb[self.area.box((rgb.shape[0], rgb.shape[1]))])
        return {**measure_picture(seen, pose), **good}


@dataclass(frozen=True)
class DriftSetup:
    """What a line's frames are compared with, and how often."""

    cameras: Mapping[str, CameraReference] = field(default_factory=dict)
    """By name; others are not watched."""
    window: int = 30
    """How many of the last measured frames count."""
    every_s: float = 1.0
    """At most one frame of a camera is measured in this time."""


def references_of(
    bundle: Bundle, areas: Mapping[str, RegionOfInterest], products: Mapping[str, ProductReference] = {}
) -> dict[str, CameraReference]:
    """Return the references of cameras, by their present regions of interest and what their frames are aligned with, ""
    for all others. A camera that was calibrated separately, with the same region, has its own reference.
    """
    calibration = bundle.manifest.calibration
    found = {}
    for camera, area in areas.items():
        if (product := products.get(camera) or products.get("")) is not None:
            found[camera] = CameraReference(Reference(frames=1, measures={}), area, scored=False)
        own = calibration.plausible_by_camera.get(camera)
        if own is not None and RegionOfInterest.from_polygons(own.roi, own.exclude) == area:
            if own.reference is not None:
                found[camera] = CameraReference(own.reference, area)
        elif calibration.reference is not None:
            found[camera] = CameraReference(calibration.reference, scored=area == WHOLE_FRAME)
        if product is not None:
            px, degrees, larger = product.aligner.farthest
            farthest: dict[Measure, float] = {"shift_x": px, "shift_y": px, "turn": degrees, "scale": larger}
            found[camera] = replace(found[camera], farthest=farthest)
    return found


class DriftMonitor:
    """Watches the measures of one camera's frames.

    A measure has drifted once the median of its last values lies outside the expected range: more than half of the
    frames lie there, so single frames do not count. It is judged from half a window of values on.

    Only the measures of `expected` are watched.
    """

    def __init__(self, expected: Mapping[Measure, ExpectedRange], window: int) -> None:
        self._expected, self._window = expected, window
        self._values: dict[Measure, deque[float]] = {measure: deque(maxlen=window) for measure in expected}
        self.readings: dict[str, DriftReading] = {}
        """The present readings, of the measures that are judged."""

    def add(self, values: Mapping[Measure, float]) -> Iterator[tuple[Measure, DriftReading]]:
        """Add the values that a frame gives, and yield each measure that begins or ceases to drift."""
        for measure in values.keys() & self._expected.keys():
            kept, expected = self._values[measure], self._expected[measure]
            kept.append(values[measure])
            if len(kept) * 2 < self._window:
                continue
            before = self.readings.get(measure)
            was_drifted = before is not None and before.drifted
            value = median(kept)
            narrower = RETURN if was_drifted else 0.0
            low = expected.low + narrower * (expected.median - expected.low)
            high = math.inf if expected.high is None else expected.high - narrower * (expected.high - expected.median)
            reading = DriftReading(
                value=value,
                calibrated=expected.median,
                low=expected.low,
                high=expected.high,
                frames=len(kept),
                drifted=not low <= value <= high,
            )
            self.readings = {**self.readings, measure: reading}  # other threads may read the old one
            if reading.drifted != was_drifted:
                yield measure, reading


def describe_drift(measure: Measure, reading: DriftReading, scale: Scale | None = None) -> str:
    """Describe a drift, or its end, in a sentence; `scale`: of the camera, if it has one."""
    unit, limits = UNITS.get(measure, ""), describe_limits(reading.low, reading.high)
    found = (
        f"{measure} {reading.value:.3g}{unit}, expected {limits}{unit}, over the last {reading.frames} measured frames"
    )
    if not reading.drifted:
        return f"as at calibration again: {found}"
    what = describe_change(measure, reading.value, reading.low)
    in_mm = ""
    if scale is not None and measure == "scale":
        off = abs(reading.value - reading.calibrated)
        in_mm = (
            f"; if it came after {scale.measured_at}, when the camera's scale was measured, lengths in mm are off by "
            f"{off:.2g} %: measure it again, after any calibration"
        )
    return f"{what} than at calibration: {found}; {CHECK[measure]}; if the change is to stay, calibrate again{in_mm}"


def describe_change(measure: str, value: float, low: float) -> str:
    """Describe in words what a drifted value means, by the lowest value to expect."""
    lower, higher = WHAT.get(measure, (measure, measure))
    return lower if value < low else higher


def describe_limits(low: float, high: float | None) -> str:
    """Describe the values to expect.

    >>> describe_limits(0.812, None), describe_limits(110, 131.25)
    ('at least 0.812', '110 to 131')
    """
    return f"at least {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
