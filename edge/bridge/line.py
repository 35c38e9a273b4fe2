"""What every bridge knows of its line: its file, its state, and one evaluation of a verdict everywhere."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Self, TypeVar

from heatline.edge.config import load_config
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import SILENT_AFTER_SECONDS, Subscriber
from heatline.edge.errors import ConfigError, HeatlineError, MessageError
from heatline.edge.target import KeyFiles, endpoint_of, file_of, name_of
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify
from heatline.edge.wire.events import (
    Account,
    CameraState,
    Handshake,
    JournalEvent,
    Message,
    PartEvent,
    StatusEvent,
    Times,
    Verdict,
    VerdictEvent,
)

TICK_SECONDS = 0.25
T = TypeVar("T")
PART = "part"
"""What a part is named where frames have the name of a camera."""
RESULTS = "verdict.", f"{PART}."
"""Prefixes of the topics of results."""


EVALUATIONS: dict[Verdict, int] = {"GOOD": 1, "DEFECT": 2, "NO_VERDICT": 3}
"""ResultEvaluationEnum of OPC 40001-101, Machinery Result Transfer 1.01: OK, NotOK, NotDecidable. 0 is Undefined."""


def result_of(event: object) -> VerdictEvent | None:
    """Return the verdict of a frame, or that of a part in the form of a frame's; None: the event is no result."""
    if not isinstance(event, PartEvent):
        return event if isinstance(event, VerdictEvent) else None
    same = {name: getattr(event, name) for name in VerdictEvent.__struct_fields__ if hasattr(event, name)}
    return VerdictEvent(
        **same,
        camera=PART,
        frame_id=None,
        frame_number=0,
        frames=len(event.views),
        times=Times(captured_at_ns=event.began_at_ns, captured_monotonic_ns=0),
        score_threshold=None,
        evidence_threshold=None,
        precision=None,
    )


def state_of(status: StatusEvent, name: str) -> tuple[CameraState | None, Account]:
    """Return the state and the account of a camera, or of the parts."""
    if name == PART and (parts := status.parts) is not None:
        dropped = {"part": parts.no_verdict}
        account = Account(captured=parts.announced, inspected=parts.judged, dropped=dropped, in_flight=parts.open)
        return CameraState(state="LIVE", since_at_ns=status.at_ns), account
    return status.cameras.get(name), status.ledger.get(name, Account())


def unjournalled_results(event: JournalEvent) -> int | None:
    """Return how many results the line could not journal, by its report; 0: it reports none; None: a number unknown."""
    if event.kind not in ("recording", "unrecorded"):
        return 0
    if event.by_topic:
        return sum(count for topic, count in event.by_topic.items() if topic.startswith(RESULTS))
    return event.events


async def serve(
    follow: Callable[[threading.Event], object], refresh: Callable[[], Awaitable[object]], where: str
) -> None:
    """Follow the journal and refresh the state, until SIGTERM or Ctrl-C.

    Args:
        follow: follows until an event is set, on a thread of its own; its error ends the bridge.
        refresh: is called several times a second.
        where: what is served, for systemd.
    Raises: what `follow` does.
    """
    is_over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_over.set)
    following = asyncio.create_task(asyncio.to_thread(follow, is_over))
    notify("READY=1", f"STATUS=serving {where}")
    try:
        while not is_over.is_set() and not following.done():
            await refresh()
            notify("WATCHDOG=1")
            await asyncio.wait([following], timeout=TICK_SECONDS)
    finally:
        notify("STOPPING=1")
        is_over.set()
        await following  # the loop must run meanwhile: the thread may wait for it


