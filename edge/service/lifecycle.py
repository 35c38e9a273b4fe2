"""The service's life cycle: start, serve, shut down. Only this module handles signals."""

import contextlib
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

from heatline.edge.config import LineConfig
from heatline.edge.delivery.auth import Access
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.errors import DeliveryError, EngineError, Faults
from heatline.edge.frames import BadFrame, FrameRule
from heatline.edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from heatline.edge.inspection.inspector import outcome_without
from heatline.edge.inspection.ledger import Lane, Ledger
from heatline.edge.inspection.pipeline import Camera, Pipeline
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.pictures import picture_socket
from heatline.edge.monitor.store import evidence_folder
from heatline.edge.service.changeover import Changeover, PreparedSetup, ProductMemory, describe_setup, prepare
from heatline.edge.service.events import EventEmitter, Heartbeat
from heatline.edge.service.line import (
    PARTS_OPEN,
    Line,
    handle_command,
    journalled_parts,
    lock_folder,
    open_cameras,
    open_journal,
    part_journal,
)
from heatline.edge.service.sidecar import Shadow, Sidecar
from heatline.edge.service.status import StatusMonitor
from heatline.edge.util.systemd import notify, notify_starting, publish_address, state_folder
from heatline.edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
STOP_WITHIN_SECONDS = 15.0
_CRASHED = "the service ended before there was a verdict, and was started again"


