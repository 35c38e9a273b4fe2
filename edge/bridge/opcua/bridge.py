"""Runs the OPC UA bridge of a line."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.bridge.line import LineState, unjournalled_results
from heatline.edge.bridge.opcua.address_space import RESULT_READY, RESULTS_LOST, STATE_CHANGED, AddressSpace
from heatline.edge.bridge.opcua.certificates import Certificates, fingerprint_of
from heatline.edge.bridge.opcua.fields import RESULT_FIELDS, Counters, LineNow, values_of
from heatline.edge.bridge.opcua.methods import Methods
from heatline.edge.bridge.opcua.result_follower import TICK_SECONDS, TOPICS, News, ResultFollower
from heatline.edge.bridge.opcua.results import HeldResult, HeldResults
from heatline.edge.bridge.opcua.server import BridgeServer
from heatline.edge.bridge.opcua.vision_state import VisionState, vision_state
from heatline.edge.bridge.result import Result, result_of
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client.commander import Commander
from heatline.edge.delivery.client.follower import Follower
from heatline.edge.errors import EventsLostError, MessageError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import notify
from heatline.edge.wire.events import JournalEvent
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

STATE_EVERY_SECONDS = 0.25
REVOKED_EVERY_SECONDS = 1.0
LARGEST_CONTENT_BYTES = 65536
SELECT_WITHIN_SECONDS = 120.0
"""A large bundle takes so long to be verified and compiled."""

Endpoint = tuple[str, ClientKeys | None]


@dataclass(frozen=True)
class LineEndpoints:
    """Where a line is reached, and with which keys."""

    events: Endpoint
    journal: Endpoint
    commands: Endpoint | None
    """None: the line takes no commands."""


class Bridge:
    """The server of one line.

    Args:
        line: its name.
        cameras: names of its cameras.
    """

    def __init__(self, line: str, cameras: list[str], config: OpcuaConfig, folder: Path, at: LineEndpoints) -> None:
        self._line, self._config, self._at = line, config, at
        self._certificates = Certificates(folder, line, config.host_port[0])
        self._server = BridgeServer(self._certificates, config.host_port, config.unprotected)
        self._space = AddressSpace(self._server, cameras)
        self._held = HeldResults(config.hold, wait=config.acknowledge == "client")
        self._counters = Counters()
        self._losses = RateLimitedLog(logger)
        self._ended = asyncio.Event()
        self._error: BaseException | None = None

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until `end`.

        Args:
            announce: is given a sentence once clients can connect.
        Raises:
            SupersededError: a newer bridge follows under this name.
            DeliveryError: nothing can listen at the address, or the line refuses for another reason that is final.
            AccessError: the line does not authorize this client.
        """
        await self._server.prepare(f"heatline {self._line}")
        await self._space.build()
        commander = None if self._at.commands is None else _commander(*self._at.commands)
        await Methods(self._space, self._held, self._server.clients.may_command, commander, self._count).add()
        await self._count()
        address, keys = self._at.journal
        async with contextlib.AsyncExitStack() as running:
            await running.enter_async_context(self._server)
            state = running.enter_context(LineState(*self._at.events))
            await running.enter_async_context(
                ResultFollower(
                    lambda: Follower(
                        address,
                        self._config.name,
                        topics=TOPICS,
                        window=self._config.hold,
                        start=self._config.start,
                        timeout_s=TICK_SECONDS,
                        explicit=True,
                        keep_position=True,
                        keys=keys,
                    ),
                    self._held,
                    self._take,
                    self._end_with,
                )
            )
            announce(
                f"OPC UA: opc.tcp://{self._config.listen}; the server's certificate is "
                f"{self._certificates.certificate_path}, sha256 {fingerprint_of(self._certificates.certificate)}"
            )
            notify("READY=1", f"STATUS=opc.tcp://{self._config.listen}")
            await self._watch(state)
            notify("STOPPING=1")
        if self._error is not None:
            raise self._error

    async def _watch(self, line: LineState) -> None:
        """Write the line's state, and disconnect clients that are not allowed any more, until the end."""
        before: VisionState | None = None
        revoked_s = 0.0
        while not self._ended.is_set():
            now = LineNow(line.status, line.handshake(), line.is_heard)
            await self._space.write_line(now)
            state = vision_state(now.status, now.handshake)
            if before not in (None, state):
                await self._announce_state(before, state, now)
            before = state
            notify("WATCHDOG=1")
            revoked_s += STATE_EVERY_SECONDS
            if revoked_s >= REVOKED_EVERY_SECONDS:
                revoked_s = 0.0
                self._server.disconnect_revoked()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), STATE_EVERY_SECONDS)

    async def _announce_state(self, before: VisionState | None, state: VisionState, now: LineNow) -> None:
        assert before is not None
        reason = now.handshake.reason or ""
        values = {"OldState": int(before), "NewState": int(state), "Reason": reason}
        detail = now.handshake.detail or now.handshake.state
        await self._space.emit(STATE_CHANGED, values, detail)

    async def _take(self, news: News) -> None:
        """Offer what came from the journal, or report what will never come."""
        if isinstance(news, EventsLostError):
            # Done once reported, as it takes a place in the window; it is settled with the next result.
            self._held.add(Delivered(news.journal_id, news.through_seq, b""), None)
            await self._lose(news.through_seq - news.after_seq, str(news))
            return
        newest: dict[str, HeldResult] = {}
        for delivered in news:
            held = await self._offer(delivered)
            if held is not None:
                newest[held.values["Camera"]] = held
        for held in newest.values():
            await self._space.write_result(held.values, of_all=held is self._held.latest)
        await self._count()

    async def _offer(self, delivered: Delivered) -> HeldResult | None:
        """Hold one result and send its event; return it, or None if the event is none."""
        held = None
        try:
            result = result_of(delivered)
            if result is None:
                await self._report_unjournalled(delivered)
            else:
                held = _hold(result, delivered)
        except MessageError as error:
            await self._lose(1, f"event {delivered.key} cannot be read: {error}")
        self._held.add(delivered, held)
        if held is not None and result is not None:
            message = f"{result.event.camera}: {result.event.verdict}"
            await self._space.emit(RESULT_READY, held.values, message, held.id, held.values["CreationTime"])
        return held

    async def _report_unjournalled(self, delivered: Delivered) -> None:
        event = delivered.event
        if isinstance(event, JournalEvent) and (lost := unjournalled_results(event)) != 0:
            await self._lose(lost or 0, f"the line could not journal all events: {event.detail}")

    async def _lose(self, events: int, sentence: str) -> None:
        """Count and report a loss.

        Args:
            events: how many events are lost; 0: it is not known.
        """
        self._losses.error("%s", sentence)
        self._counters.lost += max(1, events)  # a client that watches the counter must see every loss
        self._counters.last_loss = sentence
        await self._count()
        await self._space.emit(RESULTS_LOST, {"LostEvents": self._counters.lost}, sentence)

    async def _count(self) -> None:
        self._counters.held = len(self._held)
        await self._space.mark_latest(is_newest=not self._held.is_full)
        await self._space.write_counters(self._counters)

    def end(self) -> None:
        """Let `run` return. Called in its event loop."""
        self._ended.set()

    def _end_with(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()


def run_bridge(
    line: str,
    cameras: list[str],
    config: OpcuaConfig,
    folder: Path,
    endpoints: LineEndpoints,
    announce: Callable[[str], None],
) -> None:
    """Run a line's OPC UA bridge until SIGTERM or Ctrl-C.

    Raises: as `Bridge`.
    """

    async def run() -> None:
        bridge = Bridge(line, cameras, config, folder, endpoints)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, bridge.end)
        await bridge.run(announce)

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # a client could fill the disk with its warnings
    asyncio.run(run())


def _hold(result: Result, delivered: Delivered) -> HeldResult:
    content = delivered.header.decode() if len(delivered.header) <= LARGEST_CONTENT_BYTES else ""
    return HeldResult(result.id, values_of(RESULT_FIELDS, result), content)


def _commander(address: str, keys: ClientKeys | None) -> Callable[[], Commander]:
    return lambda: Commander(address, SELECT_WITHIN_SECONDS, keys)
