"""Gives reviewed frames to a bundle as its line does, and decides by them whether a new bundle is better."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.calibration.statistics import interval
from heatline.edge.config import LineConfig, ThresholdsConfig
from heatline.edge.config.engine import EngineConfig
from heatline.edge.errors import EngineError, GeometryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.images import read_image
from heatline.edge.inspection.inspector import Inspector, product_references
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.monitor.marks import Truth
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import Verdict
from heatline.export.retrain.frames import MarkedFrame, UsableFrame
from heatline.train.progress import tracked

UNJUDGED = "the bundle gives the frame no verdict, which a training does not change; calibrate again if it is sound"
UNSEEN = "no inspected tile shows the marked place, so no model can find it; widen roi or narrow exclude of the camera"
HIDDEN = "the map shows the marked place, and only the score threshold hides it; see heatline calibrate --false-reject"


class Judged(NamedTuple):
    """A bundle's verdict on a frame and, if the frame has a missed defect, why a training may not help."""

    verdict: Verdict
    hint: str | None = None


@dataclass(frozen=True)
class Judging:
    """The settings of a line by which both bundles judge. The defaults are those of a bundle without a line."""

    engine: EngineConfig = EngineConfig()  # noqa: RUF009 they are frozen
    thresholds: ThresholdsConfig = ThresholdsConfig()  # noqa: RUF009
    overlap_px: int | None = None
    areas: Mapping[str, RegionOfInterest] = field(default_factory=dict)
    """Regions of interest by camera."""

    @classmethod
    def of_line(cls, config: LineConfig) -> "Judging":
        """Return the settings of a line, with one product in its place, if the line has products."""
        areas = {camera.name: camera.region_of_interest for camera in config.cameras}
        return cls(config.engine, config.thresholds, config.tiles.overlap_px, areas)

    @classmethod
    def of_frames(cls, frames: Sequence[MarkedFrame], bundle: Bundle) -> "Judging":
        """Return the settings for exported frames: the bundle's precision that most of their verdicts have."""
        own = [each.event for each in frames if each.event.bundle and each.event.bundle.name == bundle.manifest.name]
        used = [event.precision for event in own]
        return cls(EngineConfig(precision=max(bundle.manifest.precisions, key=used.count)))


def judge_frames(bundle: Bundle, frames: Sequence[UsableFrame], judging: Judging, title: str) -> list[Judged]:
    """Return a bundle's answer on each frame, and show progress under a title.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
    """
    manifest, engine, thresholds = bundle.manifest, judging.engine, judging.thresholds
    verified = open_verified_engine(bundle, engine.kind, engine.precision, device=engine.device)
    checks = thresholds.check_plausibility is not False
    inspector = Inspector(
        manifest,
        verified.engine,
        thresholds=Thresholds.of(manifest.calibration, thresholds.score, thresholds.evidence),
        overlap_px=judging.overlap_px,
        plausibility=bundle.plausibility() if checks else None,
        plausibility_by_camera={
            camera: plausibility
            for camera, (area, plausibility) in bundle.plausibility_by_camera().items()
            if checks and judging.areas.get(camera) == area
        },
        references=product_references(bundle, sorted({frame.camera for frame in frames})),
    )
    with contextlib.closing(verified.engine):
        return [
            _judge(inspector, frame, number, judging.areas.get(frame.camera, WHOLE_FRAME))
            for number, frame in enumerate(tracked(title)(frames), start=1)
        ]


def _judge(inspector: Inspector, frame: UsableFrame, number: int, area: RegionOfInterest) -> Judged:
    image, pixel_format = read_image(frame.path)
    try:
        pending = inspector.start(Frame(Stamp(frame.camera, number, None), image, pixel_format), area)
        judgement = inspector.finish(pending)
    except (EngineError, GeometryError):
        return Judged("NO_VERDICT", UNJUDGED)
    if judgement.reject_reason is not None:
        return Judged("NO_VERDICT", UNJUDGED)
    shown = frame.missed.strongest_of(judgement.heatmap, pending.stitcher.cell_px)
    if judgement.verdict == "DEFECT" or shown is None:
        return Judged(judgement.verdict)
    return Judged("GOOD", UNSEEN if math.isnan(shown) else HIDDEN if shown >= inspector.thresholds.evidence else None)