class Service:
    """Inspects until it is stopped or until every camera has sent its last frame. The stem of the line's file is the
    line's name, and a reload reads the file again.
    """

    def __init__(self, path: Path, config: LineConfig) -> None:
        self._path, self._config = path, config
        self._state_folder = state_folder(otherwise=config.journal.folder)
        # Plain attributes: a threading.Event set by a signal handler deadlocks if the main thread holds its lock.
        self._stopping = False
        self._reload_wanted = False
        self._reload_by: str | None = None
        self._parts_ended = False
        self.leaves_change_running = False
        """Whether a change is still being prepared at the end: an ordinary exit of Python would then abort."""

    def stop(self) -> None:
        """Ask a running service to finish the frames in flight and end. Any thread, any number of times."""
        self._stopping = True

    def reload(self, by: str | None = None) -> None:
        """Ask a running service to read its file again and activate it. Any thread, any number of times."""
        self._reload_by = by
        self._reload_wanted = True

    def run(self) -> None:
        """Start, inspect, and shut down in order: cameras first, publisher last, so that no finished result is lost. A
        HeatlineError: the service cannot start, or did not finish the frames in flight.
        """
        with contextlib.ExitStack() as at_end:
            line, changeover = self._start(at_end)
            status = StatusMonitor(line, changeover)
            try:
                self._serve(line, changeover, status)
            finally:
                in_time = self._shut_down(line, changeover, status)
            line.pipeline.check()
            if not in_time:
                raise EngineError(
                    f"the frames in flight were not finished within {STOP_WITHIN_SECONDS:.0f} s; see the log"
                )

    def _start(self, at_end: contextlib.ExitStack) -> tuple[Line, Changeover]:
        """Open all parts of the line. They are closed at the end in reverse order."""
        config, folder = self._config, self._state_folder
        if config.evidence is not None:
            evidence_folder(self._path, config)
        if config.part is not None:
            marker = part_journal(config, folder) / PARTS_OPEN
            at_end.callback(self._forget_parts, marker)  # after the end of the journal
        at_end.enter_context(lock_folder(folder))
        notify_starting("loading the bundle")
        memory = ProductMemory(folder, [product.name for product in config.products], config.product)
        prepared = prepare(config.of_product(memory.selected or config.product), report_step=notify_starting)
        line = self._open_line(prepared, at_end)
        changeover = Changeover(line, self._path, config, prepared, memory)
        line.pipeline.start()
        line.heartbeat.begin()
        line.pipeline.probe()  # the line is READY only after a tile has passed all stages
        if config.commands.bind is not None:
            handle = partial(handle_command, line.cameras, changeover.select)
            commands = CommandServer(config.commands.bind, handle, line.access)
            commands.start()
            at_end.callback(commands.close)
        notify("READY=1")
        logger.info("ready: %s, publishing on %s", describe_setup(prepared), line.publisher.address)
        line.sidecar.start()
        line.shadow.begin(prepared.config)
        return line, changeover

    def _forget_parts(self, marker: Path) -> None:
        if self._parts_ended:
            marker.unlink(missing_ok=True)

    def _serve(self, line: Line, changeover: Changeover, status: StatusMonitor) -> None:
        """Inspect until the service is stopped or no camera has another frame."""
        self._wait_for_subscriber(line, status)
        if all(camera.settings.on_overload == "block" for camera in line.cameras.values()):
            # Also the first frames are stored, as no camera loses frames meanwhile.
            self._wait(status, lambda: not line.sidecar.recorder_is_starting)
        if self._config.part is not None:
            events, is_all = journalled_parts(self._config, self._state_folder)
            line.events.join_parts(self._config.part, events, is_all=is_all)
        self._recover(line, status)
        line.pipeline.begin()
        changeover.open()
        while not self._stopping and not line.pipeline.ended:
            status.update("RUNNING")
            time.sleep(POLL_SECONDS)
            line.events.expire_parts()
            line.pipeline.check()
            if self._reload_wanted:
                self._reload_wanted = False
                if not changeover.reload(self._reload_by):
                    self._reload_wanted = True

    def _shut_down(self, line: Line, changeover: Changeover, status: StatusMonitor) -> bool:
        """Finish the frames in flight and report that the line has stopped, also after a fault. Return whether all
        frames were finished in time.
        """
        notify("STOPPING=1")
        logger.info("stopping: %s", "as requested" if self._stopping else "no camera has another frame")
        changeover.close()
        status.is_stopping = True
        in_time = line.pipeline.stop(STOP_WITHIN_SECONDS, lambda: status.update("RUNNING"))
        self._parts_ended = line.events.expire_parts(is_stopping=True)
        self.leaves_change_running = not changeover.join()
        status.update("STOPPED")
        return in_time

    def _open_line(self, prepared: PreparedSetup, at_end: contextlib.ExitStack) -> Line:
        config, folder, boot_id = self._config, self._state_folder, uuid.uuid4().hex
        name = utf8_safe(self._path.stem)
        access = Access.read(config.security.key, config.security.allowed)
        journal = at_end.enter_context(open_journal(name, boot_id, config.journal, folder, access))
        publisher = Publisher(config.events.bind, journal, access)
        publisher.start()
        at_end.callback(publisher.close)
        publish_address(publisher.address)
        in_flight = InFlightLog(None if folder is None else folder / FILE_NAME, boot_id)
        lanes = {each.name: Lane(each.waiting_frames, each.on_overload) for each in prepared.config.cameras}
        ledger = Ledger(lanes, prepared.setup, in_flight)
        heartbeat = Heartbeat()
        feed = None
        try:
            feed = PictureFeed(picture_socket(self._path))
        except DeliveryError as error:
            logger.error("%s", error)
        sidecar, shadow = Sidecar(self._path, config, feed), Shadow(self._path, config, feed)
        at_end.callback(sidecar.close)
        at_end.callback(shadow.close)
        offer = {} if feed is None else {"offer": feed.offer}
        events = EventEmitter(name, boot_id, publisher, heartbeat, in_flight, prepared.setup, **offer)
        if feed is not None:
            feed.on_reload, feed.on_user_action = self.reload, events.emit_user_action
        notify_starting("opening the cameras")
        cameras, faults = prepared.config.cameras, Faults()
        opened = at_end.enter_context(
            open_cameras(
                cameras, events.emit_alarm, all_must_open=False, faults=faults, stopping=lambda: self._stopping
            )
        )
        faults.raise_found()
        sources = {each.name: Camera(opened[each.name], FrameRule(each.size, each.pixel_format)) for each in cameras}
        return Line(
            cameras=opened,
            pipeline=Pipeline(sources, ledger, events.emit_outcome, events.pass_probe),
            ledger=ledger,
            in_flight=in_flight,
            events=events,
            publisher=publisher,
            journal=journal,
            access=access,
            heartbeat=heartbeat,
            sidecar=sidecar,
            shadow=shadow,
        )

    def _wait_for_subscriber(self, line: Line, status: StatusMonitor) -> None:
        wait_s = self._config.events.wait_for_subscriber_s
        status.waits_for_s, deadline_s = wait_s or None, time.monotonic() + wait_s
        self._wait(status, lambda: line.publisher.wait_for_subscriber(0) or time.monotonic() >= deadline_s)
        if wait_s and time.monotonic() >= deadline_s:
            logger.warning("no client subscribed within %g s; inspection starts without one", wait_s)
        status.waits_for_s = None

    def _recover(self, line: Line, status: StatusMonitor) -> None:
        """Report the frames that were in flight when the previous run died, and log those in flight from now on.

        They are the first frames in this run's ledger. If the service dies before their events are sent, the next run
        must find the old log.
        """
        journalled, ledger = line.journal.progress, line.ledger
        run = read_previous_run(line.in_flight.path, journalled)
        if missing := run.unjournalled(journalled, line.journal.since_ns):
            line.events.emit_unjournalled(run.boot_id, missing)
        for stamp in run.in_flight:
            if stamp.camera in line.cameras:
                ledger.complete(outcome_without(ledger.announce(BadFrame(stamp, "crashed", _CRASHED, "dropped"))))
            else:
                words = "the line no longer has camera %s, of which %d frames were in flight"
                logger.error(words, utf8_safe(stamp.camera), stamp.frames)
        if run.in_flight:
            sent = threading.Event()
            self._wait(status, lambda: not any(account.in_flight for account in ledger.accounts().values()))
            line.events.call_when_sent(sent.set)
            self._wait(status, sent.is_set)
        line.in_flight.begin({name: account.captured for name, account in ledger.accounts().items()})

    def _wait(self, status: StatusMonitor, until: Callable[[], bool]) -> None:
        """Report that the line starts, until a condition holds or the service is stopped."""
        status.update("STARTING")
        while not until() and not self._stopping:
            time.sleep(POLL_SECONDS)
            status.update("STARTING")


@contextlib.contextmanager
def signal_handlers(service: Service) -> Iterator[None]:
    """Stop the service at SIGTERM and SIGINT, and reload it at SIGHUP. Restore the former handlers at the end."""
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
        signal.SIGTERM: lambda _number, _frame: service.stop(),
        signal.SIGINT: lambda _number, _frame: service.stop(),
        signal.SIGHUP: lambda _number, _frame: service.reload(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
