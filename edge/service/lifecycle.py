"""The service's life: start, serve, shut down. The only place that touches signals."""

import contextlib
import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from edge.config import LineConfig
from edge.delivery.publisher import Publisher
from edge.delivery.security.access import Access
from edge.errors import EngineError
from edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.inspection.pipeline import Pipeline
from edge.service.changeover import Changeover
from edge.service.events import EventEmitter
from edge.service.journal import open_journal
from edge.service.line import Line, open_cameras, pipeline_cameras
from edge.service.loading import Prepared, describe, prepare
from edge.service.product_memory import ProductMemory
from edge.service.readiness import Heartbeat
from edge.service.recovery import find_unjournalled, locked, recover
from edge.service.requests import RequestDesk, serve_requests
from edge.service.status import StatusMonitor
from edge.service.systemd import notify, notify_starting, publish_address, state_folder
from edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
STOP_WITHIN_SECONDS = 15.0


class Service:
    """Inspects until told to stop or until every camera has shown its last frame.

    Args:
        path: the line's file: its name is the line's, and it is read again at a reload.
        config: what it says now.
    """

    def __init__(self, path: Path, config: LineConfig) -> None:
        self._path, self._config = path, config
        # Not Events: set by a signal while the main thread waits for them, these would lock up.
        self._stopping = False
        self._reload_wanted = False
        self.leaves_work_behind = False
        """Whether a change is still being made ready at the end: Python's own way out would abort under it."""

    @property
    def _state_folder(self) -> Path | None:
        return state_folder(otherwise=self._config.journal.folder)

    def stop(self) -> None:
        """Ask a running service to finish what it has grabbed and end. Any thread, any number of times."""
        self._stopping = True

    def reload(self) -> None:
        """Ask a running service to put in force what its file says now. Any thread, any number of times."""
        self._reload_wanted = True

    def run(self) -> None:
        """Start, inspect, and shut down in order: cameras first, publisher last, so that no finished result is lost.

        Raises:
            HeatlineError: it cannot start, or could not finish what it had grabbed.
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
        """Open all that the line needs; what is opened is closed at the end, the last first."""
        config, folder = self._config, self._state_folder
        at_end.enter_context(locked(folder))
        notify_starting("loading the bundle")
        self._warn_of_missing_products()
        memory = ProductMemory(folder, [product.name for product in config.products], config.product)
        prepared = prepare(config.of_product(memory.selected or config.product), say=notify_starting)
        line = self._open_line(prepared, at_end)
        changeover = Changeover(line, self._path, config, prepared, memory)
        line.pipeline.start()
        line.heartbeat.begin()
        line.pipeline.probe()  # no part may come before something has gone the whole way
        desk = RequestDesk(line.cameras, changeover.select)
        at_end.enter_context(serve_requests(config.commands.bind, desk, line.access))
        notify("READY=1")
        logger.info("ready: %s, publishing on %s", describe(prepared), line.publisher.address)
        return line, changeover

    def _serve(self, line: Line, changeover: Changeover, status: StatusMonitor) -> None:
        """Inspect until told to stop, or until no camera brings another frame."""
        self._wait_for_subscriber(line, status)
        self._recover(line, status)
        line.pipeline.begin()
        changeover.open()
        self._main_loop(line, changeover, status)

    def _main_loop(self, line: Line, changeover: Changeover, status: StatusMonitor) -> None:
        while not self._stopping and not line.pipeline.ended:
            status.look("RUNNING")
            time.sleep(POLL_SECONDS)
            line.pipeline.check()
            if self._reload_wanted:
                self._reload_wanted = False
                if not changeover.reload():
                    self._reload_wanted = True

    def _shut_down(self, line: Line, changeover: Changeover, status: StatusMonitor) -> bool:
        """Finish the frames in flight, and say that the line has stopped, also after a fault; whether all were finished
        in time.
        """
        notify("STOPPING=1")
        logger.info("stopping: %s", "it was told to" if self._stopping else "no camera brings another frame")
        changeover.close()
        status.begin_to_stop()
        in_time = line.pipeline.stop(STOP_WITHIN_SECONDS, lambda: status.look("RUNNING"))
        self.leaves_work_behind = not changeover.join()
        status.say_stopped()
        return in_time

    def _open_line(self, prepared: Prepared, at_end: contextlib.ExitStack) -> Line:
        config, folder, boot_id = self._config, self._state_folder, uuid.uuid4().hex
        name = utf8_safe(self._path.stem)
        access = Access.read(config.security.key, config.security.allowed)
        journal = at_end.enter_context(open_journal(name, boot_id, config.journal, folder, access))
        publisher = Publisher(config.events.bind, journal, access)
        publisher.start()
        at_end.callback(publisher.close)
        publish_address(publisher.address)
        ledger = Ledger([camera.name for camera in prepared.config.cameras])
        in_flight = InFlightLog(None if folder is None else folder / FILE_NAME, ledger, boot_id)
        heartbeat = Heartbeat()
        events = EventEmitter(name, boot_id, publisher, heartbeat, in_flight, prepared.setup)
        notify_starting("opening the cameras")
        opening = open_cameras(
            prepared.config.cameras, events.alarm, ledger, all_must_open=False, stopping=lambda: self._stopping
        )
        opened = at_end.enter_context(opening)
        return Line(
            cameras={camera: each.camera for camera, each in opened.items()},
            pipeline=Pipeline(
                pipeline_cameras(opened), prepared.setup, ledger, events.outcome, events.probe, in_flight
            ),
            ledger=ledger,
            in_flight=in_flight,
            events=events,
            publisher=publisher,
            journal=journal,
            access=access,
            heartbeat=heartbeat,
        )

    def _warn_of_missing_products(self) -> None:
        """Better than at the changeover; `heatline check` proves all of them."""
        for product in self._config.products:
            if product.bundle is not None and not product.bundle.is_dir():
                logger.warning("product %s cannot be selected: there is no folder %s", product.name, product.bundle)

    def _wait_for_subscriber(self, line: Line, status: StatusMonitor) -> None:
        status.look("STARTING")
        wait_s = self._config.events.wait_for_subscriber_s
        give_up = time.monotonic() + wait_s
        while wait_s and not self._stopping and not line.publisher.wait_for_subscriber(POLL_SECONDS):
            status.look("STARTING")
            if time.monotonic() > give_up:
                logger.warning("nobody subscribed within %g s; inspecting all the same", wait_s)
                return

    def _recover(self, line: Line, status: StatusMonitor) -> None:
        """Tell what became of the last run's frames, and note what is in flight from now on."""
        journalled = line.journal.progress
        run = read_previous_run(line.in_flight.path, journalled)
        if (missing := find_unjournalled(run, journalled, line.journal.since_ns)) is not None:
            line.events.unjournalled(missing)

        def emit(outcome: Outcome) -> None:
            line.events.outcome(replace(outcome, setup=line.pipeline.setup))

        def until_sent() -> None:
            sent = threading.Event()
            line.events.call_after_all(sent.set)
            while not sent.wait(POLL_SECONDS) and not self._stopping:
                status.look("STARTING")

        recover(run, line.ledger, line.in_flight, emit, until_sent)


@contextlib.contextmanager
def obeying_signals(service: Service) -> Iterator[None]:
    """SIGTERM and SIGINT stop the service, SIGHUP reloads it; the handlers that were there are put back at the end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        service.stop()

    def reload(_number: int, _frame: FrameType | None) -> None:
        service.reload()

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
