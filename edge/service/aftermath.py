"""After a death: what was in flight then is told first, and what is in flight now is noted for the next time."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DeliveryError
from edge.inspection.flight_recorder import FILE_NAME, FlightRecorder, LastRun, Told, last_run
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged
from edge.text import sayable

logger = logging.getLogger(__name__)

_CRASHED = Unjudged("dropped", "crashed", "the service ended before there was a verdict, and was started again")


def state_folder(otherwise: Path | None = None) -> Path | None:
    """Where the service may keep something, as systemd says (StateDirectory); None: nowhere.

    Args:
        otherwise: where systemd says nothing.
    """
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(named) if named else otherwise


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keep other lines out of a folder, as long as this process lives: each would take the other's frames in flight for
    its own.

    Raises:
        DeliveryError: another line has it.
    """
    with contextlib.ExitStack() as at_end:
        if folder is not None:
            # One that cannot be opened has nothing to be kept from others; that nothing can be kept is said later.
            with contextlib.suppress(OSError):
                # The folder itself is locked: that needs no room on a disk, and no right to write.
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                at_end.callback(os.close, fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise DeliveryError(
                        f"{folder} belongs to another line that is running; give each line its own STATE_DIRECTORY, "
                        "or end the other one"
                    ) from error
        yield


def read_last_run(folder: Path | None, journalled: Mapping[str, Told]) -> LastRun:
    """What is known of the last run.

    Args:
        journalled: per camera, how far its events are in the journal.
    """
    return LastRun([], {}) if folder is None else last_run(folder / FILE_NAME, journalled)


@dataclass(frozen=True)
class ToldLiveAlone:
    """Frames that a boot told of in events that no journal holds."""

    boot_id: str
    cameras: list[str]
    frames: int | None
    """How many at least; None: nobody knows."""


def told_live_alone(run: LastRun, journalled: Mapping[str, Told], since_ns: int | None = None) -> ToldLiveAlone | None:
    """What the last run told of and the journal does not hold.

    Of a camera that the journal knows nothing of, nothing is missing if the journal is new; if it was there during the
    run, a death came before the first event of that camera was kept.

    Args:
        journalled: per camera, how far its events are in the journal.
        since_ns: when the journal was made, UTC; None: there is none, or nobody knows.
    """
    was_there = since_ns is not None and since_ns < run.noted_at_ns
    cameras: list[str] = []
    frames: int | None = 0
    boot_id = ""
    for camera, told in run.told.items():
        kept = journalled.get(camera)
        if not told.frame_number or (kept is None and not was_there):
            continue
        if kept is None:
            frames = None if frames is None else frames + told.frame_number
        elif kept.boot_id != told.boot_id:
            frames = None
        elif told.frame_number <= kept.frame_number:
            continue
        elif frames is not None:
            frames += told.frame_number - kept.frame_number
        cameras.append(camera)
        boot_id = told.boot_id
    return ToldLiveAlone(boot_id, cameras, frames) if cameras else None


def tell_of_the_last_run(
    run: LastRun,
    folder: Path | None,
    ledger: Ledger,
    boot_id: str,
    tell: Callable[[Outcome], None],
    until_sent: Callable[[], None] = lambda: None,
) -> FlightRecorder | None:
    """Tell of the frames that were in flight when the last run died, and begin to note those of this one.

    They are booked in this run's ledger, as its first. Of a camera that the line has no more, they are logged.

    Args:
        until_sent: waits until what was told is kept and sent: a death before that must find the record as it was.
    """
    if folder is None:
        return None
    cameras = ledger.accounts()
    for stamp in run.in_flight:
        if stamp.camera not in cameras:
            logger.error("camera %s is gone, with %d frames that were in flight", sayable(stamp.camera), stamp.frames)
            continue
        number = ledger.captured(stamp.camera, stamp.frames)
        tell(Outcome(stamp.numbered(number), unjudged=_CRASHED))
        ledger.dropped(stamp.camera, _CRASHED.reason, stamp.frames)
    if run.in_flight:
        until_sent()
    try:
        return begin_to_note(folder, ledger, boot_id)
    except OSError as error:
        path = folder / FILE_NAME
        logger.warning("%s cannot be written (%s): after a crash nobody will know what was in flight", path, error)
        return None


def begin_to_note(folder: Path, ledger: Ledger, boot_id: str) -> FlightRecorder:
    """Note what is in flight from now on.

    Raises:
        OSError: nothing can be written.
    """
    told = {name: account.captured - account.in_flight for name, account in ledger.accounts().items()}
    return FlightRecorder(folder / FILE_NAME, told, boot_id)
