"""Inspects pictures without a line, in the calling process, for `heatline inspect` and `import heatline`: with the same
tiles, engine, stitching and verdict rule as a line.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.colour import PIXEL_FORMATS, PixelFormat, to_rgb
from heatline.edge.delivery.publisher import Count
from heatline.edge.errors import EngineError, InputError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.heatmap_picture import ColourScale, outline_foreign, overlay
from heatline.edge.images import list_images, read_image
from heatline.edge.inspection.inspector import (
    Inspector,
    PendingFrame,
    Setup,
    one_ahead,
    outcome_of,
    outcome_without,
    product_references,
)
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.service.events import verdict_message
from heatline.edge.wire.events import BundleName, Region, Verdict, VerdictEvent

Picture: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | str | os.PathLike[str]
"""An array of pixels, or the path of a picture."""


@dataclass(frozen=True, eq=False, repr=False)
class InspectionResult:
    """What a bundle found in one picture. `overlay` draws it::

        result = inspector.inspect("board.png")
        if result.verdict == "DEFECT":
            for region in result.regions:
                print(region.box_xyxy, region.area_px, region.score)

    Only GOOD and DEFECT are verdicts on the part.
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
        score = f"score {event.frame_score:.2f}, threshold {event.score_threshold or 0:.2f}"
        regions = f"regions at {places}{more}" if places else None
        return f"{title}: " + "; ".join(filter(None, [score, regions, event.description]))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class BundleInspector:
    """Inspects pictures with one bundle. Use it in the thread that created it; `close` releases the engine's memory.

    A picture is an array or a file. Arrays are RGB uint8 [H, W, 3], unless `pixel_format` gives the GenICam name of
    another format: `BGR8` for OpenCV's arrays [H, W, 3], `Mono8` for grey ones [H, W]. A picture may have any size: it
    is cut into tiles, and their maps are stitched, as on the line. An array is not copied: if you overwrite it, the
    result's overlay shows the new pixels.

    Args:
        bundle: verified.
        verified: its engine.
    Raises:
        BundleError: the graph compares frames with a reference picture, and the bundle has none for all cameras.
    """

    def __init__(self, bundle: Bundle, verified: VerifiedEngine) -> None:
        inspector = Inspector(
            bundle.manifest,
            verified.engine,
            plausibility=bundle.plausibility(),
            references=product_references(bundle),
        )
        self._setup = Setup(bundle, verified, inspector, acting=False)
        self._boot_id, self._count = uuid.uuid4().hex, Count(journal_id=None)
        self._pictures, self._closed = 0, False

    @property
    def bundle(self) -> BundleName:
        """Name, version and digest of the bundle."""
        manifest = self._setup.bundle.manifest
        return BundleName(name=manifest.name, version=manifest.version, digest=self._setup.bundle.digest)

    @property
    def precision(self) -> str:
        """The engine's precision: f32, bf16 or int8. It is f32 if this machine does not support the requested one."""
        return self._setup.verified.engine.precision

    def inspect(self, picture: Picture, *, pixel_format: PixelFormat = "RGB8") -> InspectionResult:
        """Inspect one picture.

            result = inspector.inspect(cv2.imread("board.png"), pixel_format="BGR8")
            print(result.verdict, result.score)

        Args:
            pixel_format: of an array; a file states its own.
        Raises:
            InputError: the file cannot be read, or the array does not fit its pixel format.
            EngineError: the inspector is closed.
        """
        frame = self._frame(picture, pixel_format)
        if isinstance(frame, BadFrame):
            raise InputError(frame.detail)
        (result,) = self._results([frame])
        return result

    def inspect_all(
        self,
        pictures: Iterable[Picture | Frame | BadFrame] | str | os.PathLike[str],
        *,
        pixel_format: PixelFormat = "RGB8",
    ) -> Iterator[InspectionResult]:
        """Inspect many pictures and yield their results in order. While one is judged, the engine infers the next.

            for result in inspector.inspect_all("photos"):
                print(result)

        A file that cannot be read gives NO_VERDICT and does not end the iteration.

        Args:
            pictures: arrays, files or decoded frames, e.g. an array [N, H, W, 3]; or a folder, whose pictures are
                sorted by name.
            pixel_format: of arrays; a file states its own.
        Raises:
            InputError: there is no such folder, or no picture in it; an array does not fit its pixel format.
            EngineError: the inspector is closed.
        """
        self._require_open()
        if isinstance(pictures, str | os.PathLike):
            pictures = list_images(Path(pictures))
        return self._results(self._frame(picture, pixel_format) for picture in pictures)

    def close(self) -> None:
        """Release the engine. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._setup.verified.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        bundle = self.bundle
        return f"<{type(self).__name__} {bundle.name} {bundle.version} in {self.precision}>"

    def _frame(self, picture: Picture | Frame | BadFrame, pixel_format: PixelFormat) -> Frame | BadFrame:
        """Decode a picture; an InputError if it is no picture, or a BadFrame if it is a file that cannot be read."""
        self._require_open()
        if isinstance(picture, Frame | BadFrame):
            return picture
        self._pictures += 1
        if isinstance(picture, str | os.PathLike):
            stamp = Stamp("inspect", self._pictures, str(picture))
            try:
                return Frame(stamp, *read_image(Path(picture)))
            except InputError as error:
                return BadFrame(stamp, "unreadable", str(error))
        if not isinstance(picture, np.ndarray):
            raise InputError(
                f"expected the path of a picture or a NumPy array, got {type(picture).__name__}; convert it with "
                "numpy.asarray"
            )
        if pixel_format not in PIXEL_FORMATS:
            raise InputError(f"there is no pixel_format {pixel_format!r}; expected one of {', '.join(PIXEL_FORMATS)}")
        return Frame(Stamp("inspect", self._pictures, None), picture, pixel_format)

    def _results(self, frames: Iterable[Frame | BadFrame]) -> Iterator[InspectionResult]:
        start = self._setup.inspector.start
        return map(self._finish, one_ahead(each if isinstance(each, BadFrame) else start(each) for each in frames))

    def _finish(self, started: PendingFrame | BadFrame) -> InspectionResult:
        self._require_open()
        if isinstance(started, BadFrame):
            outcome = outcome_without(started)
        else:
            try:
                outcome = outcome_of(started.frame.stamp, self._setup.inspector.finish(started))
            except EngineError as error:
                outcome = outcome_without(BadFrame(started.frame.stamp, "engine", str(error)))
        event = verdict_message(self._boot_id, replace(outcome, setup=self._setup)).event
        assert isinstance(event, VerdictEvent)
        return InspectionResult(
            self._count.next(event),
            outcome.judgement,
            self._setup.bundle.manifest.grid.heatmap_cell_px,
            started.frame if isinstance(started, PendingFrame) else None,
            self._setup.scale,
        )

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("this inspector is closed; open the bundle again")
