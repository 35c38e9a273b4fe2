"""The verdict rule (docs/bundle.md): derives GOOD or DEFECT and the regions from logits and heatmap."""

import logging
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Calibration, Measure
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.geometry import Region, Stitcher, find_regions
from heatline.edge.heatmap_picture import CLEARED
from heatline.edge.reference.alignment import Pose
from heatline.edge.wire.events import ForeignArea, Screened, Verdict

_warn_once = cache(logging.getLogger(__name__).warning)


@dataclass(frozen=True)
class Thresholds:
    """All in logits."""

    score: float
    evidence: float
    strong: float | None
    """Evidence that makes a region in any tile of a DEFECT frame; None: only tiles that reach `score` have regions."""

    @classmethod
    def of(cls, calibration: Calibration, score: float | None = None, evidence: float | None = None) -> "Thresholds":
        """Return a bundle's thresholds, or those that replace them; `strong` is at least the score threshold."""
        score = calibration.score_threshold if score is None else score
        evidence = calibration.evidence_threshold if evidence is None else evidence
        strong = calibration.strong_evidence
        return cls(score, evidence, None if strong is None else max(score, strong))


@dataclass(frozen=True)
class TileScores:
    """The tiles of a frame that ran in full."""

    origins_yx: NDArray[np.int32]
    """[tiles, 2], top left corner of each, px of the frame."""
    logits: NDArray[np.float32]
    """[tiles]."""
    tile_px: int


@dataclass(frozen=True)
class Judgement:
    """The verdict on one frame, and what it is based on."""

    verdict: Verdict
    frame_hw: tuple[int, int]
    """Px."""
    score: float
    """The highest logit of the tiles that ran in full."""
    heatmap: NDArray[np.float32]
    """[H, W] cells, logits. NaN where no tile was inspected: the evidence there is unknown, not low; `CLEARED` where
    only the screening stage saw the tiles."""
    regions: list[Region]
    tiles: TileScores
    implausible: str | None = None
    """Why the frame does not show the product; the verdict must then not be used. None: the frame shows it, or the
    bundle does not say what the product looks like."""
    foreign: tuple[ForeignArea, ...] = ()
    """Areas that the product cannot show; a GOOD verdict must then not be used."""
    misaligned: str | None = None
    """Why the frame cannot be compared with its reference; the verdict must then not be used. None: it was compared,
    or there is no reference."""
    screened: Screened | None = None
    """What the screening stage did; None: all tiles ran in full."""
    pose: Pose | None = None
    """Where the frame shows what the reference shows; of a misaligned frame, the best pose that was found."""

    @property
    def measures(self) -> dict[Measure, float]:
        """What drift compares of a GOOD frame: score and evidence, if it ran whole; what the screening stage cleared,
        but for an audit."""
        measures: dict[Measure, float] = {}
        if self.screened is None or not self.screened.cleared:
            measures |= {"score": self.score, "evidence": float(np.nanmedian(self.heatmap))}
        if self.screened is not None and not self.screened.audited:
            measures["cleared"] = self.screened.cleared / self.screened.tiles
        return measures

    @property
    def reject_reason(self) -> str | None:
        """Why the verdict must not be used, as a sentence; None: it may be used."""
        if (unusable := self.implausible or self.misaligned) or not self.foreign or self.verdict == "DEFECT":
            return unusable
        return "; ".join(each.why for each in self.foreign)


def judge(
    logits: NDArray[np.float32],
    maps: NDArray[np.float32],
    stitcher: Stitcher,
    thresholds: Thresholds,
    cleared: NDArray[np.bool_] | None = None,
) -> Judgement:
    """Judge a frame: DEFECT if and only if the logit of an inspected tile reaches the score threshold.

    Args:
        logits: [len(stitcher.grid)].
        maps: [len(stitcher.grid), h, w].
        cleared: [len(stitcher.grid)], tiles without an answer; None: all have one.
    Raises:
        ValueError: the network's answer contains a number that is not finite, so there is no verdict.
    """
    ran = slice(None) if cleared is None else ~cleared
    if not (np.isfinite(logits[ran]).all() and np.isfinite(maps[ran]).all()):
        raise ValueError("the network answered with numbers that are not finite")
    heatmap = stitcher.stitch(maps, None if cleared is None else ~cleared)
    if cleared is not None:
        logits = np.where(cleared, np.float32(np.nan), logits)
        for tile in np.flatnonzero(cleared):
            cells = heatmap[stitcher.tile_cells(int(tile))]
            cells[np.isnan(cells)] = CLEARED
    # In float64, as both are published: in float32, a threshold could be rounded down to the logit it must lie above.
    defective = logits.astype(np.float64) >= thresholds.score
    regions = find_regions(heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    verdict: Verdict = "DEFECT" if defective.any() else "GOOD"
    tiles = TileScores(stitcher.grid.origins[ran], logits[ran], stitcher.grid.tile_px)
    return Judgement(verdict, stitcher.grid.frame_hw, float(tiles.logits.max()), heatmap, regions, tiles)


def measured(judgement: Judgement, camera: CameraSettings, evidence: float) -> Judgement:
    """Return a judgement with its regions in mm, if the camera has a scale; GOOD if all of them are tolerated.

    Args:
        evidence: the evidence threshold, logits. A region below it is the peak of a tile without one: its size is not
            known.
    """
    if (scale := camera.scale) is None:
        return judgement
    if judgement.frame_hw != scale.size[::-1]:
        _warn_once(
            "camera %s: frames of %dx%d px get no mm, and no region is tolerated, as the scale was measured at %dx%d "
            "px; measure it again with heatline calibrate scale",
            *(camera.name, *judgement.frame_hw[::-1], *scale.size),
        )
        return judgement
    regions = []
    for region in judgement.regions:
        if region.score < evidence:
            regions.append(region)
            continue
        mm, limit = scale.measure(region), (camera.zone_at(region.peak_xy) or camera).ignore_below_mm or 0.0
        regions.append(msgspec.structs.replace(region, mm=mm, tolerated=mm.extent + mm.error < limit))
    is_tolerated = regions and all(region.tolerated for region in regions)
    return replace(judgement, regions=regions, verdict="GOOD" if is_tolerated else judgement.verdict)
