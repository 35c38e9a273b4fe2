"""Publish: from the hand-over to the publisher to a subscriber in another process."""

import select
import subprocess
import sys
import time

import msgspec

from bench.stages.listener import Heard
from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from bench.watched_line import free_address
from edge.delivery.publisher import Publisher
from edge.errors import BenchError
from edge.wire.events import Message, VerdictEvent

WITHIN_SECONDS = 30.0


class Publish(Stage):
    """The event of a frame with defects, over TCP on this machine, live, to one who reads all of it.

    `timed` counts to its receipt; `run` lasts until word of that is back.

    Args:
        heatmap: whether the event carries its heatmap.
    Raises:
        BenchError: the subscriber's process does not do as it should.
    """

    name = "publish"

    def __init__(self, prepared: Prepared, *, heatmap: bool) -> None:
        self.variant = "heatmap" if heatmap else "no heatmap"
        self._message, self._seq = prepared.message("always" if heatmap else "never"), 0
        self.sent: Message | None = None
        self._sent_ns = 0
        self.heard: Heard | None = None
        address = free_address()
        self._publisher = Publisher(address)
        self._publisher.start()
        self._listener = subprocess.Popen(
            [sys.executable, "-m", "bench.stages.listener", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in a terminal is for this process alone
        )
        self.helpers = (self._listener.pid,)
        if not self._publisher.wait_for_subscriber(WITHIN_SECONDS):
            self.close()
            raise BenchError(f"nobody subscribed to {address} within {WITHIN_SECONDS:.0f} s")

    def run(self) -> None:
        self._seq += 1
        event = self._message.event
        assert isinstance(event, VerdictEvent)
        self.sent = Message(msgspec.structs.replace(event, seq=self._seq), self._message.png)
        self._sent_ns = time.monotonic_ns()
        self._publisher.send(self.sent)
        self.heard = self._next()

    def timed(self) -> float:
        self.run()
        assert self.heard is not None
        return (self.heard.at_ns - self._sent_ns) / 1e9

    def check(self) -> None:
        sent, heard, self.sent = self.sent, self.heard, None
        self.require(
            sent is not None and heard is not None and heard == Heard.of(sent, heard.at_ns),
            "that what was heard is what was sent",
        )

    def moved(self) -> Moved:
        assert self.heard is not None
        return Moved(self.heard.bytes, self.heard.bytes)

    def close(self) -> None:
        self._publisher.close()
        self._listener.kill()
        self._listener.communicate()

    def _next(self) -> Heard:
        assert self._listener.stdout is not None
        if not select.select([self._listener.stdout], [], [], WITHIN_SECONDS)[0]:
            raise BenchError(f"event {self._seq} was not heard within {WITHIN_SECONDS:.0f} s")
        line = self._listener.stdout.readline()
        if not line:
            raise BenchError(f"the subscriber ended with exit code {self._listener.wait()}; see its output above")
        return msgspec.json.decode(line, type=Heard)
