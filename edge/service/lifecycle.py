"""The service's life: startup, main loop, shutdown. The only place that touches signals."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from edge.config import LineConfig
from edge.delivery.command_server import CommandServer
from edge.delivery.publisher import Publisher
from edge.delivery.security.access import Access
from edge.errors import EngineError
from edge.inspection.flight_recorder import FlightRecorder
from edge.inspection.ledger import Ledger
from edge.inspection.pipeline import Pipeline
from edge.service.address_file import tell_where_events_are
from edge.service.aftermath import (
    begin_to_note,
    held,
    read_last_run,
    state_folder,
    tell_of_the_last_run,
    told_live_alone,
)
from edge.service.changeover import Changeover, in_words
from edge.service.heartbeat import Heartbeat
from edge.service.keeping import Keeping, kept
from edge.service.line import OpenCamera, open_cameras, pipeline_cameras
from edge.service.oversight import Oversight
from edge.service.preparing import Prepared, prepare
from edge.service.product_memory import remembered_product
from edge.service.reporter import Reporter
from edge.service.requests import RequestDesk
from edge.service.systemd_notify import notify
from edge.service.teller import Teller

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
        with held(self._state_folder):
            self._run()

    def _run(self) -> None:
        _say_starting("loading the bundle")
        self._warn_of_missing_products()
        selected, unremembered = self._selected_before()
        prepared = prepare(self._config.of_product(selected or self._config.product), say=_say_starting)
        reporter = Reporter(self._path.stem)
        heartbeat = Heartbeat()
        access = Access.read(self._config.security.key, self._config.security.allowed)
        with kept(self._config.journal, self._state_folder, reporter, access) as keeping:
            publisher = Publisher(self._config.events.bind, keeping.journalling, access)
            publisher.start()
            tell_where_events_are(publisher.address)
            teller = Teller(reporter, publisher, heartbeat, prepared.setup)
            _say_starting("opening the cameras")
            try:
                with open_cameras(
                    prepared.config.cameras, teller.alarm, all_must_open=False, stopping=lambda: self._stopping
                ) as cameras:
                    self._inspect(
                        prepared, selected, unremembered, teller, heartbeat, publisher, keeping, access, cameras
                    )
            finally:
                publisher.close()

    def _inspect(
        self,
        prepared: Prepared,
        selected: str | None,
        unremembered: str | None,
        teller: Teller,
        heartbeat: Heartbeat,
        publisher: Publisher,
        keeping: Keeping,
        access: Access,
        cameras: dict[str, OpenCamera],
    ) -> None:
        ledger = Ledger(list(cameras))
        supervised = {name: each.camera for name, each in cameras.items()}
        pipeline = Pipeline(pipeline_cameras(cameras), prepared.setup, ledger, teller.verdict, teller.probe)
        changeover = Changeover(
            self._path,
            self._config,
            prepared,
            pipeline,
            supervised,
            teller,
            selected=selected,
            unremembered=unremembered,
            remember_in=self._state_folder,
            reloading=_tell_systemd_of_a_reload,
        )
        oversight = Oversight(teller, heartbeat, ledger, supervised, pipeline, changeover)
        oversight.unjournalled = keeping.why_not
        oversight.refused = access.refusals.counts
        pipeline.start()
        heartbeat.begin()
        pipeline.probe()  # no part may come before something has gone the whole way
        with self._commands(RequestDesk(supervised, changeover.select), access):
            notify("READY=1")
            logger.info("ready: %s, publishing on %s", in_words(prepared), publisher.address)
            try:
                self._wait_for_subscriber(publisher, oversight)
                recorder = self._tell_of_the_last_run(ledger, teller, pipeline, oversight, keeping)
                for name, account in ledger.accounts().items():
                    supervised[name].count_from(account.captured)
                teller.note_in(recorder)
                pipeline.begin(recorder)
                changeover.open()
                self._main_loop(pipeline, changeover, lambda: oversight.look("RUNNING"))
            finally:
                notify("STOPPING=1")
                logger.info("stopping: %s", "it was told to" if self._stopping else "no camera brings another frame")
                changeover.close()
                oversight.begin_to_stop()
                in_time = pipeline.stop(STOP_WITHIN_SECONDS, lambda: oversight.look("RUNNING"))
                self.leaves_work_behind = not changeover.join()
                oversight.say_stopped()  # also after a fault
        pipeline.check()
        if not in_time:
            raise EngineError(f"the frames in flight were not finished within {STOP_WITHIN_SECONDS:.0f} s; see the log")

    def _warn_of_missing_products(self) -> None:
        """Better than at the changeover; `heatline check` proves all of them."""
        for product in self._config.products:
            if product.bundle is not None and not product.bundle.is_dir():
                logger.warning("product %s cannot be selected: there is no folder %s", product.name, product.bundle)

    def _selected_before(self) -> tuple[str | None, str | None]:
        """The product that was selected before this start, if the file still has it; and why that is not known."""
        names = [product.name for product in self._config.products]
        if not names:
            return None, None
        try:
            selected = remembered_product(self._state_folder)
        except (OSError, UnicodeDecodeError) as error:
            unknown = f"which product was selected before the start cannot be read ({error})"
            logger.error("%s; %s is in force", unknown, self._config.product)
            return None, unknown
        if selected is None or selected in names:
            return selected, None
        logger.warning("product %r was selected, and the line has none of that name any more", selected)
        return None, None

    def _tell_of_the_last_run(
        self, ledger: Ledger, teller: Teller, pipeline: Pipeline, oversight: Oversight, keeping: Keeping
    ) -> FlightRecorder | None:
        folder = self._state_folder
        journalled = keeping.told()
        run = read_last_run(folder, journalled)
        if (missing := told_live_alone(run, journalled, keeping.since_ns)) is not None:
            teller.unrecorded(missing)
        recorder = tell_of_the_last_run(
            run,
            folder,
            ledger,
            teller.boot_id,
            lambda outcome: teller.verdict(replace(outcome, setup=pipeline.setup)),
            lambda: self._until_sent(teller, oversight),
        )
        if recorder is not None:
            oversight.unrecorded = lambda: recorder.fault
        elif folder is not None:
            oversight.unrecorded = lambda: f"{folder} cannot be written: after a crash nobody knows what was in flight"
            oversight.mend = lambda: self._note_again(folder, ledger, teller, pipeline, oversight)
        return recorder

    def _until_sent(self, teller: Teller, oversight: Oversight) -> None:
        """Wait until what was told so far is kept and sent."""
        sent = threading.Event()
        teller.after_all(sent.set)
        while not sent.wait(POLL_SECONDS) and not self._stopping:
            oversight.look("STARTING")

    def _note_again(
        self, folder: Path, ledger: Ledger, teller: Teller, pipeline: Pipeline, oversight: Oversight
    ) -> None:
        """A disk on which nothing could be written at the start may have room by now."""
        try:
            recorder = begin_to_note(folder, ledger, teller.boot_id)
        except OSError:
            return
        logger.info("%s can be written: what is in flight is noted from now on", folder)
        teller.note_in(recorder)
        pipeline.note_in(recorder)
        oversight.unrecorded = lambda: recorder.fault
        oversight.mend = lambda: None

    @contextlib.contextmanager
    def _commands(self, desk: RequestDesk, access: Access) -> Iterator[None]:
        address = self._config.commands.bind
        if address is None:
            yield
            return
        server = CommandServer(address, desk.handle, access)
        server.start()
        try:
            yield
        finally:
            server.close()

    def _wait_for_subscriber(self, publisher: Publisher, oversight: Oversight) -> None:
        oversight.look("STARTING")
        wait_s = self._config.events.wait_for_subscriber_s
        give_up = time.monotonic() + wait_s
        while wait_s and not self._stopping and not publisher.wait_for_subscriber(POLL_SECONDS):
            oversight.look("STARTING")
            if time.monotonic() > give_up:
                logger.warning("nobody subscribed within %g s; inspecting all the same", wait_s)
                return

    def _main_loop(self, pipeline: Pipeline, changeover: Changeover, look: Callable[[], None]) -> None:
        while not self._stopping and not pipeline.ended:
            look()
            time.sleep(POLL_SECONDS)
            pipeline.check()
            if self._reload_wanted:
                self._reload_wanted = False
                if not changeover.reload():
                    self._reload_wanted = True


def _say_starting(doing: str) -> None:
    notify(f"STATUS=NOT_READY: {doing}")


def _tell_systemd_of_a_reload(begins: bool) -> None:
    if begins:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    else:
        notify("READY=1")


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
