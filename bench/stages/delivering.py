"""Stages of other processes and the disk: a camera's frame, an event to the journal, an event to a subscriber."""

import select
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from heatline.bench.stages.listener import Receipt
from heatline.bench.stages.prepared import CAMERA, Prepared
from heatline.bench.stages.stage import Stage, require
from heatline.bench.watched_line import free_address
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.pattern import pattern
from heatline.edge.cameras.process import CameraProcess, FireTrigger, TriggerResult
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.colour import to_rgb
from heatline.edge.delivery.journal.journal_writer import JournalWriter
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame
from heatline.edge.wire.events import CountedEvent, Message, VerdictEvent, header_of

WITHIN_SECONDS = 30.0
KEEP_BYTES = 4 << 30
KEEP_SECONDS = 1e9


def grab(prepared: Prepared, at_end: ExitStack) -> Stage:
    """Make the stage from a picture's capture in a camera's process, through shared memory, to a frame in this process.

    The camera is a triggered `pattern`, whose pictures are drawn beforehand. `run` lasts from its trigger. The pixels
    are not read.

    Raises:
        BenchError: the camera's process failed.
    """
    camera = _Camera(prepared.hw)
    at_end.callback(camera.close)
    camera.await_opened()

    def check(arrived: Frame) -> None:
        frame_id = arrived.stamp.frame_id
        require(frame_id == camera.fired, "that the frame is the newest")
        drawn = to_rgb(pattern(camera.fired, prepared.hw), "Mono8")
        require(np.array_equal(arrived.image, drawn), "that the frame's pixels are those of the camera's picture")

    return Stage(
        "grab",
        camera.shoot,
        check,
        helpers=(camera.pid,),
        seconds=camera.seconds,
    )


class _Camera:
    """A camera's process that captures a picture on request."""

    def __init__(self, hw: tuple[int, int]) -> None:
        self._process = CameraProcess(
            PatternSettings(name=CAMERA, draw_size=(hw[1], hw[0]), rate_fps=None, trigger="software")
        )
        self.pid = self._process.pid
        self._poll = select.poll()
        self._poll.register(self._process.fileno(), select.POLLIN)
        self._arrived: Frame | None = None
        self._came_ns = 0
        self.fired = 0

    def await_opened(self) -> None:
        while not isinstance(self._next(), Opened):
            pass

    def shoot(self) -> Frame:
        """Return its next picture, which is valid until the one after."""
        if self._arrived is not None:
            self._arrived.release()
        self.fired += 1
        self._process.send(FireTrigger(self.fired, time.monotonic_ns() + round(WITHIN_SECONDS * 1e9)))
        while not isinstance(news := self._next(), Frame):
            pass
        self._came_ns = time.monotonic_ns()
        self._arrived = news
        return news

    def seconds(self, arrived: Frame) -> float:
        """Return the time from the capture of the last picture to its arrival here."""
        return (self._came_ns - arrived.stamp.captured_monotonic_ns) / 1e9

    def close(self) -> None:
        self._arrived = None
        self._process.close(0.0)

    def _next(self) -> object:
        give_up = time.monotonic() + WITHIN_SECONDS
        while (news := self._process.receive()) is None:
            if not self._poll.poll(max(give_up - time.monotonic(), 0) * 1e3):
                raise BenchError(f"the camera's process sent nothing for {WITHIN_SECONDS:.0f} s")
        if isinstance(news, TriggerResult) and news.error is not None:
            raise BenchError(f"the camera did not take its trigger: {news.error}")
        if not isinstance(news, Opened | Frame | TriggerResult):
            raise BenchError(f"the camera's process sent {news}, expected a frame")
        return news


def journal(prepared: Prepared, at_end: ExitStack, *, heatmap: bool) -> Stage:
    """Make the stage that numbers the event of a frame with defects, stores it and syncs it to the disk.

    The journal is in the folder for temporary files.

    Args:
        heatmap: whether the event carries its heatmap.
    Raises:
        BenchError: the journal takes no events there.
    """
    message = prepared.message("always" if heatmap else "never")
    place = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
    writer = JournalWriter("bench", "0" * 32, place, KEEP_SECONDS, KEEP_BYTES, lambda _: {})
    at_end.callback(writer.close)

    def require_stored() -> None:
        state = writer.state()
        if state is None or state.live_only is not None:
            raise BenchError(f"the journal takes no events: {state and state.live_only}; name another place by TMPDIR")

    writer.tick()  # it first stores an event of its own, that the journal was begun
    require_stored()
    reader = at_end.enter_context(JournalReader.open(place))

    def check(messages: list[Message]) -> None:
        require_stored()
        event = messages[0].event
        assert isinstance(event, CountedEvent)
        stored = reader.read(event.seq - 1, through_seq=event.seq, at_most_bytes=sys.maxsize, heatmaps=True).records
        require(
            [(record.header, record.heatmap) for record in stored] == [(header_of(event), message.png)],
            "that the journal holds the event",
        )

    return Stage(
        "journal",
        lambda: writer.commit([message]),
        check,
        variant="heatmap" if heatmap else "no heatmap",
    )


def publish(prepared: Prepared, at_end: ExitStack, *, heatmap: bool) -> Stage:
    """Make the stage from the hand-over to the publisher, over TCP, to a live subscriber in another process.

    `run` lasts until the receipt has come back.

    Args:
        heatmap: whether the event carries its heatmap.
    Raises:
        BenchError: the subscriber's process failed.
    """
    delivery = _Delivery(prepared.message("always" if heatmap else "never"))
    at_end.callback(delivery.close)
    delivery.await_subscriber()
    return Stage(
        "publish",
        delivery.send,
        check=lambda receipt: require(
            receipt == Receipt.of(delivery.sent, receipt.at_ns), "that the received message is the sent one"
        ),
        variant="heatmap" if heatmap else "no heatmap",
        helpers=(delivery.pid,),
        seconds=lambda receipt: (receipt.at_ns - delivery.sent_ns) / 1e9,
    )


class _Delivery:
    """A publisher, and a subscriber in a process of its own (`heatline.bench.stages.listener`)."""

    def __init__(self, message: Message) -> None:
        self.sent, self.sent_ns = message, 0
        self._address = free_address()
        self._publisher = Publisher(self._address)
        self._publisher.start()
        self._listener = subprocess.Popen(
            [sys.executable, "-m", "heatline.bench.stages.listener", self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # this process handles Ctrl-C in a terminal
        )
        self.pid = self._listener.pid

    def await_subscriber(self) -> None:
        if not self._publisher.wait_for_subscriber(WITHIN_SECONDS):
            raise BenchError(f"no subscriber connected to {self._address} within {WITHIN_SECONDS:.0f} s")

    def send(self) -> Receipt:
        """Send the event with the next number, and return its receipt."""
        event = self.sent.event
        assert isinstance(event, VerdictEvent)
        assert self._listener.stdout is not None
        self.sent = Message(msgspec.structs.replace(event, seq=event.seq + 1), self.sent.png)
        self.sent_ns = time.monotonic_ns()
        self._publisher.send(self.sent)
        if not select.select([self._listener.stdout], [], [], WITHIN_SECONDS)[0]:
            raise BenchError(f"event {event.seq + 1} was not received within {WITHIN_SECONDS:.0f} s")
        line = self._listener.stdout.readline()
        if not line:
            raise BenchError(f"the subscriber ended with exit code {self._listener.wait()}; see its output above")
        return msgspec.json.decode(line, type=Receipt)

    def close(self) -> None:
        self._publisher.close()
        self._listener.kill()
        self._listener.communicate()