class Line:
    """A line that is named by its name or its file. As a context, it receives the line's statuses on a thread of its
    own; any thread may read them.

    Args:
        table: that of the bridge.
    Raises:
        ConfigError: the line's file cannot be used, or has no such table.
    """

    def __init__(self, line: str, table: Literal["mqtt", "opcua", "modbus"], key_files: KeyFiles | None = None) -> None:
        file, key_files = file_of(line), key_files or KeyFiles()
        self.name, self.config = name_of(line), load_config(file)
        self.table: Any = getattr(self.config, table)
        if self.table is None:
            raise ConfigError(f"{file} has no table [{table}]; add one, see docs/plant-{table}.md")
        self.places = [*(camera.name for camera in self.config.cameras), *([PART] if self.config.part else [])]
        """Names under which results come: those of the cameras, and that of parts if the line has parts."""
        self._events, self.journal = (endpoint_of(line, socket, key_files) for socket in ("events", "journal"))
        is_commanded = table != "mqtt" and self.config.commands.bind is not None
        self.commands = endpoint_of(line, "commands", key_files) if is_commanded else None
        """Where it takes commands, and the keys for it; None: it takes none."""
        self.on_live: Callable[[object], object] | None = None
        """Is given the line's verdicts too, in that thread, and a notice or an error where some were missed."""
        self._heard: tuple[StatusEvent, float] | None = None
        """The last status, and when it came."""
        self._ended = threading.Event()
        self._thread = NamedThread("line state", self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def status(self) -> StatusEvent | None:
        """The last status that came; None: none has come."""
        return None if self._heard is None else self._heard[0]

    @property
    def is_heard(self) -> bool:
        """Whether the line runs, as far as this program can know."""
        heard = self._heard
        return heard is not None and heard[0].state != "STOPPED" and time.monotonic() - heard[1] < SILENT_AFTER_SECONDS

    def handshake(self) -> Handshake:
        """Return the line's handshake; NOT_READY with the reason `stopped` or `unreachable` if the line is not heard.

        A heartbeat that stands still is never good: `heartbeat` of such a handshake is the last one that came.
        """
        status = self.status
        if status is not None and self.is_heard:
            return status.handshake
        reason, detail = "unreachable", "nothing comes from the line"
        if status is not None and status.state == "STOPPED":
            reason, detail = "stopped", "the line has stopped"
        heartbeat = 0 if status is None else status.handshake.heartbeat
        return Handshake(state="NOT_READY", reason=reason, detail=detail, heartbeat=heartbeat)

    def follower(self, *, timeout_s: float = TICK_SECONDS, **options: Any) -> Follower:
        """Return a follower of the journal with further options, for this thread."""
        (address, keys), name, start = self.journal, self.table.name, self.table.start
        return Follower(address, name, start=start, timeout_s=timeout_s, keys=keys, **options)

    async def command(self, within_s: float, send: Callable[[Commander], T]) -> T | HeatlineError | None:
        """Return the line's reply to a command, or why none came; None: it takes no commands.

        The thread that waits for it does not keep the process from ending.
        """
        if self.commands is None:
            return None
        address, keys = self.commands
        loop, outcome = asyncio.get_running_loop(), asyncio.Future[T | HeatlineError]()

        def run() -> None:
            reply: T | HeatlineError
            try:
                with Commander(address, within_s, keys) as line:
                    reply = send(line)
            except HeatlineError as error:
                reply = error
            with contextlib.suppress(RuntimeError):  # the bridge has ended
                loop.call_soon_threadsafe(outcome.set_result, reply)

        NamedThread("command", run).start()
        return await outcome

    def _run(self) -> None:
        topics, (address, keys) = ["status", *(RESULTS if self.on_live else ())], self._events
        with Subscriber(address, topics=topics, timeout_s=TICK_SECONDS, keys=keys) as events:
            while not self._ended.is_set():
                try:
                    received: object = events.receive()
                except MessageError as error:  # a line of another version; the durable side reports it
                    received = error
                event = received.event if isinstance(received, Message) else received
                if isinstance(event, StatusEvent):
                    self._heard = event, time.monotonic()
                elif event is not None and self.on_live is not None:
                    self.on_live(event)
