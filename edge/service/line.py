"""A line as its configuration describes it: everything loaded and verified, nothing running yet."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import zmq

from edge.bundle import Bundle, ProvenEngine, open_bundle, open_proven_engine
from edge.bundle.trusted import Signer, require_trusted, signer_of
from edge.cameras.base import Opened
from edge.cameras.settings import CameraSettings
from edge.cameras.state import CameraAlarm
from edge.cameras.supervisor import SupervisedCamera
from edge.config import LineConfig
from edge.delivery.publisher import bind
from edge.errors import CameraError, ConfigError, DeliveryError
from edge.geometry.area_of_interest import AreaOfInterest
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Lane
from edge.inspection.inspector import Inspector
from edge.inspection.pipeline import Camera
from edge.inspection.verdict import Thresholds

OPENED_AT_START_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Line:
    """What `heatline check` verifies and `heatline run` runs."""

    config: LineConfig
    bundle: Bundle
    signed_by: Signer | None
    """None where nobody signed and the configuration allows that."""
    proven: ProvenEngine
    inspector: Inspector


def prepare_line(config: LineConfig) -> Line:
    """Open and verify the bundle, see who signed it, compile it, and run its golden tiles on this machine.

    Raises:
        BundleError, EngineError: the first thing that is not as it must be.
        ConfigError: an override that does not fit the bundle.
    """
    for camera in config.cameras:
        if camera.triggered == "software" and config.commands.bind is None:
            raise ConfigError(
                f"camera {camera.name} is triggered by software, and there is no address to take triggers on; "
                'set commands.bind, e.g. "tcp://127.0.0.1:5557"'
            )
    bundle = open_bundle(config.bundle)
    # Before any engine reads a graph: who may make graphs may make much happen.
    signed_by = (signer_of if config.allow_unsigned else require_trusted)(bundle, config.trusted_keys)
    overlap, tile = config.tiles.overlap_px, bundle.manifest.grid.tile_px
    if overlap is not None and overlap >= tile:
        raise ConfigError(f"tiles.overlap_px is {overlap}, the bundle's tiles are {tile} px; expected less")
    proven = open_proven_engine(
        bundle,
        config.engine.kind,
        config.engine.precision,
        threads=config.engine.threads,
        streams=config.engine.streams,
        batch=config.engine.batch,
    )
    inspector = Inspector(bundle.manifest, proven.engine, thresholds=_thresholds(config, bundle), overlap_px=overlap)
    return Line(config, bundle, signed_by, proven, inspector)


@dataclass(frozen=True)
class OpenCamera:
    """A camera that is kept going; what was found, or None where it is not open yet."""

    camera: SupervisedCamera
    opened: Opened | None


@contextlib.contextmanager
def open_cameras(
    settings: Sequence[CameraSettings],
    tell: Callable[[CameraAlarm], None],
    *,
    all_must_open: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, OpenCamera]]:
    """All cameras by name, opened side by side; closed at the end.

    Args:
        tell: hears of their deaths and returns.
        all_must_open: whether all are waited for, and one that is down is an error; else only a file or a library that
            is not there is one, and a camera that takes long goes on opening.
        stopping: ends the wait.
    Raises:
        CameraError, MissingExtraError: one cannot be opened.
    """
    cameras = [SupervisedCamera(each, tell) for each in settings]

    def opened(camera: SupervisedCamera) -> OpenCamera:
        must_open = all_must_open or camera.settings.replays
        try:
            return OpenCamera(camera, camera.open(None if must_open else OPENED_AT_START_WITHIN_SECONDS))
        except CameraError:
            if must_open:
                raise
            return OpenCamera(camera, None)

    def interrupt() -> None:
        for camera in cameras:
            camera.interrupt()

    with contextlib.ExitStack() as at_end:
        side_by_side = at_end.enter_context(ThreadPoolExecutor(len(cameras)))
        at_end.callback(lambda: list(side_by_side.map(SupervisedCamera.close, cameras)))
        at_end.callback(interrupt)
        openings = [side_by_side.submit(opened, camera) for camera in cameras]
        at_end.callback(lambda: wait(openings))
        at_end.callback(interrupt)
        while wait(openings, timeout=POLL_SECONDS).not_done:
            if stopping():
                interrupt()
        yield {each.camera.name: each for each in (opening.result() for opening in openings)}


def pipeline_cameras(cameras: Mapping[str, OpenCamera]) -> dict[str, Camera]:
    """What the pipeline must know of each camera, by name."""
    return {name: _pipeline_camera(each.camera) for name, each in cameras.items()}


def _pipeline_camera(camera: SupervisedCamera) -> Camera:
    settings = camera.settings
    return Camera(
        camera,
        Lane(settings.waiting_frames, settings.on_overload),
        FrameRule(settings.size, settings.pixel_format),
        AreaOfInterest.of(settings.look_at, settings.look_away),
    )


def check_address(key: str, address: str) -> None:
    """Bind an address for a moment.

    Raises:
        DeliveryError: it cannot be bound.
    """
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        try:
            bind(socket, address)
        except zmq.ZMQError as error:
            raise DeliveryError(
                f"{address} cannot be bound ({error.strerror}); is another line using it, or is the address "
                f"not of this machine? Set {key}"
            ) from error


def _thresholds(config: LineConfig, bundle: Bundle) -> Thresholds:
    calibration, own = bundle.manifest.calibration, config.thresholds
    return Thresholds(
        score=calibration.score_threshold if own.score is None else own.score,
        evidence=calibration.evidence_threshold if own.evidence is None else own.evidence,
    )
