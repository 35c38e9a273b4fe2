"""The parts of a running line. Opens its cameras and checks its addresses."""

import contextlib
import ipaddress
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import zmq

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.numbering import Numbering
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.sockets import bind, cannot_bind
from heatline.edge.errors import CameraError, ConfigError, DeliveryError, Faults
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.ledger import Ledger
from heatline.edge.inspection.pipeline import Pipeline
from heatline.edge.service.drift import LineDrift
from heatline.edge.service.events import EventEmitter
from heatline.edge.service.readiness import Heartbeat
from heatline.edge.service.sidecar import Sidecar
from heatline.edge.util.files import open_locked
from heatline.edge.util.systemd import RUNTIME_FOLDERS

OPENED_AT_START_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Line:
    """The parts of a running line."""

    cameras: Mapping[str, SupervisedCamera]
    pipeline: Pipeline
    ledger: Ledger
    in_flight: InFlightLog
    events: EventEmitter
    publisher: Publisher
    journal: Numbering
    access: Access
    heartbeat: Heartbeat
    sidecar: Sidecar
    drift: LineDrift


@dataclass(frozen=True)
class OpenCamera:
    """A supervised camera and what was found when it was opened."""

    camera: SupervisedCamera
    opened: Opened | None
    """None: the camera is not open yet."""


@contextlib.contextmanager
def open_cameras(
    settings: Sequence[CameraSettings],
    on_alarm: Callable[[CameraAlarm], None],
    *,
    all_must_open: bool,
    faults: Faults | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, OpenCamera]]:
    """Open all cameras at the same time and return them by name. Close them at the end.

    Args:
        on_alarm: receives each camera's death and return.
        all_must_open: True: wait for all cameras; one that does not open is an error. False: only a missing file or
            library is an error, and a slow camera goes on opening in the background.
        faults: takes the errors of cameras that cannot be opened, which are left out; None: they are raised.
        stopping: ends the wait.
    Raises:
        CameraError, MissingExtraError: a camera cannot be opened.
    """
    cameras = [SupervisedCamera(camera, on_alarm) for camera in settings]

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
        executor = at_end.enter_context(ThreadPoolExecutor(len(cameras)))
        at_end.callback(lambda: list(executor.map(SupervisedCamera.close, cameras)))
        at_end.callback(interrupt)
        openings = [executor.submit(opened, camera) for camera in cameras]
        at_end.callback(lambda: wait(openings))
        at_end.callback(interrupt)
        while wait(openings, timeout=POLL_SECONDS).not_done:
            if stopping():
                interrupt()
        found, closed = {}, Faults()
        for opening in openings:
            with closed.collected():
                found[opening.result().camera.name] = opening.result()
        if faults is None:
            closed.raise_found()
        else:
            faults.found += closed.found
        yield found


@contextlib.contextmanager
def lock_folder(folder: Path | None) -> Iterator[None]:
    """Lock a state folder until the block ends. Two lines in one folder would mistake each other's frames in flight for
    their own.

    Raises:
        DeliveryError: another line has locked it.
    """
    with contextlib.ExitStack() as at_end:
        if folder is not None:
            # A folder that cannot be opened needs no lock; its in-flight log reports the fault.
            with contextlib.suppress(OSError):
                try:
                    # The folder itself is locked: this needs neither disk space nor permission to write.
                    at_end.callback(os.close, open_locked(folder, os.O_RDONLY | os.O_DIRECTORY))
                except BlockingIOError as error:
                    raise DeliveryError(
                        f"{folder} belongs to another line that is running; give each line its own STATE_DIRECTORY, "
                        "or stop the other line"
                    ) from error
        yield


def require_distinct(file: Path, addresses: Mapping[str, str]) -> None:
    """Require that no two addresses take each other's place: by other names of a host, or by a wildcard.

    Args:
        file: the line's file, for the message.
        addresses: by the keys that name them.
    Raises:
        ConfigError: two do.
    """
    places = {key: _place(address) for key, address in addresses.items()}
    for (one, (port, hosts)), (other, (others_port, others_hosts)) in itertools.combinations(places.items(), 2):
        if port == others_port and any(
            a == b or "*" in (a, b) or ("0.0.0.0" in (a, b) and ":" not in a + b)
            for a, b in itertools.product(hosts, others_hosts)
        ):
            raise ConfigError(
                f"{file}: {one} is {addresses[one]!r} and {other} is {addresses[other]!r}, and only one program can "
                "listen there; give each another address"
            )


def _place(address: str) -> tuple[str, set[str]]:
    """Return the port, or the path, of an address, and the IP addresses that its host means; `*`: all of this PC."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return os.path.realpath(rest), {"*"}
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    if host in ("*", "::"):
        return port, {"*"}
    try:
        return port, {str(ipaddress.ip_address(host))}
    except ValueError:
        pass
    try:  # of a name only: a line that names numbers asks nobody
        return port, {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:  # such as the name of a network interface; whoever binds it reports what cannot be bound
        return port, {host}


@contextlib.contextmanager
def bound_addresses(addresses: Mapping[str, str], faults: Faults) -> Iterator[None]:
    """Bind all addresses until the context ends, so that two of one place are found whatever their names; collect what
    cannot be bound. Nothing stays of it. Accept one in the service's runtime folder if systemd has not created it yet.

    Args:
        addresses: by the keys that name them.
    """
    with zmq.Context() as context, contextlib.ExitStack() as until_end:
        for key, address in addresses.items():
            scheme, _, path = address.partition("://")
            if scheme == "ipc" and path.startswith(f"{RUNTIME_FOLDERS}/") and not Path(path).parent.exists():
                continue
            with faults.collected():
                try:
                    bind(until_end.enter_context(context.socket(zmq.XPUB)), address)
                except zmq.ZMQError as error:
                    raise cannot_bind(key, address, error) from error
                if scheme == "ipc":
                    until_end.callback(Path(path).unlink, missing_ok=True)  # ZeroMQ leaves its socket
        yield
