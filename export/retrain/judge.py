"""Gives reviewed frames to a bundle as its line does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.config import LineConfig
from heatline.edge.errors import EngineError, GeometryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.images import read_image
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.inspection.inspector import Inspector, product_references
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.wire.events import Verdict
from heatline.export.retrain.frames import MarkedFrame
from heatline.export.retrain.select import UsableFrame

Track = Callable[[Sequence[UsableFrame]], Iterable[UsableFrame]]
"""Wraps the frames while they are judged, to show progress."""


@dataclass(frozen=True)
class Judging:
    """The settings of a line by which both bundles judge. The defaults are those of a bundle without a line."""

    precision: Precision = "f32"
    kind: EngineKind = "openvino"
    device: str = PROCESSOR
    score: float | None = None
    evidence: float | None = None
    """Thresholds of the line's file, logits; None: each bundle's own."""
    overlap_px: int | None = None
    check_plausibility: bool = True
    areas: Mapping[str, RegionOfInterest] = field(default_factory=dict)
    """Regions of interest by camera."""

    @classmethod
    def of_line(cls, config: LineConfig, digest: str) -> "Judging":
        """Return the settings of a line.

        Args:
            config: with one product in its place, if the line has products.
            digest: of the bundle whose tuned engine settings apply.
        """
        engine, thresholds = config.engine_for(digest).settings, config.thresholds
        return cls(
            precision=engine.precision,
            kind=engine.kind,
            device=engine.device,
            score=thresholds.score,
            evidence=thresholds.evidence,
            overlap_px=config.tiles.overlap_px,
            check_plausibility=thresholds.check_plausibility in (None, True),
            areas={camera.name: camera.region_of_interest for camera in config.cameras},
        )

    @classmethod
    def of_frames(cls, frames: Sequence[MarkedFrame], bundle: Bundle) -> "Judging":
        """Return the settings for exported frames: the precision that most of their verdicts have, if the bundle has
        it."""
        used = [frame.event.precision for frame in frames if frame.event.bundle.name == bundle.manifest.name]
        common = max(sorted(set(used)), key=used.count, default="f32")
        return cls(precision=next((each for each in bundle.manifest.precisions if each == common), "f32"))


def judge_frames(bundle: Bundle, frames: Sequence[UsableFrame], judging: Judging, track: Track = iter) -> list[Verdict]:
    """Return a bundle's verdict on each frame.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        InputError: a picture cannot be read any more.
    """
    manifest = bundle.manifest
    verified = open_verified_engine(bundle, judging.kind, judging.precision, device=judging.device)
    inspector = Inspector(
        manifest,
        verified.engine,
        thresholds=Thresholds.of(manifest.calibration, judging.score, judging.evidence),
        overlap_px=judging.overlap_px,
        plausibility=bundle.plausibility() if judging.check_plausibility else None,
        plausibility_by_camera={
            camera: plausibility
            for camera, (area, plausibility) in bundle.plausibility_by_camera().items()
            if judging.check_plausibility and judging.areas.get(camera) == area
        },
        references=product_references(bundle, sorted({frame.camera for frame in frames})),
    )
    verdicts = []
    try:
        for number, frame in enumerate(track(frames), start=1):
            verdicts.append(_judge(inspector, frame, number, judging.areas.get(frame.camera, WHOLE_FRAME)))
    finally:
        verified.engine.close()
    return verdicts


def _judge(inspector: Inspector, frame: UsableFrame, number: int, area: RegionOfInterest) -> Verdict:
    image, pixel_format = read_image(frame.path)
    try:
        pending = inspector.start(Frame(Stamp(frame.camera, number, None), image, pixel_format), area)
        judgement = inspector.finish(pending)
    except (EngineError, GeometryError):
        return "NO_VERDICT"
    if judgement.reject_reason is not None:
        return "NO_VERDICT"
    return judgement.verdict
