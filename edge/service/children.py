"""The sidecars of a line: the recorder of evidence and the web page, each in a process of its own.

They are started when the line is up, started again when they end, and ended with the line. They never delay inspection.
"""

import contextlib
import logging
import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from heatline.edge.config import LineConfig
from heatline.edge.errors import MissingExtraError
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.util.child_process import Restarts, describe_end, start_sidecar
from heatline.edge.util.extras import missing_extra
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.events import EvidenceState, WebState

logger = logging.getLogger(__name__)

RECORDER_MODULE, WEB_MODULE = "heatline.edge.monitor.recorder", "heatline.edge.monitor.server"
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
STABLE_AFTER_SECONDS = 60.0
"""A child that ran for so long is started again after the shortest pause."""
RUNS_AFTER_SECONDS = 5.0
"""A child that was started again and ran for so long is not at fault any more."""
POLL_SECONDS = 0.1
ENDS_WITHIN_SECONDS = 3.0
CONNECTS_WITHIN_SECONDS = 5.0
REPORTS_WITHIN_SECONDS = 10.0


class Child:
    """A program that is started again whenever it ends. One thread uses it; any thread may read `fault`.

    Args:
        name: for the log and the fault, such as `the web page`.
        command: the module to run and its arguments.
        extra: the extra that it needs, if any. It is not started again if that is not installed.
        ends_with_feed: whether it ends by itself once it has handled the last picture.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        extra: str | None = None,
        ends_with_feed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.ends_with_feed, self._command, self._clock = name, ends_with_feed, command, clock
        self._extra = extra
        self.process: subprocess.Popen[bytes] | None = None
        self.fault: str | None = None
        """Why it does not run, as a sentence; None: it runs, or is being started for the first time. A child that is
        started again keeps its fault until it has run for a while."""
        self.restarts = Restarts(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, clock)
        self.started_s = clock()

    def step(self) -> None:
        """Start the program if that is due; notice its end, and schedule its next start."""
        now_s = self._clock()
        if self.process is None:
            if self.restarts.due:
                self._start(now_s)
        elif (code := self.process.poll()) is not None:
            if code == MissingExtraError.exit_code and self._extra is not None:
                self._give_up(f"{missing_extra(self._extra, self.name)}, then start the line again")
            else:
                self._schedule(now_s, f"{self.name} {describe_end(code)}")
        elif now_s - self.started_s >= RUNS_AFTER_SECONDS:
            self.fault = None

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the program, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, within_s: float) -> None:
        """Wait until the program has ended, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process is not None:
                self.process.wait(within_s)

    def _start(self, now_s: float) -> None:
        try:
            self.process = start_sidecar(*self._command)
        except OSError as error:
            self._schedule(now_s, f"{self.name} cannot be started: {error}")
            return
        self.started_s = now_s

    def _give_up(self, fault: str) -> None:
        self.process, self.fault, self.restarts.at_s = None, fault, math.inf
        logger.error("%s", fault)

    def _schedule(self, now_s: float, fault: str) -> None:
        if self.process is not None and now_s - self.started_s >= STABLE_AFTER_SECONDS:
            self.restarts.reset()
        self.process, self.fault = None, fault
        logger.error("%s; it is started again in %g s", fault, self.restarts.later())


class Sidecars:
    """Starts and supervises the programs that a line's file asks for, on a thread of its own.

    The thread lives as long as the children: the kernel kills a child when the thread that started it ends.

    Args:
        line: the line's file.
        feed: the line's pictures; None: there are none, as their socket cannot be bound.
    """

    def __init__(self, line: Path, config: LineConfig, feed: PictureFeed | None) -> None:
        self._feed = feed
        self._recorder = self._web = None
        if config.evidence is not None:
            command = [RECORDER_MODULE, str(line)]
            self._recorder = Child("the recorder of evidence", command, ends_with_feed=True)
        if config.web is not None:
            self._web = Child("the web page", [WEB_MODULE, str(line)], extra="view")
        self._all = [child for child in (self._recorder, self._web) if child is not None]
        self._closing = threading.Event()
        self._thread = NamedThread("children", self._run)

    def start(self) -> None:
        """Start all programs."""
        if self._all:
            self._thread.start()

    def evidence(self) -> EvidenceState | None:
        """Return the state of the evidence store; None: the line has none."""
        if self._recorder is None:
            return None
        state, report = (EvidenceState(), None) if self._feed is None else self._feed.evidence()
        started_s = self._recorder.started_s
        if report is not None and report.at_monotonic_s >= started_s:
            fault, heard_s = state.fault, report.at_monotonic_s
        else:
            fault, heard_s = self._recorder.fault, started_s
        silent_s = time.monotonic() - heard_s
        if fault is None and silent_s > REPORTS_WITHIN_SECONDS:
            fault = f"{self._recorder.name} has not answered for {silent_s:.0f} s"
        return msgspec.structs.replace(state, fault=fault)

    def web(self) -> WebState | None:
        """Return the state of the page; None: the line has none."""
        return None if self._web is None else WebState(fault=self._web.fault)

    @property
    def recorder_is_starting(self) -> bool:
        """Whether the recorder will soon take pictures, and does not yet."""
        if self._recorder is None or self._feed is None or self._recorder.fault is not None:
            return False
        waited_s = time.monotonic() - self._recorder.started_s
        return waited_s < CONNECTS_WITHIN_SECONDS and self._feed.evidence()[1] is None

    def close(self) -> None:
        """Close the feed and end all programs; kill those that do not end in time."""
        if self._feed is not None:
            self._feed.close()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            for child in self._all:
                child.step()
            self._closing.wait(POLL_SECONDS)
        self._end(signal.SIGTERM, [child for child in self._all if not child.ends_with_feed])
        self._end(signal.SIGTERM, self._all)
        self._end(signal.SIGKILL, self._all)

    def _end(self, number: signal.Signals, children: Sequence[Child]) -> None:
        """Send a signal to children, and wait for the end of all."""
        for child in children:
            child.end(number)
        give_up_s = time.monotonic() + ENDS_WITHIN_SECONDS
        for child in self._all:
            child.wait(max(give_up_s - time.monotonic(), 0))
