"""Runs the OPC UA bridge of a line."""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heatline.edge.bridge.line import VERDICTS, LineState, end_by_signals, serve, unjournalled_results
from heatline.edge.bridge.opcua.address_space import (
    RESULT_FIELDS,
    RESULT_READY,
    RESULTS_LOST,
    STATE_CHANGED,
    AddressSpace,
    Counters,
    LineNow,
    VisionState,
    values_of,
    vision_state,
)
from heatline.edge.bridge.opcua.methods import HeldResult, HeldResults, Methods
from heatline.edge.bridge.opcua.server import BridgeServer, Certificates, fingerprint_of
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import EventsLostError, MessageError
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.wire.events import JournalEvent, VerdictEvent
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

TOPICS = VERDICTS, "journal"
"""Journal events say what the journal itself lacks."""
TICK_SECONDS = 0.1
"""So soon, clients' acknowledgements reach the line."""
EVENTS_AT_ONCE = 100
LARGEST_CONTENT_BYTES = 65536
SELECT_WITHIN_SECONDS = 120.0
"""A large bundle takes so long to be verified and compiled."""

Endpoint = tuple[str, ClientKeys | None]
News = list[Delivered] | EventsLostError


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
        self._config, self._at = config, at
        self._certificates = Certificates(folder, line, config.host_port[0])
        self._server = BridgeServer(f"heatline {line}", self._certificates, config)
        self._space = AddressSpace(self._server, cameras)
        self._held = HeldResults(config.hold, wait=config.acknowledge == "client")
        self._counters = Counters()
        self._losses = RateLimitedLog(logger)
        self._before: VisionState | None = None
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until `ended`.

        Args:
            announce: is given a sentence once clients can connect.
        Raises:
            SupersededError: a newer bridge follows under this name.
            DeliveryError: nothing can listen at the address, or the line refuses for another reason that is final.
            AccessError: the line does not authorize this client.
        """
        await self._server.prepare()
        await self._space.build()
        commands = self._at.commands
        commander = None if commands is None else lambda: Commander(commands[0], SELECT_WITHIN_SECONDS, commands[1])
        await Methods(self._space, self._held, self._server.clients.may_command, commander, self._count).add()
        await self._count()
        async with self._server:
            with LineState(*self._at.events) as line:
                announce(
                    f"OPC UA: opc.tcp://{self._config.listen}; the server's certificate is "
                    f"{self._certificates.certificate_path}, sha256 {fingerprint_of(self._certificates.certificate)}"
                )
                await serve(self.ended, self._follow, lambda: self._refresh(line), f"opc.tcp://{self._config.listen}")

    def _follow(self, is_over: threading.Event) -> None:
        """Follow the line's results, and pass them to the event loop. On a thread of its own."""
        address, keys = self._at.journal
        with Follower(
            address,
            self._config.name,
            topics=TOPICS,
            window=self._config.hold,
            start=self._config.start,
            timeout_s=TICK_SECONDS,
            explicit=True,
            keep_position=True,
            keys=keys,
        ) as events:
            acknowledged: Delivered | None = None
            while not is_over.is_set():
                try:
                    news: News = events.receive_batch(EVENTS_AT_ONCE)
                except EventsLostError as lost:
                    news = lost
                if news:
                    asyncio.run_coroutine_threadsafe(self._take(news), self._loop).result()
                done = self._held.done_through
                if done is not None and done is not acknowledged:
                    events.acknowledge(done)
                    if self._held.settled_through is not None:
                        events.settle(self._held.settled_through)
                    acknowledged = done

    async def _refresh(self, line: LineState) -> None:
        """Write the line's state, and disconnect clients that are not allowed any more."""
        now = LineNow(line.status, line.handshake(), line.is_heard)
        await self._space.write_line(now)
        state, before = vision_state(now.status, now.handshake), self._before
        if before is not None and before != state:
            values = {"OldState": int(before), "NewState": int(state), "Reason": now.handshake.reason or ""}
            await self._space.emit(STATE_CHANGED, values, now.handshake.detail or now.handshake.state)
        self._before = state
        self._server.disconnect_revoked()

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
        try:
            event = delivered.event
        except MessageError as error:
            await self._lose(1, f"event {delivered.key} cannot be read: {error}")
            event = None
        if isinstance(event, JournalEvent) and (lost := unjournalled_results(event)) != 0:
            await self._lose(lost or 0, f"the line could not journal all events: {event.detail}")
        held = None
        if isinstance(event, VerdictEvent):
            content = delivered.header.decode() if len(delivered.header) <= LARGEST_CONTENT_BYTES else ""
            held = HeldResult(delivered.key, values_of(RESULT_FIELDS, event), content)
        self._held.add(delivered, held)
        if held is not None and isinstance(event, VerdictEvent):
            message, at = f"{event.camera}: {event.verdict}", held.values["CreationTime"]
            await self._space.emit(RESULT_READY, held.values, message, held.id, at)
        return held

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
        await self._space.write_counters(self._counters, latest_is_newest=not self._held.is_full)


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
        end_by_signals(bridge.ended)
        await bridge.run(announce)

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # a client could fill the disk with its warnings
    asyncio.run(run())
