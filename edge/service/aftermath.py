"""After a death: what was in flight then is told first, and what is in flight now is noted for the next time."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.errors import DeliveryError
from edge.inspection.flight_recorder import FILE_NAME, FlightRecorder, in_flight_at_the_end
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged
from edge.text import sayable

logger = logging.getLogger(__name__)

_CRASHED = Unjudged("dropped", "crashed", "the service ended before there was a verdict, and was started again")


def state_folder() -> Path | None:
    """Where the service may keep something, as systemd says (StateDirectory); None: nowhere."""
    named = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(named) if named else None


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


def tell_of_the_last_run(folder: Path | None, ledger: Ledger, tell: Callable[[Outcome], None]) -> FlightRecorder | None:
    """Tell of the frames that were in flight when the last run died, and begin to note those of this one.

    They are booked in this run's ledger, as its first. Of a camera that the line has no more, they are logged.
    """
    if folder is None:
        return None
    cameras = ledger.accounts()
    for stamp in in_flight_at_the_end(folder / FILE_NAME):
        if stamp.camera not in cameras:
            logger.error("camera %s is gone, with %d frames that were in flight", sayable(stamp.camera), stamp.frames)
            continue
        number = ledger.captured(stamp.camera, stamp.frames)
        tell(Outcome(stamp.numbered(number), unjudged=_CRASHED))
        ledger.dropped(stamp.camera, _CRASHED.reason, stamp.frames)
    try:
        return begin_to_note(folder, ledger)
    except OSError as error:
        path = folder / FILE_NAME
        logger.warning("%s cannot be written (%s): after a crash nobody will know what was in flight", path, error)
        return None


def begin_to_note(folder: Path, ledger: Ledger) -> FlightRecorder:
    """Note what is in flight from now on.

    Raises:
        OSError: nothing can be written.
    """
    told = {name: account.captured - account.in_flight for name, account in ledger.accounts().items()}
    return FlightRecorder(folder / FILE_NAME, told)
