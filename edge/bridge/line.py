"""What every bridge knows of its line: its file, its state, and one evaluation of a verdict everywhere."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Literal, Self, TypeVar

from heatline.edge.config import LineConfig, load_config
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.subscriber import SILENT_AFTER_SECONDS, Notice, Subscriber
from heatline.edge.errors import ConfigError, MessageError
from heatline.edge.target import file_of
from heatline.edge.util.process import NamedThread
from heatline.edge.util.systemd import notify
from heatline.edge.wire.events import (
    Account,
    CameraState,
    Event,
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


def load_with_table(line: str, table: Literal["mqtt", "opcua", "modbus"]) -> LineConfig:
    """Return the configuration of a line that is named by its name or its file.

    Raises:
        ConfigError: the line's file cannot be used, or has no such table.
    """
    file = file_of(line)
    config = load_config(file)
    if getattr(config, table) is None:
        raise ConfigError(f"{file} has no table [{table}]; add one, see docs/plant-{table}.md")
    return config


def places_of(config: LineConfig) -> list[str]:
    """Return the names under which results come: those of the cameras, and that of parts if the line has parts."""
    return [*(camera.name for camera in config.cameras), *([PART] if config.part else [])]


def result_of(event: Event) -> VerdictEvent | None:
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


async def in_thread(name: str, function: Callable[[], T]) -> T:
    """Return what a function returns that waits for the line, and raises nothing.

    It runs on a thread of its own, which does not keep the process from ending.
    """
    loop, outcome = asyncio.get_running_loop(), asyncio.Future[T]()

    def run() -> None:
        result = function()
        with contextlib.suppress(RuntimeError):  # the bridge has ended
            loop.call_soon_threadsafe(outcome.set_result, result)

    NamedThread(name, run).start()
    return await outcome


def set_by_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set from now on."""
    is_over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_over.set)
    return is_over


async def serve(
    is_over: threading.Event,
    follow: Callable[[threading.Event], object],
    refresh: Callable[[], Awaitable[object]],
    where: str,
) -> None:
    """Follow the journal and refresh the state, until the bridge is over.

    Args:
        follow: follows until an event is set, on a thread of its own; its error ends the bridge.
        refresh: is called several times a second.
        where: what is served, for systemd.
    Raises: what `follow` does.
    """
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


class LineState:
    """Receives a line's statuses on a thread of its own. Use it as a context; any thread may read it.

    Args:
        address: the line's `events.bind`.
        on_live: is given the line's verdicts too, at once, in that thread, and a notice or an error where some were
            missed.
    """

    def __init__(
        self,
        address: str,
        keys: ClientKeys | None = None,
        on_live: Callable[[VerdictEvent | PartEvent | Notice | MessageError], object] | None = None,
    ) -> None:
        self._address, self._keys, self._on_live = address, keys, on_live
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

    def _run(self) -> None:
        topics = ["status", *(() if self._on_live is None else RESULTS)]
        with Subscriber(self._address, topics=topics, timeout_s=TICK_SECONDS, keys=self._keys) as events:
            while not self._ended.is_set():
                try:
                    received: object = events.receive()
                except MessageError as error:  # a line of another version; the durable side reports it
                    received = error
                event = received.event if isinstance(received, Message) else received
                if isinstance(event, StatusEvent):
                    self._heard = event, time.monotonic()
                elif self._on_live is not None and isinstance(event, VerdictEvent | PartEvent | Notice | MessageError):
                    self._on_live(event)
