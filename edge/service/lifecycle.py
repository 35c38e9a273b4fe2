"""The service's life: startup, main loop, shutdown. The only place that touches signals."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from edge.bundle.trusted import signer_in_words
from edge.config import LineConfig
from edge.delivery.messages import State
from edge.delivery.publisher import Publisher
from edge.errors import EngineError
from edge.inspection.frame_rule import FrameRule
from edge.inspection.handoff import Lane
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.inspection.pipeline import Camera, Pipeline
from edge.service.line import Line, open_sources, prepare_line
from edge.service.reporter import Reporter
from edge.service.systemd_notify import notify

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
        publisher = Publisher(self._config.events.bind)
        publisher.start()
        try:
            with open_sources(self._config.cameras) as sources:
                cameras = {
                    config.name: Camera(
                        sources[config.name][0],
                        Lane(config.waiting_frames, config.on_overload),
                        FrameRule(config.size, config.pixel_format),
                    )
                    for config in self._config.cameras
                }
                self._inspect(line, publisher, cameras)
        finally:
            publisher.close()

    def _inspect(self, line: Line, publisher: Publisher, cameras: dict[str, Camera]) -> None:
        reporter = Reporter(
            line.bundle,
            line.proven.engine,
            line.inspector.thresholds,
            acting=self._config.acting,
            heatmaps=self._config.events.heatmaps,
        )
        ledger = Ledger(list(cameras))
        fallback = "" if line.proven.fell_back is None else f", in {line.proven.computes_in}"
        sending = threading.Lock()  # a status must not name a seq that goes out after it

        def report(outcome: Outcome) -> None:
            with sending:
                publisher.send(reporter.verdict(outcome))

        def tell(state: State) -> None:
            with sending:
                publisher.send(reporter.status(self._name, state, ledger.accounts()))
            notify(f"STATUS={state.lower()}, {reporter.last_seq} frames reported{fallback}")

        pipeline = Pipeline(cameras, line.inspector, ledger, report)
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
