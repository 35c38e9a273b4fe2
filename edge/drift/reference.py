"""Derives from calibration frames what drift is measured against, and the values to expect of the line's frames."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heatline.edge.bundle.manifest import QUANTILES, Measure, Reference
from heatline.edge.bundle.reference_picture import LONGEST_PX, ReferencePicture, Shift, measure_shift
from heatline.edge.drift.sample import PictureSample
from heatline.edge.reference.alignment import Pose
from heatline.edge.util.evenly import evenly

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
LOWEST_MATCH = 0.2
"""With a lower peak of the correlation, a shift means nothing: pictures without a common content have up to 0.15."""
REGISTERED_SHARE = 0.9
"""The share of the calibration frames that must match the mean of the others."""
TOLERATED_PX = 1.0
"""Tolerated shift, px of the reduced picture: 0.4 % of the frame's longer side."""
RELATIVE_SLACK: dict[Measure, float] = {"brightness": 0.03, "sharpness": 0.05}
"""Tolerated difference as a share of the median: frames of one still part are all alike."""
ABSOLUTE_SLACK: dict[Measure, float] = {"saturation": 0.02, "turn": 0.1, "match": 0.05, "score": 0.25, "evidence": 0.25}
"""The same in the measure's own unit."""


OF_POSE: tuple[Measure, ...] = "shift_x", "shift_y", "turn", "match"
"""What the pose of a frame that is compared with a reference tells."""


def pose_values(pose: Pose) -> dict[Measure, float]:
    """Return the measures `OF_POSE`."""
    return dict(zip(OF_POSE, (pose.x_px, pose.y_px, pose.degrees, pose.confidence), strict=True))


class ExpectedRange(NamedTuple):
    """The values of a measure that the median of the line's frames may have."""

    low: float
    median: float
    high: float | None
    """None: no limit."""

    def excludes(self, value: float, *, already: bool) -> bool:
        """Return whether a value lies outside.

        Args:
            already: whether the value before lay outside.
        """
        narrower = RETURN if already else 0.0
        if value < self.low + narrower * (self.median - self.low):
            return True
        return self.high is not None and value > self.high - narrower * (self.high - self.median)


def fit_reference(
    samples: Sequence[PictureSample], scores: Sequence[float], evidence: Sequence[float], why_unscored: str = ""
) -> tuple[Reference | None, ReferencePicture | None]:
    """Derive the reference from frames; None: there are fewer than 10.

    Args:
        samples: of frames that show the product.
        scores: of good frames that did not train the model, logits.
        evidence: the median of each such frame's heatmap, logits.
        why_unscored: why there are no scores, if there are none.
    Returns: the reference for the manifest, and the picture to measure a shift against.
    """
    if len(samples) < FEWEST_FRAMES:
        return None, None
    values: dict[Measure, Sequence[float]] = {
        "brightness": [each.brightness for each in samples],
        "sharpness": [each.sharpness for each in samples],
    }
    unwatched: dict[Measure, str] = {}
    saturations = [each.saturation for each in samples]
    if max(saturations) > 0:
        values["saturation"] = saturations
    else:
        unwatched["saturation"] = "the pictures are grey"
    poses = [pose_values(each.pose) for each in samples if each.pose is not None]
    picture, shifts, reason = (None, [], "") if poses else _fit_picture(samples)
    if poses:
        values |= {measure: [each[measure] for each in poses] for measure in OF_POSE}
    elif picture is not None:
        found = [each for each in shifts if each.match >= LOWEST_MATCH]
        values["shift_x"], values["shift_y"] = [each.x_px for each in found], [each.y_px for each in found]
        values["match"] = [each.match for each in shifts]
    else:
        unwatched |= dict.fromkeys(("shift_x", "shift_y", "match"), reason)
    if len(scores) >= FEWEST_SCORES:
        values["score"], values["evidence"] = scores, evidence
    else:
        few = f"this needs {FEWEST_SCORES} good frames, and {len(scores)} came"
        unwatched |= dict.fromkeys(("score", "evidence"), why_unscored or few)
    reference = Reference(
        frames=len(samples),
        measures={name: [float(each) for each in np.quantile(of, QUANTILES)] for name, of in values.items()},
        unwatched=unwatched,
        frame_hw=samples[0].frame_hw if poses else None if picture is None else picture.frame_hw,
        picture_hw=None if picture is None else (picture.grey.shape[0], picture.grey.shape[1]),
    )
    return reference, picture


def expected_range(reference: Reference, measure: Measure) -> ExpectedRange:
    """Return the values to expect of a measure that the reference has."""
    _, low, median, high, _ = reference.measures[measure]
    slack = RELATIVE_SLACK.get(measure, 0.0) * abs(median) + ABSOLUTE_SLACK.get(measure, 0.0)
    if measure in ("shift_x", "shift_y") and reference.frame_hw is not None:
        slack = TOLERATED_PX * max(reference.frame_hw) / max(reference.picture_hw or [LONGEST_PX])
    below = low - MARGIN * (median - low)
    above = high + MARGIN * (high - median)
    return ExpectedRange(min(below, median - slack), median, None if measure == "match" else max(above, median + slack))


def choose_evenly(count: int) -> set[int]:
    """Return the indices of the frames that are measured, of this many."""
    return set(evenly(count, MOST_FRAMES))


def _fit_picture(samples: Sequence[PictureSample]) -> tuple[ReferencePicture | None, list[Shift], str]:
    """Return the mean picture and the shift of each frame against the mean of the others; None and a reason if the
    frames do not show the same in the same place.
    """
    if len({each.frame_hw for each in samples}) > 1:
        return None, [], "the frames differ in size"
    total = np.sum([each.reduced for each in samples], axis=0, dtype=np.float64)
    # Without the frame itself, which would always match its share of the mean.
    shifts = [
        measure_shift((total - each.reduced) / (len(samples) - 1), each.reduced, each.frame_hw) for each in samples
    ]
    matching = sum(each.match >= LOWEST_MATCH for each in shifts)
    if matching < REGISTERED_SHARE * len(samples):
        return None, [], f"only {matching} of {len(samples)} frames show what the others show in the same place"
    mean = np.rint(total / len(samples)).astype(np.uint8)
    return ReferencePicture(mean, samples[0].frame_hw), shifts, ""
