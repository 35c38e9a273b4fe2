"""After a death: what was in flight then is told first, and what is in flight now is noted for the next time."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DeliveryError
from edge.frames import Watermark
from edge.inspection.in_flight_log import InFlightLog, PreviousRun
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome, Unjudged
from edge.util.file_lock import open_locked
from edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

_CRASHED = Unjudged("dropped", "crashed", "the service ended before there was a verdict, and was started again")


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Keep other lines out of a folder, as long as this process lives: each would take the other's frames in flight for
    its own.

    Raises:
        DeliveryError: another line has it.
    """
    with contextlib.ExitStack() as at_end:
        if folder is not None:
            # One that cannot be opened has nothing to be kept from others; that nothing can be kept is said later.
            with contextlib.suppress(OSError):
                try:
                    # The folder itself is locked: that needs no room on a disk, and no right to write.
                    at_end.callback(os.close, open_locked(folder, os.O_RDONLY | os.O_DIRECTORY))
                except BlockingIOError as error:
                    raise DeliveryError(
                        f"{folder} belongs to another line that is running; give each line its own STATE_DIRECTORY, "
                        "or end the other one"
                    ) from error
        yield


@dataclass(frozen=True)
class Unjournalled:
    """Frames that a boot told of in events that no journal holds."""

    boot_id: str
    cameras: list[str]
    frames: int | None
    """How many at least; None: nobody knows."""


def find_unjournalled(
    run: PreviousRun, journalled: Mapping[str, Watermark], since_ns: int | None = None
) -> Unjournalled | None:
    """What the last run told of and the journal does not hold.

    Of a camera that the journal knows nothing of, nothing is missing if the journal is new; if it was there during the
    run, a death came before the first event of that camera was kept.

    Args:
        journalled: per camera, how far its events are in the journal.
        since_ns: when the journal was made, UTC; None: there is none, or nobody knows.
    """
    was_there = since_ns is not None and since_ns < run.written_at_ns
    cameras: list[str] = []
    frames: int | None = 0
    boot_id = ""
    for camera, told in run.reported.items():
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
    return Unjournalled(boot_id, cameras, frames) if cameras else None


def recover(
    run: PreviousRun,
    ledger: Ledger,
    in_flight: InFlightLog,
    emit: Callable[[Outcome], None],
    until_sent: Callable[[], None] = lambda: None,
) -> None:
    """Tell of the frames that were in flight when the last run died, and begin to note those of this one.

    They are booked in this run's ledger, as its first. Of a camera that the line has no more, they are logged.

    Args:
        until_sent: waits until what was told is kept and sent: a death before that must find the record as it was.
    """
    cameras = ledger.accounts()
    for stamp in run.in_flight:
        if stamp.camera not in cameras:
            logger.error("camera %s is gone, with %d frames that were in flight", utf8_safe(stamp.camera), stamp.frames)
            continue
        number = ledger.captured(stamp.camera, stamp.frames)
        emit(Outcome(stamp.with_number(number), unjudged=_CRASHED))
        ledger.dropped(stamp.camera, _CRASHED.reason, stamp.frames)
    if run.in_flight:
        until_sent()
    in_flight.begin()
