"""Inspects frames: the steps that are the same on the line, offline and in evaluation: tile, infer, stitch, judge.

Also by what a line's frame is inspected, its setup, and what comes of it, its outcome.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, Calibration, VerifiedEngine
from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.manifest import Grid, Manifest, Map
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.bundle.signature import Signer
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.colour import to_rgb
from heatline.edge.drift import DriftSetup
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest, Stitcher, TileGrid
from heatline.edge.heatmap_picture import CLEARED, CLEARED_GREY, ColourScale
from heatline.edge.inference import Engine
from heatline.edge.inference.engine import ANSWER_WITHIN_SECONDS
from heatline.edge.inspection.screening import ScreeningStage
from heatline.edge.inspection.verdict import Judgement, Thresholds, judge, measured
from heatline.edge.reference.difference import to_grey
from heatline.edge.reference.reference import Alignment, Reference
from heatline.edge.wire.events import HeatmapPng, Screened

logger = logging.getLogger(__name__)

ANY_CAMERA = ""
"""Key of the reference for all cameras that have none of their own."""
Heatmaps = Literal["never", "defect", "always"]
"""For which verdicts the event carries the heatmap."""
WAIT_STEP_SECONDS = 0.5
NO_REFERENCE = "there is no reference picture to compare the frame with; make one with heatline bundle set-reference"
STEPS = math.ceil(ANSWER_WITHIN_SECONDS / WAIT_STEP_SECONDS)


class PendingFrame:
    """A frame whose tiles are with the engine. The thread that started it adds the answers; any thread may wait."""

    small: "PendingFrame | None" = None
    """The same frame with the screening stage, answered; None: the stage did not see it."""
    good: NDArray[np.bool_]
    """[tiles], the surely good ones, if the stage saw the frame."""
    cleared: NDArray[np.bool_] | None = None
    """[tiles], those of them that get no answer; None: all get one."""
    _submit: Callable[[NDArray[np.bool_]], None] | None = None

    def __init__(
        self,
        frame: Frame,
        stitcher: Stitcher,
        appearance: Appearance,
        alignment: Alignment | None = None,
        map_hw: tuple[int, int] | None = None,
    ) -> None:
        tiles = len(stitcher.grid)
        self.frame, self.stitcher, self.alignment = frame, stitcher, alignment
        self._appearance = appearance
        self.logits = np.empty(tiles, np.float32)
        self.maps = np.empty((tiles, *(map_hw or stitcher.map_hw)), np.float32)
        self.features: NDArray[np.float32] | None = None
        """[tiles, h, w, c]; None: the graph gives none."""
        self._missing = tiles
        self._error: Exception | None = None
        self._complete = threading.Event()
        self._started_by = threading.get_ident()

    def leave_out(self, cleared: NDArray[np.bool_], score: float, submit: Callable[[NDArray[np.bool_]], None]) -> None:
        """Wait for no answers of these tiles [tiles], unless another one's logit reaches `score`: then submit them, on
        the thread that adds the answers. So a DEFECT frame is inspected whole."""
        if cleared.any():
            self.cleared, self._score, self._submit = cleared, score, submit
            self._missing -= int(cleared.sum())

    def add_answer(
        self,
        first: int,
        logits: NDArray[np.float32],
        maps: NDArray[np.float32],
        features: NDArray[np.float32] | None = None,
    ) -> None:
        """Add the engine's answer for the tiles from `first` on."""
        self.logits[first : first + len(logits)] = logits
        self.maps[first : first + len(maps)] = maps
        if features is not None:
            if self.features is None:  # no race: one thread adds all answers
                self.features = np.empty((len(self.logits), *features.shape[1:]), np.float32)
            self.features[first : first + len(features)] = features
        self._count_answered(len(logits))

    @property
    def appearance(self) -> Appearance:
        """The frame's appearance, valid once all answers have arrived."""
        return self._appearance.with_features(self.features)

    def fail(self, error: Exception, tiles: int) -> None:
        """Note that `tiles` of the tiles will have no answer."""
        self._error = error
        self._count_answered(tiles)

    def wait(self, engine: Engine) -> None:
        """Wait for all answers of `engine`. EngineError: it failed on a tile or did not answer in time."""
        if threading.get_ident() == self._started_by:  # no other thread collects the answers
            while not self._complete.is_set() and engine.collect():
                pass
        # Counts steps, not clock time: a process that was stopped for a while goes on waiting.
        if not any(self._complete.wait(WAIT_STEP_SECONDS) for _ in range(STEPS)):
            raise EngineError(f"the engine did not answer within {ANSWER_WITHIN_SECONDS:.0f} s")
        if self._error is not None:
            raise EngineError(f"the engine failed: {self._error}") from self._error

    def _count_answered(self, tiles: int) -> None:
        self._missing -= tiles
        if self._missing:
            return
        rest = self.cleared
        if rest is None or self._error or not (self.logits[~rest].astype(np.float64) >= self._score).any():
            self._complete.set()
            self._submit = None  # it holds this frame and its pixels
            return
        self.cleared, self._missing = None, int(rest.sum())
        assert self._submit is not None, "a tile is left out"
        self._submit(rest)


