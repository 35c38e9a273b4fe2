"""Runs processes beside a line: the monitor, which stores its pictures and serves its page, and the shadow bundle."""

import contextlib
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from heatline.edge.config import LineConfig
from heatline.edge.monitor.feed import PictureFeed, StoreReport
from heatline.edge.util.child_process import Restarts, describe_end, start_sidecar
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.events import CollectState, EvidenceState, ShadowState, WebState

logger = logging.getLogger(__name__)

MODULE = "heatline.edge.monitor.sidecar"
SHADOW_MODULE = "heatline.edge.service.shadow"
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
STABLE_AFTER_SECONDS = 60.0
"""One that ran for so long is started again after the shortest pause."""
RUNS_AFTER_SECONDS = 5.0
"""One that was started again and ran for so long is not at fault any more."""
POLL_SECONDS = 0.1
ENDS_WITHIN_SECONDS = 3.0
CONNECTS_WITHIN_SECONDS = 5.0
REPORTS_WITHIN_SECONDS = 30.0
"""With the lowest priority on a busy line, it takes many seconds for a picture."""


class Sidecar:
    """The monitor of a line, if its file asks for one. A thread of its own starts and supervises the process.

    The thread lives as long as the process: the kernel kills a child when the thread that started it ends.

    Args:
        line: the line's file.
        feed: the line's pictures; None: their socket cannot be bound.
        clock: monotonic, s.
    """

    what = "the monitor"

    def __init__(
        self, line: Path, config: LineConfig, feed: PictureFeed | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._line, self._feed, self._clock = line, feed, clock
        self._stores, self._serves = config.evidence is not None, config.web is not None
        self._keeps = config.collect.keeps
        self.process: subprocess.Popen[bytes] | None = None
        self.fault: str | None = None
        """Why it does not run, as a sentence; None: it runs, or is being started for the first time. One that is
        started again keeps its fault until it has run for a while."""
        self.restarts = Restarts(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, clock)
        self._started_s = clock()
        self._closing = threading.Event()
        self._thread = NamedThread(self.what, self._run)

    def start(self) -> None:
        if self._stores or self._serves or self._keeps:
            self._thread.start()

    def evidence(self) -> EvidenceState | None:
        """Return the state of the evidence store; None: the line has none."""
        if not self._stores:
            return None
        state = EvidenceState() if self._feed is None else self._feed.evidence()[0]
        report = self._report()
        fault, heard_s = (self.fault, self._started_s) if report is None else (state.fault, report.at_monotonic_s)
        silent_s = self._clock() - heard_s
        if fault is None and silent_s > REPORTS_WITHIN_SECONDS:
            fault = f"the monitor has not answered for {silent_s:.0f} s; check the disk of the pictures"
        return msgspec.structs.replace(state, fault=fault)

    def web(self) -> WebState | None:
        """Return the state of the page; None: the line has none."""
        if not self._serves:
            return None
        report = self._report()
        return WebState(fault=(report and report.web_fault) or self.fault)

    def collect(self) -> CollectState | None:
        """Return the state of what the line keeps by itself while it collects; None: it keeps nothing."""
        if not self._keeps:
            return None
        state = CollectState() if self._feed is None else self._feed.collect()
        return msgspec.structs.replace(state, fault=self.fault or state.fault)

    @property
    def recorder_is_starting(self) -> bool:
        """Whether the recorder will soon take pictures, and does not yet."""
        if not self._stores or self._feed is None or self.fault is not None:
            return False
        return self._clock() - self._started_s < CONNECTS_WITHIN_SECONDS and self._feed.evidence()[1] is None

    def close(self) -> None:
        """Close the feed and end the process; kill it if it does not end in time."""
        if self._feed is not None:
            self._feed.close()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Start the process if that is due; notice its end, and schedule its next start."""
        now_s = self._clock()
        if self.process is None:
            if self.restarts.due:
                self._start(now_s)
        elif (code := self.process.poll()) is not None:
            self._schedule(now_s, f"{self.what} {describe_end(code)}")
        elif now_s - self._started_s >= RUNS_AFTER_SECONDS:
            self.fault = None

    def _command(self) -> tuple[str, ...]:
        """Return the module of the process, and its arguments."""
        return MODULE, str(self._line)

    def _start(self, now_s: float) -> None:
        try:
            self.process, self._started_s = start_sidecar(*self._command()), now_s
        except OSError as error:
            self._schedule(now_s, f"{self.what} cannot be started: {error}")

    def _schedule(self, now_s: float, fault: str) -> None:
        if self.process is not None and now_s - self._started_s >= STABLE_AFTER_SECONDS:
            self.restarts.reset()
        self.process, self.fault = None, fault
        logger.error("%s; it is started again in %g s", fault, self.restarts.later())

    def _report(self) -> StoreReport | None:
        """Return the last report of the present process; None: there is none."""
        report = None if self._feed is None else self._feed.evidence()[1]
        return None if report is None or report.at_monotonic_s < self._started_s else report

    def _run(self) -> None:
        while not self._closing.is_set():
            self.step()
            self._closing.wait(POLL_SECONDS)
        # One that stores ends by itself once it has stored the last picture.
        self._end(*[0] if self._stores or self._keeps else [], signal.SIGTERM, signal.SIGKILL)

    def _end(self, *signals: int) -> None:
        """End the process by the first of these signals that does so in time; 0 only waits."""
        for number in signals:
            if self.process is not None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(ENDS_WITHIN_SECONDS)


class Shadow(Sidecar):
    """The process of the shadow bundle, if the line's file names one. Arguments: as for `Sidecar`."""

    what = "the shadow bundle's process"
    _wanted: LineConfig | None = None
    _begun: LineConfig | None = None
    """For this configuration the process runs, if it has a shadow."""

    def begin(self, config: LineConfig) -> None:
        """Judge beside this configuration from now on, with the product that it has in its place. Any thread."""
        self._wanted = config
        if config.shadow is not None and not self._thread.is_alive():
            self._thread.start()

    def state(self) -> ShadowState | None:
        """Return the state of the shadow bundle; None: the line has none now."""
        if self._begun is None or self._begun.shadow is None:
            return None
        state = (self._feed and self._feed.shadow) or ShadowState()
        return msgspec.structs.replace(state, fault=state.fault or self.fault)

    def step(self) -> None:
        """Begin anew if the configuration has changed, and supervise the process."""
        if self._begun is not self._wanted:
            self._end(signal.SIGTERM, signal.SIGKILL)
            if self._feed is not None:
                self._feed.shadow = None
            self.process = self.fault = None
            self.restarts.now()
            self._begun = self._wanted
        if self._begun is not None and self._begun.shadow is not None:
            super().step()

    def _command(self) -> tuple[str, ...]:
        return SHADOW_MODULE, str(self._line), (self._begun and self._begun.product) or ""
