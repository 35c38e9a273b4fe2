"""Recovers after a crash: reports the frames that were in flight, then logs the frames in flight from now on."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Watermark
from heatline.edge.inspection.in_flight_log import InFlightLog, PreviousRun
from heatline.edge.inspection.ledger import Ledger
from heatline.edge.inspection.outcome import Outcome, Unjudged
from heatline.edge.util.files import open_locked
from heatline.edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

_CRASHED = Unjudged("dropped", "crashed", "the service ended before there was a verdict, and was started again")


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


@dataclass(frozen=True)
class Unjournalled:
    """Frames whose events a boot published and no journal holds."""

    boot_id: str
    cameras: list[str]
    frames: int | None
    """The least number; None: unknown."""


def find_unjournalled(
    run: PreviousRun, journalled: Mapping[str, Watermark], since_ns: int | None = None
) -> Unjournalled | None:
    """Return the frames that the previous run reported and the journal does not hold; None if there are none.

    The journal may know nothing of a camera. If the journal is new, nothing is missing. If it is older than the run,
    the service died before the first event of that camera was stored.

    Args:
        journalled: per camera, the last frame whose event the journal holds.
        since_ns: when the journal was created, UTC in ns; None: there is no journal, or the time is unknown.
    """
    is_older = since_ns is not None and since_ns < run.written_at_ns
    cameras: list[str] = []
    frames: int | None = 0
    boot_id = ""
    for camera, reported in run.reported.items():
        stored = journalled.get(camera)
        if not reported.frame_number or (stored is None and not is_older):
            continue
        if stored is None:
            frames = None if frames is None else frames + reported.frame_number
        elif stored.boot_id != reported.boot_id:
            frames = None
        elif reported.frame_number <= stored.frame_number:
            continue
        elif frames is not None:
            frames += reported.frame_number - stored.frame_number
        cameras.append(camera)
        boot_id = reported.boot_id
    return Unjournalled(boot_id, cameras, frames) if cameras else None


def recover(
    run: PreviousRun,
    ledger: Ledger,
    in_flight: InFlightLog,
    emit: Callable[[Outcome], None],
    wait_until_sent: Callable[[], None] = lambda: None,
) -> None:
    """Emit the frames that were in flight when the previous run died, then log the frames in flight of this run.

    They are the first frames in this run's ledger. Frames of a camera that the line no longer has are only logged.

    Args:
        wait_until_sent: waits until the emitted events are stored and sent. If the service dies before that, the next
            run must find the old log.
    """
    cameras = ledger.accounts()
    for stamp in run.in_flight:
        if stamp.camera not in cameras:
            logger.error(
                "the line no longer has camera %s, of which %d frames were in flight",
                utf8_safe(stamp.camera),
                stamp.frames,
            )
            continue
        number = ledger.captured(stamp.camera, stamp.frames)
        emit(Outcome(stamp.with_number(number), unjudged=_CRASHED))
        ledger.dropped(stamp.camera, _CRASHED.reason, stamp.frames)
    if run.in_flight:
        wait_until_sent()
    in_flight.begin()
