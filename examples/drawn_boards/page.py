"""The demo's page, one self-contained file: each board's picture, its heatmap with regions, and its true defects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import FileSystemLoader
from numpy.typing import NDArray

from heatline.edge.bundle import Manifest
from heatline.edge.geometry import Region
from heatline.edge.heatmap_picture import OUTLINE_RGB, ColourScale, draw_outlines, outline_regions, tint
from heatline.edge.images import read_rgb
from heatline.edge.util.page import Picture, jpeg_uri, page_templates
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import StatusEvent, VerdictEvent
from heatline.train.evaluation.gallery import make_legend
from heatline.train.evaluation.scoring import Matches

SHOWN_WIDTH_PX = 800
FOUND_RGB, MISSED_RGB, FALSE_RGB = (0, 230, 255), (255, 70, 220), (255, 150, 0)
MARGIN_PX = 16
"""Distance between a defect or a false region and the ring around it, so that the ring does not cover it."""


@dataclass(frozen=True)
class InspectedBoard:
    """A board's verdict event, and how its regions match the true defects."""

    event: VerdictEvent
    image: Path
    heatmap: Path
    """Path of the heatmap PNG that was sent with the event."""
    matches: Matches

    @property
    def name(self) -> str:
        return Path(str(self.event.source)).stem

    @property
    def missed(self) -> int:
        return self.matches.score.defects - self.matches.score.hit

    @property
    def false_regions(self) -> int:
        return self.matches.score.false_regions

    @property
    def pictures(self) -> list[Picture]:
        """The picture, the heatmap with its regions and, if the board has defects, the true defects."""
        rgb, defects = read_rgb(self.image), self.matches.score.defects
        regions = format_count(len(self.event.regions), "region")
        captioned = [
            (rgb, "picture"),
            (self._draw_found_regions(rgb), f"heatmap with {regions}, {self.false_regions} false"),
        ]
        if defects:
            caption = f"{format_count(defects, 'true defect')}, {self.missed} missed"
            captioned.append((self._draw_true_defects(rgb), caption))
        return [Picture(_embed(picture), self.name, self.event.verdict, caption) for picture, caption in captioned]

    def _draw_found_regions(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture under its heatmap, with outlined regions and a label at each false region."""
        found = rgb
        if self.event.heatmap is not None:
            grey = cv2.imread(str(self.heatmap), cv2.IMREAD_GRAYSCALE)
            found = tint(rgb, np.asarray(grey, np.uint8), self.event.heatmap.cell_px)
        found = outline_regions(found, self.event.regions)
        for region in self.matches.false:
            _draw_ring(found, _region_mask(region, rgb.shape[:2]), FALSE_RGB, "false")
        return found

    def _draw_true_defects(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture with a ring around each true defect and a label at each missed one."""
        truth = np.ascontiguousarray(rgb.copy())
        for number in range(1, self.matches.score.defects + 1):
            hit = number in self.matches.hit
            colour, label = (FOUND_RGB, "") if hit else (MISSED_RGB, "missed")
            _draw_ring(truth, self.matches.defects == number, colour, label)
        return truth


def write_page(
    path: Path,
    boards: Sequence[InspectedBoard],
    final: StatusEvent,
    checks: Sequence[tuple[str, str, bool]],
    manifest: Manifest,
) -> Path:
    """Write the page, which needs no other file, and return its path.

    Args:
        checks: name, measured value and result of each check; true if the check passed.
    """
    templates = page_templates(FileSystemLoader(Path(__file__).parent))
    page = templates.get_template("demo.html.jinja").render(
        title="heatline demo: defects on drawn circuit boards",
        defective=sorted((board for board in boards if board.matches.score.defects), key=_clearest_first),
        flawless=[board for board in boards if not board.matches.score.defects],
        boards=boards,
        legend=_legend(manifest),
        ledger=final.ledger,
        checks=checks,
        manifest=manifest,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _clearest_first(board: InspectedBoard) -> tuple[bool, bool, int]:
    """Sort key: boards with the verdict DEFECT and no mistake first, then by the number of found defects."""
    return board.event.verdict != "DEFECT", bool(board.missed or board.false_regions), -board.matches.score.hit


def _legend(manifest: Manifest) -> dict[str, Any]:
    score, evidence = manifest.calibration.score_threshold, manifest.calibration.evidence_threshold
    return make_legend(
        ColourScale.around(evidence, manifest.calibration.background),
        {
            f"region from {evidence:.2f} logits": evidence,
            f"board DEFECT from {score:.2f} logits": score,
        },
        ("cold: as on good boards", "hot: like a defect"),
        {
            "region that heatline found, with its peak": OUTLINE_RGB,
            "false region: no true defect lies there": FALSE_RGB,
            "true defect, found": FOUND_RGB,
            "true defect, missed": MISSED_RGB,
        },
    )


def _region_mask(region: Region, frame_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(frame_hw, np.uint8)
    cv2.fillPoly(mask, [np.array(region.contour_xy, np.int32)], 1)
    return mask > 0


def _draw_ring(picture: NDArray[np.uint8], mask: NDArray[np.bool_], rgb: tuple[int, int, int], label: str) -> None:
    """Draw a ring around the mask, with a label next to it; changes `picture`."""
    surrounding = cv2.dilate(mask.astype(np.uint8), np.ones((2 * MARGIN_PX + 1,) * 2, np.uint8))
    contours, _ = cv2.findContours(surrounding, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    draw_outlines(picture, [np.asarray(contour, np.int32) for contour in contours], rgb, 5)
    if label:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, picture.shape[1] / 800
        (text_width, text_height), _ = cv2.getTextSize(label, font, scale, 9)
        x, y, _, height = cv2.boundingRect(surrounding)
        baseline_y = y - 12 if y > text_height + 12 else y + height + text_height + 12
        position = min(x, picture.shape[1] - text_width), baseline_y
        for colour, thickness in (((0, 0, 0), 14), (rgb, 5)):
            cv2.putText(picture, label, position, font, scale, colour, thickness, cv2.LINE_AA)


def _embed(rgb: NDArray[np.uint8]) -> str:
    """Return the picture, `SHOWN_WIDTH_PX` wide, as the URI of a JPEG."""
    height = round(rgb.shape[0] * SHOWN_WIDTH_PX / rgb.shape[1])
    small = cv2.resize(rgb, (SHOWN_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return jpeg_uri(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), np.uint8))