@dataclass(frozen=True)
class Settings:
    """Settings of an inspection by a model that has no bundle yet."""

    grid: Grid
    map: Map
    calibration: Calibration


class Inspector:
    """Inspects frames with one bundle's settings on one engine. `overlap_px` and `thresholds` override the bundle's.

    Args:
        plausibility: what frames must look like; None: no check.
        plausibility_by_camera: what the region of interest must look like; replaces `plausibility` for these cameras.
        references: by camera, "" for all others: what frames are compared with if the engine's graph compares them.
        screening: clears tiles before the engine runs; not those of cameras in `plausibility_by_camera`.
    """

    def __init__(
        self,
        settings: Manifest | Settings,
        engine: Engine,
        *,
        thresholds: Thresholds | None = None,
        overlap_px: int | None = None,
        plausibility: Plausibility | None = None,
        plausibility_by_camera: Mapping[str, Plausibility] | None = None,
        references: Mapping[str, Reference] | None = None,
        screening: ScreeningStage | None = None,
    ) -> None:
        self.screening = screening
        self.thresholds = thresholds or Thresholds.of(settings.calibration)
        self._engine, self.plausibility = engine, plausibility
        self.plausibility_by_camera = plausibility_by_camera or {}
        self.references = references or {}
        grid, overlap = settings.grid, settings.grid.overlap_px if overlap_px is None else overlap_px

        # Bounded: a folder of pictures of every size must not fill the memory with stitchers. The bound is more than a
        # line has cameras, each with its own region of interest.
        @lru_cache(maxsize=32)
        def stitcher(frame_hw: tuple[int, int], area: RegionOfInterest = WHOLE_FRAME) -> Stitcher:
            tiles = TileGrid(frame_hw, grid.tile_px, overlap, area)
            return Stitcher(tiles, settings.map.hw, grid.heatmap_cell_px, grid.smoothing_px)

        self.stitcher = stitcher

    def start(
        self,
        frame: Frame,
        area: RegionOfInterest = WHOLE_FRAME,
        *,
        statistics_of_area: bool = False,
        reference: Reference | None = None,
    ) -> PendingFrame:
        """Align a frame with its reference, cut it into tiles, and submit these and their differences to the engine.
        Return once the last tile is submitted.

        If another thread calls `finish`, this thread must go on to start frames or to call the engine's `collect`.

        Args:
            area: the region of interest. Tiles wholly outside are neither cut nor inferred, and the pending frame's
                `logits` and `maps` hold only the other tiles.
            statistics_of_area: measure the pixels of the region's bounding box not of the whole frame, as for cameras
                in `plausibility_by_camera`.
            reference: replaces that of the camera.
        Raises:
            InputError: the image does not fit its pixel format.
            GeometryError: no pixel of the frame lies in the region of interest.
        """
        rgb = to_rgb(frame.image, frame.pixel_format)
        height, width = rgb.shape[:2]
        boxed = statistics_of_area or frame.stamp.camera in self.plausibility_by_camera
        stitcher = self.stitcher((height, width), area)
        grid = stitcher.grid
        box = area.box((height, width)) if boxed else None
        alignment, difference_of = None, None
        if self._engine.compares:
            self._engine.collect_ended()  # the frames before this one need not wait until it is aligned
            reference = reference or self.references.get(frame.stamp.camera) or self.references.get("")
            alignment = Alignment(None, NO_REFERENCE)
            if reference is not None:
                grey = to_grey(rgb)
                alignment = reference.align(grey)
                if alignment.pose is not None and alignment.misaligned is None:
                    difference_of = reference.difference_of(grey, alignment.pose, grid)
        pending = PendingFrame(frame, stitcher, Appearance.of(rgb, grid, None, box), alignment)
        submit = partial(self._submit, self._engine, rgb, pending, difference_of)
        screening, all_tiles = self.screening, np.ones(len(grid), np.bool_)
        if screening is None or boxed or not screening.pays(frame.stamp.camera):
            submit(all_tiles)
            return pending
        small = PendingFrame(frame, stitcher, pending.appearance, map_hw=screening.map_hw)
        try:
            self._submit(screening.engine, rgb, small, difference_of, all_tiles)
            self._engine.collect_ended()  # the frames before this one need not wait until it is screened
            small.wait(screening.engine)
        except EngineError as error:
            logger.warning("every tile runs in full from now on, as the screening stage failed: %s", error)
            screening.failed = True
            submit(all_tiles)
            return pending
        self._engine.collect_ended()
        pending.small = small
        pending.good = screening.find_good(small.maps)
        cleared = screening.choose_cleared(frame.stamp.camera, pending.good)
        pending.leave_out(cleared, self.thresholds.score, submit)
        submit(~cleared)
        return pending

    def finish(self, pending: PendingFrame) -> Judgement:
        """Wait for the engine's answers and judge them. EngineError: a tile has no usable answer."""
        pending.wait(self._engine)
        try:
            judgement = judge(pending.logits, pending.maps, pending.stitcher, self.thresholds, pending.cleared)
        except ValueError as error:
            raise EngineError(f"frame {pending.frame.stamp.frame_id} cannot be judged: {error}") from error
        if pending.alignment is not None:
            judgement = replace(judgement, misaligned=pending.alignment.misaligned, pose=pending.alignment.pose)
        camera, seen = pending.frame.stamp.camera, pending
        known = self.plausibility_by_camera.get(camera, self.plausibility)
        if pending.small is not None and self.screening is not None:
            judgement = replace(judgement, screened=(screened := self._describe_screening(pending)))
            if not screened.audited:
                self.screening.note(camera, screened.cleared / screened.tiles)
            if pending.cleared is not None:  # only the small graph has the features of every tile
                known, seen = self.screening.plausibility, pending.small
        if known is not None:
            implausible, foreign = known.reject_reason(seen.appearance), known.foreign_areas(seen.appearance)
            judgement = replace(judgement, implausible=implausible, foreign=tuple(foreign))
        is_good = judgement.verdict == "GOOD" and judgement.reject_reason is None
        if is_good and pending.small is None and self.screening is not None:
            self.screening.note_good(camera)
        return judgement

    def _describe_screening(self, pending: PendingFrame) -> Screened:
        ran = np.ones_like(pending.good) if pending.cleared is None else ~pending.cleared
        reached = np.zeros_like(ran)
        reached[ran] = pending.logits[ran].astype(np.float64) >= self.thresholds.score
        if (reached & ~pending.good).any():  # the frame is inspected whole, whatever the stage says of other tiles
            return Screened(len(ran))
        return Screened(len(ran), int((~ran).sum()), int((ran & pending.good).sum()), int(reached.sum()))

    def _submit(
        self,
        engine: Engine,
        rgb: NDArray[np.uint8],
        pending: PendingFrame,
        difference_of: Callable[[slice], NDArray[np.uint8]] | None,
        wanted: NDArray[np.bool_],
    ) -> None:
        """Submit the wanted tiles [tiles], in batches of neighbours."""

        def submit(first: int, count: int) -> None:
            def fill(tiles: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None, /) -> None:
                pending.stitcher.grid.cut(rgb, tiles, first)
                if difference is not None:  # a frame that is not aligned gets no verdict, whatever the answer
                    difference[:] = 0 if difference_of is None else difference_of(slice(first, first + count))

            engine.submit(
                count,
                fill,
                lambda logits, maps, features=None: pending.add_answer(first, logits, maps, features),
                lambda error: pending.fail(error, count),
            )

        numbers = np.flatnonzero(wanted)
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
            for first in range(int(run[0]), int(run[-1]) + 1, engine.batch):
                submit(first, min(engine.batch, int(run[-1]) + 1 - first))


