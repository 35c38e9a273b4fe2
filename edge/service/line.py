"""The parts of a running line: opens its cameras and its journal, takes its commands, and checks its addresses."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import zmq

from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.supervisor import CameraAlarm, SupervisedCamera
from heatline.edge.cameras.triggering import PartRequest
from heatline.edge.config import JournalConfig, LineConfig
from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.follow import Consumers, FollowServer
from heatline.edge.delivery.journal import JournalReader
from heatline.edge.delivery.journal_writer import JournalWriter
from heatline.edge.delivery.publisher import Numbering, Publisher
from heatline.edge.delivery.servers import Answer
from heatline.edge.delivery.sockets import bind
from heatline.edge.errors import CameraError, ConfigError, DeliveryError, Faults, JournalError, MessageError
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.ledger import Ledger
from heatline.edge.inspection.pipeline import Pipeline
from heatline.edge.service.events import EventEmitter, Heartbeat
from heatline.edge.service.sidecar import Shadow, Sidecar
from heatline.edge.util.files import open_locked
from heatline.edge.util.systemd import RUNTIME_FOLDERS
from heatline.edge.wire import commands
from heatline.edge.wire.events import PartEvent, VerdictEvent, event_from

logger = logging.getLogger(__name__)

OPENED_AT_START_WITHIN_SECONDS = 5.0
POLL_SECONDS = 0.05
PARTS_OPEN = "parts-open"
"""Stands beside the journal while a line joins parts, and after it if the line was killed."""
MOST_RESUMED = 10_000
"""Events of frames and parts that are read at the start, for parts that had no event yet."""


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
    shadow: Shadow


@contextlib.contextmanager
def open_cameras(
    settings: Sequence[CameraSettings],
    on_alarm: Callable[[CameraAlarm], None],
    *,
    all_must_open: bool,
    faults: Faults,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, SupervisedCamera]]:
    """Open all cameras at the same time and return them by name. Close them at the end.

    Args:
        on_alarm: receives each camera's death and return.
        all_must_open: True: wait for all cameras; one that does not open is an error. False: only a missing file or
            library is an error, and a slow camera goes on opening in the background.
        faults: takes the errors of cameras that cannot be opened, which are left out.
        stopping: ends the wait.
    """
    cameras = [SupervisedCamera(camera, on_alarm) for camera in settings]

    def open_one(camera: SupervisedCamera) -> None:
        must_open = all_must_open or camera.settings.is_file_source
        with contextlib.suppress(*() if must_open else (CameraError,)):
            camera.open(math.inf if must_open else OPENED_AT_START_WITHIN_SECONDS)

    def interrupt() -> None:
        for camera in cameras:
            camera.interrupt()

    with contextlib.ExitStack() as at_end:
        executor = at_end.enter_context(ThreadPoolExecutor(len(cameras)))
        at_end.callback(lambda: list(executor.map(SupervisedCamera.close, cameras)))
        openings = [executor.submit(open_one, camera) for camera in cameras]
        at_end.callback(lambda: wait(openings))
        at_end.callback(interrupt)
        while wait(openings, timeout=POLL_SECONDS).not_done:
            if stopping():
                interrupt()
        found = {}
        for camera, opening in zip(cameras, openings, strict=True):
            with faults.collected():
                opening.result()
                found[camera.name] = camera
        yield found


@contextlib.contextmanager
def lock_folder(folder: Path | None) -> Iterator[None]:
    """Lock a state folder until the block ends; a DeliveryError if another line has. Two lines in one folder would
    mistake each other's frames in flight for their own.
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
                        f"{folder} belongs to another line that is running; give each line its own journal.folder, "
                        "or stop the other line"
                    ) from error
        yield


def not_served(address: str) -> str:
    """Return a sentence about an address for durable consumers of a line that stores no events."""
    return f"no events are stored, so nothing is served at {address}; set journal.folder, and retain_mib above 0"


