"""The parts of a running line; its cameras, open and kept going; its addresses."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import zmq

from edge.cameras.base import Opened
from edge.cameras.settings import CameraSettings
from edge.cameras.state import CameraAlarm
from edge.cameras.supervisor import SupervisedCamera
from edge.delivery.numbering import Numbering
from edge.delivery.publisher import Publisher
from edge.delivery.security.access import Access
from edge.delivery.sockets import bind
from edge.errors import CameraError, DeliveryError
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Lane
from edge.inspection.in_flight_log import InFlightLog
from edge.inspection.ledger import Ledger
from edge.inspection.pipeline import Camera, Pipeline
from edge.service.events import EventEmitter
from edge.service.readiness import Heartbeat
from edge.service.systemd import RUNTIME_FOLDERS

OPENED_AT_START_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Line:
    """What a running line is made of."""

    cameras: Mapping[str, SupervisedCamera]
    pipeline: Pipeline
    ledger: Ledger
    in_flight: InFlightLog
    events: EventEmitter
    publisher: Publisher
    journal: Numbering
    access: Access
    heartbeat: Heartbeat


@dataclass(frozen=True)
class OpenCamera:
    """A camera that is kept going; what was found, or None where it is not open yet."""

    camera: SupervisedCamera
    opened: Opened | None


@contextlib.contextmanager
def open_cameras(
    settings: Sequence[CameraSettings],
    tell: Callable[[CameraAlarm], None],
    ledger: Ledger | None = None,
    *,
    all_must_open: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, OpenCamera]]:
    """All cameras by name, opened side by side; closed at the end.

    Args:
        tell: hears of their deaths and returns.
        ledger: counts their frames; None: nobody does.
        all_must_open: whether all are waited for, and one that is down is an error; else only a file or a library that
            is not there is one, and a camera that takes long goes on opening.
        stopping: ends the wait.
    Raises:
        CameraError, MissingExtraError: one cannot be opened.
    """

    def supervised(camera: CameraSettings) -> SupervisedCamera:
        if ledger is None:
            return SupervisedCamera(camera, tell)
        return SupervisedCamera(camera, tell, lambda: ledger.accounts()[camera.name].captured)

    cameras = list(map(supervised, settings))

    def opened(camera: SupervisedCamera) -> OpenCamera:
        must_open = all_must_open or camera.settings.is_file_source
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
    )


def check_address(key: str, address: str) -> None:
    """Bind an address for a moment. One in the service's own folder that systemd has not made yet is taken as it is.

    Raises:
        DeliveryError: it cannot be bound.
    """
    scheme, _, path = address.partition("://")
    if scheme == "ipc" and path.startswith(f"{RUNTIME_FOLDERS}/") and not Path(path).parent.exists():
        return
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        try:
            bind(socket, address)
        except zmq.ZMQError as error:
            raise DeliveryError(
                f"{address} cannot be bound ({error.strerror}); is another line using it, or is the address "
                f"not of this machine? Set {key}"
            ) from error
