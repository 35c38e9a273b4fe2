"""The result for one picture that was inspected without a line."""

import base64
import html
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.colour import to_rgb
from heatline.edge.errors import InputError
from heatline.edge.frames import Frame
from heatline.edge.heatmap_picture import ColourScale, outline_foreign, overlay
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.wire.events import Region, Verdict, VerdictEvent

LARGEST_SHOWN_PX = 800
"""Longer side of the picture that a notebook shows."""


@dataclass(frozen=True, eq=False, repr=False)
class InspectionResult:
    """What a bundle found in one picture.

        result = inspector.inspect("board.png")
        if result.verdict == "DEFECT":
            for region in result.regions:
                print(region.box_xyxy, region.area_px, region.score)

    A notebook shows it as a picture with its verdict.
    """

    event: VerdictEvent
    """What a line would publish for this picture: verdict, thresholds, precision, bundle, times."""
    judgement: Judgement | None
    """The judgement by the verdict rule. None for NO_VERDICT."""
    cell_px: int
    """Side of a heatmap cell, px of the picture. Cell (i, j) begins at row `i * cell_px`, column `j * cell_px`."""
    frame: Frame | None
    """The original pixels. None: the file could not be read."""
    scale: ColourScale
    """The colour scale of the heatmap: the same for all pictures of a bundle."""

    @property
    def verdict(self) -> Verdict:
        """GOOD, DEFECT or NO_VERDICT. NO_VERDICT never means good: the picture was not judged, `reason` says why."""
        return self.event.verdict

    @property
    def reason(self) -> str | None:
        """Why there is no verdict, e.g. `failed.implausible` (docs/protocol.md lists all). None for GOOD and DEFECT."""
        return self.event.reason

    @property
    def detail(self) -> str | None:
        """A description of the reason. None for GOOD and DEFECT."""
        return self.event.detail

    @property
    def score(self) -> float | None:
        """The highest logit of all tiles; DEFECT if it reaches `event.score_threshold`. None for NO_VERDICT."""
        return self.event.frame_score

    @property
    def heatmap(self) -> NDArray[np.float32] | None:
        """The evidence of a defect in each cell: logits [H, W]. None for NO_VERDICT."""
        return None if self.judgement is None else self.judgement.heatmap

    @property
    def regions(self) -> list[Region]:
        """The defective areas, in px of the picture, the highest score first. Empty for GOOD and NO_VERDICT."""
        return self.event.regions

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The picture: RGB uint8 [H, W, 3].

        Raises:
            InputError: the file could not be read.
        """
        if self.frame is None:
            raise InputError(f"there is no picture: {self.detail}")
        return to_rgb(self.frame.image, self.frame.pixel_format)

    @property
    def has_overlay(self) -> bool:
        """Whether `overlay` has something to draw."""
        return self.judgement is not None or bool(self.event.foreign_areas)

    def overlay(self) -> NDArray[np.uint8]:
        """The picture under its heatmap, with the outline and the peak of each region, and of each area that the
        product cannot show, which a picture without a verdict may have too: RGB uint8 [H, W, 3].

            cv2.imwrite("overlay.png", cv2.cvtColor(result.overlay(), cv2.COLOR_RGB2BGR))

        Raises:
            InputError: there is neither a verdict nor such an area, so there is nothing to draw.
        """
        foreign = [area.box_xyxy for area in self.event.foreign_areas]
        if self.judgement is None:
            if not foreign:
                raise InputError(f"there is no heatmap to draw, as there is no verdict: {self.detail}")
            return outline_foreign(self.picture, foreign)
        drawn = overlay(self.picture, self.judgement.heatmap, self.cell_px, self.judgement.regions, self.scale)
        return outline_foreign(drawn, foreign)

    def __str__(self) -> str:
        event = self.event
        title = event.verdict if event.source is None else f"{event.verdict:<11} {event.source}"
        if event.frame_score is None:
            return f"{title}: {event.detail}"
        places = "; ".join(f"({each.peak_xy[0]}, {each.peak_xy[1]}) {each.score:.1f}" for each in event.regions[:5])
        more = f" and {len(event.regions) - 5} more" if len(event.regions) > 5 else ""
        score = f"score {event.frame_score:.2f}, threshold {event.score_threshold:.2f}"
        regions = f"regions at {places}{more}" if places else None
        return f"{title}: " + "; ".join(filter(None, [score, regions, event.description]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        text = f"<p>{html.escape(str(self))}</p>"
        if self.frame is None:
            return text
        shown = self.overlay() if self.has_overlay else self.picture
        ratio = min(1.0, LARGEST_SHOWN_PX / max(shown.shape[:2]))
        small_wh = [max(1, round(side * ratio)) for side in shown.shape[1::-1]]
        small = cv2.cvtColor(cv2.resize(shown, small_wh, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        jpeg = base64.b64encode(cv2.imencode(".jpg", small)[1].tobytes()).decode()
        return f'<img src="data:image/jpeg;base64,{jpeg}">{text}'