Started = TypeVar("Started")


def one_ahead(started: Iterable[Started]) -> Iterator[Started]:
    """Yield each frame that was started once the next one is started too: the engine has work while one is judged."""
    frames = iter(started)
    for one in frames:
        for following in frames:
            yield one
            one = following
        yield one


def product_references(bundle: Bundle, cameras: Iterable[str] = (ANY_CAMERA,)) -> dict[str, Reference]:
    """Read the references of a bundle by camera, ready for the first frame; none: its graph compares nothing.

    Raises:
        BundleError: the graph compares, and there is no reference for a camera; or a picture does not fit the manifest.
    """
    if bundle.manifest.tensors.difference is None:
        return {}
    references = bundle.references()
    missing = [camera for camera in cameras if camera not in references and ANY_CAMERA not in references]
    if missing:
        raise BundleError(
            f"{bundle.path} compares frames with a reference picture, and has none"
            f"{' for camera ' + ', '.join(missing) if any(missing) else ''}"
            f"{' but those of single cameras' if references and not any(missing) else ''}; make one from good frames "
            "with heatline bundle set-reference"
        )
    for reference in references.values():
        _ = reference.aligner, reference.range.planes
    return references


@dataclass(frozen=True, eq=False)
class Setup:
    """One product's bundle, engine and settings, all verified on this machine."""

    bundle: Bundle
    verified: VerifiedEngine
    inspector: Inspector
    signed_by: Signer | None = None
    """None: the bundle is not signed, and the configuration allows that."""
    product: str | None = None
    """None: the line has no products."""
    areas: Mapping[str, RegionOfInterest] = field(default_factory=dict)
    """Regions of interest by camera; a camera without one is inspected over the whole frame."""
    cameras: Mapping[str, CameraSettings] = field(default_factory=dict)
    """By name: those whose regions are measured, and tolerated, by their settings."""
    acting: bool = True
    """Whether ejectors may act on its events."""
    heatmaps: Heatmaps = "never"
    drift: DriftSetup = field(default_factory=DriftSetup)
    """What its frames are compared with; the default watches no camera."""

    @cached_property
    def scale(self) -> ColourScale:
        """The colour scale of its heatmaps."""
        return ColourScale.around(self.inspector.thresholds.evidence, self.bundle.manifest.calibration.background)

    def describe_png(self, heatmap: NDArray[np.float32]) -> HeatmapPng:
        """Describe the picture of one of its heatmaps, on `scale`."""
        return HeatmapPng(
            hw=(heatmap.shape[0], heatmap.shape[1]),
            cell_px=self.bundle.manifest.grid.heatmap_cell_px,
            logit_at_0=self.scale.low,
            logit_at_255=self.scale.high,
            cleared_grey=CLEARED_GREY if (heatmap == CLEARED).any() else None,
        )

    def finish(self, pending: PendingFrame) -> Judgement:
        """Wait for the engine's answers, judge them, and measure the regions; errors as of `Inspector.finish`."""
        judgement, camera = self.inspector.finish(pending), self.cameras.get(pending.frame.stamp.camera)
        return judgement if camera is None else measured(judgement, camera, self.inspector.thresholds.evidence)


