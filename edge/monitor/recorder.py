"""Stores pictures and marks of a running line: `python -m heatline.edge.monitor.recorder FILE`, the line's file.

The line starts this process with the lowest priority. It may be killed at any moment. If the disk is slow, it takes
fewer pictures, and the line skips and counts others. Once the line has ended, it stores the pictures that wait.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import cv2
import msgspec

from heatline.edge.config import load_config
from heatline.edge.errors import DeliveryError, HeatlineError
from heatline.edge.monitor.channel import MOST_SLOTS
from heatline.edge.monitor.client import PictureClient
from heatline.edge.monitor.evidence_place import evidence_folder, limits_of
from heatline.edge.monitor.inbox import Inbox
from heatline.edge.monitor.journal_marks import JournalMarks
from heatline.edge.monitor.picture import Picture
from heatline.edge.monitor.picture_place import picture_socket
from heatline.edge.monitor.writer import EvidenceWriter
from heatline.edge.util.process import NamedThread, waits_for_processor, yield_processor
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import state_folder
from heatline.edge.util.text import utf8_safe
from heatline.edge.wire.events import EvidenceState

logger = logging.getLogger("heatline.edge.monitor.recorder")  # this module is __main__

SLOTS = MOST_SLOTS
"""Pictures that wait here, so that defects in a row are stored. Only as much memory is in use as pictures have waited
at once: 240 MiB for 16 frames of 5 MP in RGB. The line gives fewer slots for larger frames.
"""
REPORT_EVERY_SECONDS = 1.0
COLLECT_EVERY_SECONDS = 1.0
"""Between looks for new marks and for pictures in the inbox."""
TIDY_EVERY_SECONDS = 60.0
SCAN_EVERY_SECONDS = 3600.0
RETRY_EVERY_SECONDS = 10.0
"""Between attempts to open a store that cannot be opened."""
HUNG_AFTER_SECONDS = 5.0
"""A call to the disk that takes longer is reported as a fault."""
LEAVE_WITHIN_SECONDS = 2.0
"""An entry in hand is completed in this time at the end, or given up."""


class Pictures(Protocol):
    """A source of pictures, as `PictureClient`."""

    def fileno(self) -> int: ...

    def receive(self, timeout_s: float | None) -> Picture | None: ...

    def report(self, state: EvidenceState, *, counted: bool) -> None: ...


class Recorder:
    """Stores pictures until the line ends or `stop` is called.

    A thread makes the calls to the disk, one after the other, so that a disk that does not answer is reported.

    Args:
        open_writer: opens the store; it is called again later if it fails.
        marks: people's marks in the line's journal; None: the line has none.
        inbox: pictures that other programs bring; None: they bring none.
        clock: monotonic clock, s.
    """

    def __init__(
        self,
        pictures: Pictures,
        open_writer: Callable[[], EvidenceWriter],
        marks: JournalMarks | None = None,
        inbox: Inbox | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pictures, self._open_writer, self._clock = pictures, open_writer, clock
        self._marks, self._inbox = marks, inbox
        self._writer: EvidenceWriter | None = None
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._stopping = False
        self._began_s: float | None = None
        """When the present call to the disk began; None: there is none."""
        self._caller: NamedThread | None = None
        """The thread that makes that call."""
        self._bug: BaseException | None = None
        self._state = EvidenceState()
        self._counted = False
        """Whether it is known what the store holds, or that it cannot be opened."""
        self._store_fault: str | None = None
        self._tidy_fault: str | None = None
        self._log = RateLimitedLog(logger)
        self._reported_s = self._tidied_s = self._collected_s = float("-inf")
        self._more = False
        """Whether marks or pictures were left for the next look."""
        self._scanned_s = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._waker.close()

    def stop(self) -> None:
        """End after the entry in hand. Any thread, also a signal handler."""
        self._stopping = True
        self._wake_up()

    def run(self) -> bool:
        """Store pictures; return whether the last call to the disk has returned."""
        try:
            while not self._stopping:
                self._step()
        except DeliveryError as error:
            logger.info("%s", error)
        self._stopping = True
        give_up_s = self._clock() + LEAVE_WITHIN_SECONDS
        self._finish_call(give_up_s)
        if self._began_s is None and self._writer is not None:
            self._begin(self._collect, self._writer)
            self._finish_call(give_up_s)
        if self._began_s is not None:
            return False
        self._pictures.report(self.state(), counted=self._counted)
        for each in (self._writer, self._marks):
            if each is not None:
                each.close()
        return True

    def _finish_call(self, give_up_s: float) -> None:
        """Wait until the disk has answered, or until a time."""
        while self._began_s is not None and self._clock() < give_up_s:
            self._wait(give_up_s - self._clock())

    def state(self) -> EvidenceState:
        """Return what is stored, what came and could not be stored, and what is wrong now. The line adds what it did
        not send.
        """
        hung_s = self._hung_s()
        fault = self._store_fault or self._tidy_fault
        if hung_s is not None:
            fault = f"the disk has not answered for {hung_s:.0f} s; check the disk"
        return msgspec.structs.replace(self._state, fault=fault)

    def _step(self) -> None:
        """Report, start what is due, and wait for a picture or a moment."""
        if self._clock() - self._reported_s >= REPORT_EVERY_SECONDS:
            self._reported_s = self._clock()
            self._pictures.report(self.state(), counted=self._counted)
        every_s = RETRY_EVERY_SECONDS if self._writer is None else TIDY_EVERY_SECONDS
        if self._began_s is None and self._clock() - self._tidied_s >= every_s:
            self._tidied_s = self._clock()
            self._begin(self._tidy)
        if self._clock() - self._collected_s >= COLLECT_EVERY_SECONDS:
            self._begin_collecting()
        if self._wait(0.0 if self._more and self._began_s is None else REPORT_EVERY_SECONDS):
            picture = self._pictures.receive(0)
            if picture is not None:
                self._begin(self._store, picture)
        elif self._more:
            self._begin_collecting()
        if self._bug is not None:
            raise self._bug

    def _wait(self, timeout_s: float) -> bool:
        """Wait until something happens; return whether a picture waits. None is taken during a call to the disk."""
        idle, hung = self._began_s is None, self._hung_s() is not None
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if (idle or hung) and not self._stopping:
            poll.register(self._pictures, select.POLLIN if idle else 0)  # 0: only the end of the line
        ready = dict(poll.poll(max(0.0, timeout_s) * 1e3))
        if self._wake.fileno() in ready:
            self._wake.recv(4096)
        if self._pictures.fileno() in ready and not idle:
            raise DeliveryError("the line has ended, and the disk does not answer")
        return self._pictures.fileno() in ready

    def _hung_s(self) -> float | None:
        """Return the seconds for which the disk has not answered; None: it answers, or has not been asked yet because
        others need the processor.
        """
        began_s, caller = self._began_s, self._caller  # the other thread resets the time
        waited_s = 0.0 if began_s is None else self._clock() - began_s
        if caller is None or waited_s < HUNG_AFTER_SECONDS or waits_for_processor(caller):
            return None
        return waited_s

    def _begin(self, call: Callable[..., None], *arguments: object) -> None:
        self._began_s = self._clock()
        self._caller = NamedThread("evidence", self._make, call, *arguments)
        self._caller.start()

    def _make(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except BaseException as error:  # it is raised again in the main thread
            self._bug = error
        finally:
            self._began_s = None
            self._wake_up()

    def _store(self, picture: Picture) -> None:
        kept, skipped = False, True
        try:
            if self._writer is not None:
                kept = self._writer.write(picture)
                skipped, self._store_fault = False, None
        except HeatlineError as error:
            self._store_fault = utf8_safe(str(error))
            self._log.error("a picture was not stored: %s", error)
        finally:
            picture.release()
        self._count(kept=kept, skipped=skipped)

    def _begin_collecting(self) -> None:
        if self._began_s is None and self._writer is not None:
            self._collected_s = self._clock()
            self._begin(self._collect, self._writer)

    def _collect(self, writer: EvidenceWriter) -> None:
        """Store new marks, and a picture of the inbox."""
        self._more = False
        outcome = None
        try:
            if self._marks is not None:
                writer.marks.add(self._marks.read())
                if writer.marks.found_damaged:
                    writer.marks.found_damaged = False
                    self._marks.start_over()
                self._more = self._marks.more
            if self._inbox is not None:
                outcome = self._inbox.adopt(writer)
                self._more = self._more or outcome is not None
        except HeatlineError as error:
            self._log.error("marks or pictures of the inbox were not stored: %s", error)
        self._count(kept=outcome == "adopted", skipped=outcome == "refused")

    def _tidy(self) -> None:
        """Open the store if it is not open, and delete what is beyond its limits."""
        try:
            if self._writer is None:
                self._writer = self._open_writer()
            scan = self._clock() - self._scanned_s >= SCAN_EVERY_SECONDS
            if scan:
                self._scanned_s = self._clock()
            self._writer.tidy(scan=scan)
            self._tidy_fault = None
        except HeatlineError as error:
            self._tidy_fault = utf8_safe(str(error))
            self._log.error("the evidence store: %s", error)
        self._count()

    def _count(self, *, kept: bool = False, skipped: bool = False) -> None:
        held = None if self._writer is None else self._writer.retention
        self._state = EvidenceState(
            kept=self._state.kept + kept,
            skipped=self._state.skipped + skipped,
            stored=0 if held is None else held.entries,
            size_bytes=0 if held is None else held.size_bytes,
            oldest_at_ns=None if held is None else held.oldest_at_ns,
        )
        self._counted = True

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._waker.send(b"\0")


def main() -> int:
    """Store the pictures of the line whose file the first argument names; return the exit code."""
    yield_processor()
    cv2.setNumThreads(1)  # the other cores belong to inspection
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _record(Path(sys.argv[1]))
    except HeatlineError as error:
        logger.error("no pictures are stored: %s", error)
        return error.exit_code


def _record(file: Path) -> int:
    config = load_config(file)
    store = evidence_folder(file, config, state_folder())
    assert config.evidence is not None  # or it has no folder
    journal = config.journal.folder_in(state_folder())
    marks = None if journal is None else JournalMarks(journal)
    limits = limits_of(config.evidence)
    with (
        PictureClient(picture_socket(file), slots=SLOTS, good_every=config.evidence.good_every) as client,
        Recorder(client, lambda: EvidenceWriter(store, utf8_safe(file.stem), limits), marks, Inbox(store)) as recorder,
    ):
        signal.signal(signal.SIGTERM, lambda *_: recorder.stop())
        if not recorder.run():
            logger.warning("the disk of %s does not answer; the entry in hand is given up", store)
            os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