ERRORS: tuple[tuple[str, Truth, Verdict], ...] = (
    ("false alarm", "good", "DEFECT"),
    ("missed defect", "defective", "GOOD"),
)
"""Each kind of wrong verdict: its name, the truth, and the verdict."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of both bundles on a reviewed frame."""

    frame: str
    """The frame's file."""
    truth: Truth
    held_out: bool
    """Whether neither bundle was trained on it."""
    old: Verdict
    new: Verdict


class Rate(msgspec.Struct, frozen=True):
    """A count of frames, and the confidence interval of its share."""

    count: int
    of: int
    interval: tuple[float, float] | None
    """Two-sided, 95 % (Clopper and Pearson); None: there are no frames."""

    @classmethod
    def measure(cls, verdicts: Sequence[Verdict], counted: Verdict) -> "Rate":
        count, of = verdicts.count(counted), len(verdicts)
        return cls(count, of, interval(count, of) if of else None)

    def __str__(self) -> str:
        if self.interval is None:
            return "no such frame"
        low, high = self.interval
        return f"{self.count} of {self.of} ({100 * low:.0f} to {100 * high:.0f} %)"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one bundle."""

    false_alarms: Rate
    """Of the good frames that are held out: those with DEFECT."""
    missed: Rate
    """Of the defective frames that are held out: those with GOOD."""
    no_verdict: Rate
    """Of the frames that are held out."""
    finds: Rate
    """Of all reviewed defective frames in which the old bundle finds a defect: those with DEFECT."""

    @property
    def errors(self) -> int:
        return self.false_alarms.count + self.missed.count + self.no_verdict.count


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both bundles side by side."""

    old: Figures
    new: Figures
    reasons: list[str]
    """Why the new bundle is not better; empty: it is."""
    lost: list[str]
    """Files of the frames in which only the old bundle finds a defect."""
    held_out: int


def compare(answers: Sequence[Answer]) -> Comparison:
    """Compare both bundles. The new one is better if it makes fewer errors on the held-out frames, if no more of these,
    and no more of all reviewed frames, are false alarms or missed defects than before, and if it finds a defect in
    every reviewed frame in which the old one rightly finds one.

    An error is a false alarm, a missed defect, or a frame without a verdict. All reviewed frames count too: if the new
    bundle errs more often even with frames that it was trained on, it is worse.
    """
    old, new = (_figures(answers, name) for name in ("old", "new"))
    lost = [each.frame for each in answers if _is_find(each, "old") and not _is_find(each, "new")]
    held_out = [each for each in answers if each.held_out]
    reasons = []
    if new.errors >= old.errors:
        reasons.append(f"it makes {format_count(new.errors, 'error')} on the held-out frames, the old one {old.errors}")
    for thing, truth, verdict in ERRORS:
        for frames, where in ((held_out, "the held-out frames"), (answers, "all reviewed frames")):
            was, now = (_count(frames, name, truth, verdict) for name in ("old", "new"))
            if now > was:
                reasons.append(f"it has {format_count(now, thing)} on {where}, the old one {was}")
                break
    if lost:
        reasons.append(
            f"it finds no defect in {format_count(len(lost), 'frame')} in which the old one rightly finds one, first "
            f"{lost[0]}"
        )
    return Comparison(old=old, new=new, reasons=reasons, lost=lost, held_out=len(held_out))


def _figures(answers: Sequence[Answer], name: str) -> Figures:
    held_out = [answer for answer in answers if answer.held_out]
    return Figures(
        false_alarms=Rate.measure([getattr(each, name) for each in held_out if each.truth == "good"], "DEFECT"),
        missed=Rate.measure([getattr(each, name) for each in held_out if each.truth == "defective"], "GOOD"),
        no_verdict=Rate.measure([getattr(each, name) for each in held_out], "NO_VERDICT"),
        finds=Rate.measure([getattr(each, name) for each in answers if _is_find(each, "old")], "DEFECT"),
    )


def _count(answers: Sequence[Answer], name: str, truth: Truth, verdict: Verdict) -> int:
    return sum(each.truth == truth and getattr(each, name) == verdict for each in answers)


def _is_find(answer: Answer, name: str) -> bool:
    return answer.truth == "defective" and getattr(answer, name) == "DEFECT"
