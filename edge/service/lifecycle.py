"""The service's life: startup, main loop, shutdown. The only place that touches signals."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from edge.bundle.trusted import signer_in_words
from edge.config import LineConfig
from edge.delivery.commands import CommandServer
from edge.delivery.messages import State
from edge.delivery.publisher import Publisher
from edge.errors import EngineError
from edge.inspection.ledger import Ledger
from edge.inspection.pipeline import Pipeline
from edge.service.aftermath import state_folder, tell_of_the_last_run
from edge.service.line import Line, OpenCamera, open_cameras, pipeline_cameras, prepare_line
from edge.service.losses import Losses
from edge.service.reporter import Reporter
from edge.service.systemd_notify import notify
from edge.service.teller import Teller
from edge.service.triggers import TriggerDesk

logger = logging.getLogger(__name__)

STATUS_EVERY_SECONDS = 1.0
POLL_SECONDS = 0.05
STOP_WITHIN_SECONDS = 15.0


class Service:
    """Inspects until told to stop or until every camera has shown its last frame.

    Args:
        name: of the line, in status events.
    """

    def __init__(self, name: str, config: LineConfig) -> None:
        self._name, self._config = name, config
        self._stopping = False  # not an Event: set by a signal while the main thread waits for it, that would lock up

    def stop(self) -> None:
        """Ask a running service to finish what it has grabbed and end. Any thread, any number of times."""
        self._stopping = True

    def run(self) -> None:
        """Start, inspect, and shut down in order: cameras first, publisher last, so that no finished result is lost.

        Raises:
            HeatlineError: it cannot start, or could not finish what it had grabbed.
        """
        notify("STATUS=loading the bundle")
        line = prepare_line(self._config)
        reporter = Reporter(
            line.bundle,
            line.proven.engine,
            line.inspector.thresholds,
            acting=self._config.acting,
            heatmaps=self._config.events.heatmaps,
        )
        publisher = Publisher(self._config.events.bind)
        publisher.start()
        teller = Teller(self._name, reporter, publisher)
        try:
            with open_cameras(
                self._config.cameras, teller.alarm, all_must_open=False, stopping=lambda: self._stopping
            ) as cameras:
                self._inspect(line, teller, publisher, cameras)
        finally:
            publisher.close()

    def _inspect(self, line: Line, teller: Teller, publisher: Publisher, cameras: dict[str, OpenCamera]) -> None:
        ledger = Ledger(list(cameras))
        fallback = "" if line.proven.fell_back is None else f", in {line.proven.computes_in}"

        losses = Losses()

        def tell(state: State) -> None:
            states = {name: each.camera.state() for name, each in cameras.items()}
            teller.status(state, ledger, states)
            words = [f"camera {name} is dead ({how.reason})" for name, how in states.items() if how.reason]
            words += losses.look(ledger.accounts(), time.monotonic())
            notify(f"STATUS={', '.join([state.lower(), f'{teller.last_seq} events', *words])}{fallback}")

        with self._commands(cameras):
            notify("READY=1")
            logger.info(
                "ready: %s by %s in %s, signed by %s, publishing on %s",
                line.bundle.manifest.name,
                line.proven.engine.name,
                line.proven.computes_in,
                signer_in_words(line.signed_by),
                publisher.address,
            )
            tell("STARTING")
            self._wait_for_subscriber(publisher)
            recorder = tell_of_the_last_run(state_folder(), ledger, teller.verdict)
            for name, account in ledger.accounts().items():
                cameras[name].camera.count_from(account.captured)
            pipeline = Pipeline(pipeline_cameras(cameras), line.inspector, ledger, teller.verdict, recorder)
            pipeline.start()
            try:
                self._main_loop(pipeline, tell)
            finally:
                notify("STOPPING=1", "STATUS=finishing the frames in flight")
                in_time = pipeline.stop(STOP_WITHIN_SECONDS)
                tell("STOPPED")  # also after a fault: who listens must hear that nothing is inspected any more
        pipeline.check()
        if not in_time:
            raise EngineError(f"the frames in flight were not finished within {STOP_WITHIN_SECONDS:.0f} s; see the log")

    @contextlib.contextmanager
    def _commands(self, cameras: dict[str, OpenCamera]) -> Iterator[None]:
        address = self._config.commands.bind
        if address is None:
            yield
            return
        server = CommandServer(address, TriggerDesk({name: each.camera for name, each in cameras.items()}).handle)
        server.start()
        try:
            yield
        finally:
            server.close()

    def _wait_for_subscriber(self, publisher: Publisher) -> None:
        wait_s = self._config.events.wait_for_subscriber_s
        give_up = time.monotonic() + wait_s
        while wait_s and not self._stopping and not publisher.wait_for_subscriber(POLL_SECONDS):
            if time.monotonic() > give_up:
                logger.warning("nobody subscribed within %g s; inspecting all the same", wait_s)
                return

    def _main_loop(self, pipeline: Pipeline, tell: Callable[[State], None]) -> None:
        tell_at = time.monotonic()
        while not self._stopping and not pipeline.ended:
            time.sleep(POLL_SECONDS)
            pipeline.check()
            if time.monotonic() >= tell_at:
                tell("RUNNING")
                tell_at = time.monotonic() + STATUS_EVERY_SECONDS


@contextlib.contextmanager
def stopped_by_signals(service: Service) -> Iterator[None]:
    """SIGTERM and SIGINT stop the service; the handlers that were there are put back at the end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        service.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