@contextlib.contextmanager
def open_journal(
    line: str, boot_id: str, config: JournalConfig, state_folder: Path | None, access: Access
) -> Iterator[Numbering]:
    """Open what numbers and stores a line's events. Serve durable consumers that may follow until the block ends.

    Args:
        state_folder: the journal's folder if the configuration names none; None: events are then not stored.
    Raises:
        DeliveryError: the address for durable consumers cannot be bound.
        JournalError: the journal belongs to another line or to a newer heatline.
    """
    folder = config.folder_in(state_folder)
    if folder is None:
        if config.bind is not None:
            logger.warning("%s", not_served(config.bind))
        yield Numbering()
        return
    with contextlib.ExitStack() as at_end:
        consumers = Consumers(folder)
        at_end.callback(consumers.write)
        server = None if config.bind is None else FollowServer(config.bind, folder, consumers, access=access)
        writer = JournalWriter(
            line,
            boot_id,
            folder,
            config.retain_mib << 20,
            consumers.acked,
            consumers=dict if server is None else server.states,
        )
        at_end.callback(writer.close)
        if server is not None:
            server.start()
            at_end.callback(server.close)
            writer.on_commit = server.wake
        yield writer


def part_journal(config: LineConfig, state_folder: Path | None) -> Path:
    """Return the folder of the journal of a line with parts; a ConfigError if it has none."""
    folder = config.journal.folder_in(state_folder)
    if folder is None:
        raise ConfigError(
            "the line has [part] and no journal, without which a crash would lose parts; set journal.folder and "
            "retain_mib above 0, or run the line as a service"
        )
    return folder


def journalled_parts(config: LineConfig, state_folder: Path | None) -> tuple[list[VerdictEvent | PartEvent], bool]:
    """Return what the journal holds of the last parts, in order, and whether that is all that it holds; nothing if the
    run before had none, or ended them all.
    """
    marker = part_journal(config, state_folder) / PARTS_OPEN
    if not marker.exists():
        with contextlib.suppress(OSError):  # a full disk: the journal then says that events are sent live only
            marker.touch()
        return [], True
    try:
        with JournalReader.open(part_journal(config, state_folder)) as journal:
            records = journal.newest(MOST_RESUMED, ("verdict.", "part."))
    except JournalError as error:  # inspection does not wait for what was
        logger.error("the parts that were open have no event: %s", error)
        return [], True
    found: list[VerdictEvent | PartEvent] = []
    for record in records:
        with contextlib.suppress(MessageError):  # of another schema version
            event = event_from(record.header)
            found += [event] if isinstance(event, VerdictEvent | PartEvent) else []
    return found, len(records) < MOST_RESUMED


def handle_command(
    cameras: Mapping[str, SupervisedCamera],
    select: Callable[[str, Answer], None],
    request: commands.Request,
    answer: Answer,
) -> None:
    """Pass a command on, and answer once it is done."""
    if isinstance(request, commands.SelectRequest):
        select(request.product, answer)
    elif request.camera in cameras:
        cameras[request.camera].trigger(PartRequest(request.part_id, answer))
    else:
        detail = f"there is no camera {request.camera!r}; expected one of {', '.join(sorted(cameras))}"
        answer(commands.refusal("unknown_camera", detail))


@contextlib.contextmanager
def bound_addresses(addresses: Mapping[str, str], faults: Faults) -> Iterator[None]:
    """Bind all addresses until the context ends, so that two of one place are found whatever their names; collect what
    cannot be bound, by the keys that name them. Nothing stays of it. Accept one in the service's runtime folder if
    systemd has not created it yet.
    """
    with zmq.Context() as context, contextlib.ExitStack() as until_end:
        for key, address in addresses.items():
            scheme, _, path = address.partition("://")
            if scheme == "ipc" and path.startswith(f"{RUNTIME_FOLDERS}/") and not Path(path).parent.exists():
                continue
            with faults.collected():
                bind(until_end.enter_context(context.socket(zmq.XPUB)), address, key)
                if scheme == "ipc":
                    until_end.callback(Path(path).unlink, missing_ok=True)  # ZeroMQ leaves its socket
        yield