@dataclass(frozen=True, eq=False)
class Collecting:
    """What a line without a bundle has in place of a setup: it takes frames, and judges none."""

    product: str | None = None
    acting: bool = True
    drift: DriftSetup = field(default_factory=DriftSetup)


LineSetup = Setup | Collecting


@dataclass(frozen=True)
class Unjudged:
    """Why a frame has no judgement: the ledger's bin, the reason in one word, and a description for people."""

    kind: Literal["dropped", "failed"]
    reason: str
    detail: str
    judgement: Judgement | None = None
    """Of a frame that shows the product in part: for its heatmap and areas; of a misaligned one: for its pose. Its
    verdict must not be used."""


IS_COLLECTED = Unjudged("failed", "collecting", "the line has no bundle yet, and collects pictures")


@dataclass
class Outcome:
    """The result for one frame. Exactly one of `judgement` and `unjudged` is set. One thread at a time uses it."""

    stamp: Stamp
    judgement: Judgement | None = None
    unjudged: Unjudged | None = None
    setup: LineSetup | None = field(default=None, compare=False)
    """The setup by which the frame was, or would have been, inspected; the ledger adds it."""
    frame: Frame | None = field(default=None, compare=False)
    """The frame with its pixels, which the holder of the outcome must release; None: no pixels came, or the frame was
    dropped."""

    @property
    def is_complete(self) -> bool:
        """Whether the frame came through all stages with its pixels: it was judged, or the line collects."""
        return self.judgement is not None or self.unjudged is IS_COLLECTED

    @property
    def shown(self) -> Judgement | None:
        """The judgement whose heatmap and areas may be shown; None: there is none."""
        inspected = self.inspected
        return None if inspected is None or inspected.misaligned else inspected

    @property
    def inspected(self) -> Judgement | None:
        """The judgement that tells the frame's size and pose; None: there is none."""
        return self.judgement if self.unjudged is None else self.unjudged.judgement

    def release(self) -> None:
        """Release the pixels, if there are any."""
        if self.frame is not None:
            self.frame.release()


def outcome_of(stamp: Stamp, judgement: Judgement, frame: Frame | None = None) -> Outcome:
    """Return the outcome of a judged frame. A frame that does not show the product, or cannot be compared with its
    reference, or shows the product only in part and no defect, counts as failed.
    """
    if (reject_reason := judgement.reject_reason) is None:
        return Outcome(stamp, judgement=judgement, frame=frame)
    if judgement.implausible is not None:
        unjudged = Unjudged("failed", "implausible", reject_reason)
    else:
        reason = "foreign_area" if judgement.misaligned is None else "misaligned"
        unjudged = Unjudged("failed", reason, reject_reason, judgement)
    return Outcome(stamp, unjudged=unjudged, frame=frame)


def outcome_without(bad: BadFrame, frame: Frame | None = None) -> Outcome:
    """Return the outcome of a frame that has no judgement."""
    return Outcome(bad.stamp, unjudged=Unjudged(bad.kind, bad.reason, bad.detail), frame=frame)
