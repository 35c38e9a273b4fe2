"""What the frames of one camera are compared with, and the values of a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.bundle.manifest import Measure, Reference
from heatline.edge.bundle.reference_picture import ReferencePicture
from heatline.edge.drift.reference import LOWEST_MATCH, OF_POSE, ExpectedRange, expected_range, pose_values
from heatline.edge.drift.sample import PictureSample
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.reference.reference import Reference as ProductReference

OF_EVIDENCE: tuple[Measure, ...] = "score", "evidence"
"""Of frames judged GOOD: the calibration frames are good, and a run of defective parts is not drift."""


@dataclass(frozen=True, eq=False)
class CameraReference:
    """The reference of one camera.

    Args:
        reference: of the bundle.
        picture: to measure shifts against.
        area: the region whose bounding box is measured.
        scored: whether scores and evidence of the camera's frames come from the same region as the reference's.
        farthest: the largest values of a pose that alignment finds. Where they are given, the pose tells the shift: a
            warning comes at half of them in any case, before frames are misaligned.
    """

    reference: Reference
    picture: ReferencePicture | None
    area: RegionOfInterest = WHOLE_FRAME
    scored: bool = True
    farthest: Mapping[Measure, float] = field(default_factory=dict)

    def expected(self) -> dict[Measure, ExpectedRange]:
        """Return the values to expect, of the measures that are watched."""
        measures = self.reference.measures
        found = {
            each: expected_range(self.reference, each) for each in measures if self.scored or each not in OF_EVIDENCE
        }
        if self.farthest and "turn" not in measures:  # its shifts were measured against another picture
            found = {each: expected for each, expected in found.items() if each not in OF_POSE}
        for each, farthest in self.farthest.items():
            half, known = farthest / 2, found.get(each)
            if known is None or known.high is None or abs(known.median) > half:
                found[each] = ExpectedRange(-half, 0.0, half)
            else:
                found[each] = ExpectedRange(max(known.low, -half), known.median, min(known.high, half))
        return found

    def values(self, rgb: NDArray[np.uint8], judgement: Judgement) -> dict[Measure, float]:
        """Measure a frame, RGB uint8 [H, W, 3], with its judgement."""
        sample = PictureSample.of(np.ascontiguousarray(rgb[self.area.box((rgb.shape[0], rgb.shape[1]))]))
        values: dict[Measure, float] = {
            "brightness": sample.brightness,
            "sharpness": sample.sharpness,
            "saturation": sample.saturation,
        }
        shift = None if self.picture is None else self.picture.shift_of(sample.reduced, sample.frame_hw)
        if judgement.pose is not None:
            values |= pose_values(judgement.pose)
        elif shift is not None:
            values["match"] = shift.match
            if shift.match >= LOWEST_MATCH:
                values["shift_x"], values["shift_y"] = shift.x_px, shift.y_px
        if judgement.verdict == "GOOD":
            values["score"] = judgement.score
            values["evidence"] = float(np.nanmedian(judgement.heatmap))
        return values


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
    """Return the references of cameras.

    Args:
        areas: the present region of interest of each camera. A camera that was calibrated separately, with the same
            region, has its own reference.
        products: what frames are aligned with, by camera, "" for all others.
    Raises:
        BundleError: a reference picture does not fit the manifest.
    """
    calibration = bundle.manifest.calibration
    found = {}
    for camera, area in areas.items():
        if (product := products.get(camera) or products.get("")) is not None:
            found[camera] = CameraReference(Reference(frames=1, measures={}), None, area, scored=False)
        own = calibration.plausible_by_camera.get(camera)
        if own is not None and RegionOfInterest.from_polygons(own.roi, own.exclude) == area:
            if own.reference is not None:
                found[camera] = CameraReference(own.reference, bundle.reference_picture(camera), area)
        elif calibration.reference is not None:
            found[camera] = CameraReference(
                calibration.reference, bundle.reference_picture(), scored=area == WHOLE_FRAME
            )
        if product is not None:
            px, degrees = product.aligner.farthest
            found[camera] = replace(found[camera], farthest={"shift_x": px, "shift_y": px, "turn": degrees})
    return found
