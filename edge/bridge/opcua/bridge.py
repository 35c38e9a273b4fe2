"""The OPC UA bridge of a line: the results that clients can get and acknowledge, and the methods that they call."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from asyncua import ua

from heatline.edge.bridge.line import (
    RESULTS,
    LineState,
    in_thread,
    load_with_table,
    places_of,
    result_of,
    serve,
    set_by_signals,
    unjournalled_results,
)
from heatline.edge.bridge.opcua import address_space as nodes
from heatline.edge.bridge.opcua.address_space import AddressSpace, Boolean, Int32, String
from heatline.edge.bridge.opcua.server import BridgeServer, Certificates, caller, fingerprint_of
from heatline.edge.config.bridges import host_port
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import CommandRefusedError, EventsLostError, HeatlineError, MessageError
from heatline.edge.target import KeyFiles, endpoint_of, file_of, name_of
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import service_folder
from heatline.edge.util.text import on_one_line
from heatline.edge.wire.events import JournalEvent
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

TOPICS = *RESULTS, "journal"
"""Journal events say what the journal itself lacks."""
TICK_SECONDS = 0.1
"""So soon, clients' acknowledgements reach the line."""
EVENTS_AT_ONCE = 100
LARGEST_CONTENT_BYTES, LARGEST_HELD_BYTES = 65536, 4 << 20
SELECT_WITHIN_SECONDS = 120.0
"""A large bundle takes so long to be verified and compiled."""

Endpoint = tuple[str, ClientKeys | None]
News = list[Delivered] | EventsLostError
ANSWER_SECONDS = 0.5
"""A client's call waits so long for the product; its connection, which it may watch, waits with it. An event reports
what takes longer."""
LONGEST_PRODUCT = 64
"""Characters of a product's name."""
Error = IntEnum("Error", {"OK": 0, "REFUSED": -1, "NO_REPLY": -2, "NO_COMMANDS": -3, "BUSY": -4, "UNKNOWN_RESULT": -5})
"""`Error` of a method. As in the specifications, 0 is OK, and an application's own errors are negative."""
_RESULT: tuple[nodes.Argument, ...] = (
    *((field.name, field.kind, False) for field in nodes.RESULT_FIELDS),
    ("ResultContent", String, False),
    ("Error", Int32, False),
)
METHODS: dict[str, tuple[Sequence[nodes.Argument], Sequence[nodes.Argument]]] = {
    f"{nodes.RESULTS}.GetResultById": ((("ResultId", String, False),), _RESULT),
    f"{nodes.RESULTS}.GetResultIdList": ((), (("ResultIdList", String, True), ("Error", Int32, False))),
    f"{nodes.RESULTS}.AcknowledgeResults": (
        (("ResultIds", String, True),),
        (("ErrorPerResultId", Int32, True), ("Error", Int32, False)),
    ),
    f"{nodes.RECIPES}.PrepareRecipe": (
        (("ExternalId", String, False),),
        (("InternalIdOut", String, False), ("IsCompleted", Boolean, False), ("Error", Int32, False)),
    ),
}
"""Inputs and outputs."""


@dataclass(frozen=True)
class HeldResult:
    """A result as its fields, and its event."""

    id: str
    values: nodes.Values
    content: str
    """The event as JSON; empty if it is too long to be held."""


class HeldResults:
    """Holds results in the order of the journal.

    Args:
        at_most: number of results that are held. If they wait for clients, add no more than there is `room` for.
        wait: whether each is held until a client acknowledges it; otherwise it is done at once.
    """

    def __init__(self, at_most: int, wait: bool) -> None:
        self._at_most, self._wait = at_most, wait
        self._results: dict[str, HeldResult] = {}
        self._in_hand: deque[tuple[Delivered, HeldResult | None]] = deque()
        """Events after the first result that waits, and their results."""
        self.latest: HeldResult | None = None
        """It can be got even if it is acknowledged."""
        self.settled_through: Delivered | None = None
        """After this result, all events come again at the next start: a report of a loss has no acknowledgement. Any
        thread may read it."""

    @property
    def room(self) -> int:
        """How many events can be added at once. Any thread may read it.

        0: none comes before clients have acknowledged some, and the latest may not be the line's.
        """
        held_bytes = sum(len(event.header) for event, _ in list(self._in_hand))
        return min(EVENTS_AT_ONCE, self._at_most - len(self._in_hand)) if held_bytes < LARGEST_HELD_BYTES else 0

    @property
    def ids(self) -> list[str]:
        """The ids of the results, the oldest first."""
        return list(self._results)

    def add(self, event: Delivered, result: HeldResult | None) -> None:
        """Add the next event of the journal, and its result; None: it has none."""
        self._in_hand.append((event, result))
        if result is not None:
            self._results[result.id] = self.latest = result
            if not self._wait and len(self._results) > self._at_most:
                del self._results[next(iter(self._results))]
        self._advance()

    def find(self, result_id: str) -> HeldResult | None:
        """Return the result with that id; None: it is not held."""
        if self.latest is not None and self.latest.id == result_id:
            return self.latest
        return self._results.get(result_id)

    def acknowledge(self, result_id: str) -> bool:
        """Record that a client has stored a result; return whether it was held. One that waited is held no more."""
        if result_id not in self._results:
            return False
        if self._wait:
            del self._results[result_id]
            self._advance()
        return True

    def _advance(self) -> None:
        while self._in_hand:
            event, result = self._in_hand[0]
            if self._wait and result is not None and result.id in self._results:
                return
            self._in_hand.popleft()
            if result is not None:
                self.settled_through = event


class Bridge:
    """The server of one line, which is named by its name or its file.

    Raises:
        ConfigError: the line's file has no table `[opcua]`, or cannot be used.
    """

    def __init__(self, line: str, key_files: KeyFiles) -> None:
        config, name = load_with_table(line, "opcua"), name_of(line)
        assert config.opcua is not None
        self._config = opcua = config.opcua
        self._events, self._journal = (endpoint_of(line, socket, key_files) for socket in ("events", "journal"))
        self._commands = None if config.commands.bind is None else endpoint_of(line, "commands", key_files)
        folder = opcua.folder or service_folder("STATE") or file_of(line).absolute().parent / "opcua"
        self._certificates = Certificates(folder, name, host_port(opcua.listen)[0])
        self._server = BridgeServer(f"heatline {name}", self._certificates, opcua)
        self._space = AddressSpace(self._server, places_of(config))
        self._held = HeldResults(opcua.hold, wait=opcua.acknowledge == "client")
        self._counters = nodes.Counters()
        self._losses, self._refused = RateLimitedLog(logger), RateLimitedLog(logger)
        self._preparing: asyncio.Task[list[Any]] | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or Ctrl-C, and announce it in a sentence once clients can connect.

        Raises: as `Follower.receive_batch`, and DeliveryError: nothing can listen at the address.
        """
        is_over = set_by_signals()
        await self._server.prepare()
        await self._space.build()
        await self._add_methods()
        await self._count()
        async with self._server:
            with LineState(*self._events) as line:
                announce(
                    f"OPC UA: opc.tcp://{self._config.listen}; the server's certificate is "
                    f"{self._certificates.certificate_path}, sha256 {fingerprint_of(self._certificates.certificate)}"
                )
                await serve(is_over, self._follow, lambda: self._refresh(line), f"opc.tcp://{self._config.listen}")

    def _follow(self, is_over: threading.Event) -> None:
        """Follow the line's results, and pass them to the event loop. On a thread of its own."""
        address, keys = self._journal
        with Follower(
            address,
            self._config.name,
            topics=TOPICS,
            start=self._config.start,
            timeout_s=TICK_SECONDS,
            keep_position=True,
            keys=keys,
        ) as events:
            while not is_over.is_set():
                room = self._held.room
                if room == 0:
                    events.hold()
                    is_over.wait(TICK_SECONDS)
                    continue
                try:
                    news: News = events.receive_batch(room)
                except EventsLostError as lost:
                    news = lost
                if news:
                    asyncio.run_coroutine_threadsafe(self._take(news), self._loop).result()
                if self._held.settled_through is not None:
                    events.settle(self._held.settled_through)

    async def _refresh(self, line: LineState) -> None:
        """Write the line's state, and disconnect clients that are not allowed any more."""
        await self._space.write_line(line.handshake(), line.status if line.is_heard else None)
        self._server.disconnect_revoked()

    async def _take(self, news: News) -> None:
        """Offer what came from the journal, or report what will never come."""
        if isinstance(news, EventsLostError):
            # It takes no place once it is reported, and is settled with the next result.
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
        result = None if event is None else result_of(event)
        if result is not None:
            content = delivered.header.decode() if len(delivered.header) <= LARGEST_CONTENT_BYTES else ""
            held = HeldResult(delivered.key, nodes.values_of(nodes.RESULT_FIELDS, result), content)
        self._held.add(delivered, held)
        if held is not None and result is not None:
            message, at = f"{result.camera}: {result.verdict}", held.values["CreationTime"]
            await self._space.emit(nodes.RESULT_READY, held.values, message, held.id, at)
        return held

    async def _lose(self, events: int, sentence: str) -> None:
        """Count and report a loss of so many events; 0: it is not known of how many."""
        self._losses.error("%s", sentence)
        self._counters.lost += max(1, events)  # a client that watches the counter must see every loss
        self._counters.last_loss = sentence
        await self._count()
        await self._space.emit(nodes.RESULTS_LOST, {"LostEvents": self._counters.lost}, sentence)

    async def _count(self) -> None:
        self._counters.held = len(self._held.ids)
        await self._space.write_counters(self._counters, latest_is_newest=self._held.room > 0)

    # Methods.

    async def _add_methods(self) -> None:
        """Add the methods to the address space."""
        functions: tuple[nodes.Method, ...] = (
            self._get_result_by_id,
            self._get_result_id_list,
            self._acknowledge_results,
            self._prepare_recipe,
        )
        for (path, arguments), function in zip(METHODS.items(), functions, strict=True):
            await self._space.add_method(path, function, *arguments)

    async def _get_result_by_id(self, result_id: str) -> list[Any]:
        """Return a result that is held, or the newest one."""
        found = self._held.find(result_id)
        if found is None:
            return [*(ua.get_default_value(kind) for _, kind, _ in _RESULT[:-1]), Error.UNKNOWN_RESULT]
        return [*found.values.values(), found.content, Error.OK]

    async def _get_result_id_list(self) -> list[Any]:
        """Return the ids of held results, the oldest first."""
        return [self._held.ids, Error.OK]

    async def _acknowledge_results(self, ids: Sequence[str] | None) -> Any:
        """Acknowledge results that the client has stored."""
        if not self._is_allowed("AcknowledgeResults"):
            return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        errors = [Error.OK if self._held.acknowledge(each) else Error.UNKNOWN_RESULT for each in ids or ()]
        await self._count()
        return [errors, Error.UNKNOWN_RESULT] if any(errors) else [[], Error.OK]

    async def _prepare_recipe(self, product: str) -> Any:
        """Select a product. What takes longer than a client waits goes on, and an event reports its end."""
        if not self._is_allowed("PrepareRecipe"):
            return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        if self._commands is None:
            return ["", True, Error.NO_COMMANDS]
        if not 0 < len(product) <= LONGEST_PRODUCT:  # neither sent, logged nor told to the other clients
            return ["", True, Error.REFUSED]
        if self._preparing is not None and not self._preparing.done():
            return ["", True, Error.BUSY]
        self._preparing = asyncio.create_task(self._prepare(product, self._commands))
        await asyncio.wait({self._preparing}, timeout=ANSWER_SECONDS)
        return self._preparing.result() if self._preparing.done() else ["", False, Error.OK]

    async def _prepare(self, product: str, at_line: Endpoint) -> list[Any]:
        """Select a product, and return the outputs of the method."""

        def select() -> tuple[str, Error, str]:
            try:
                with Commander(at_line[0], SELECT_WITHIN_SECONDS, at_line[1]) as line:
                    bundle = line.select(product).bundle
                    return bundle.digest if bundle else "", Error.OK, f"product {product} is active"
            except HeatlineError as error:
                return "", Error.REFUSED if isinstance(error, CommandRefusedError) else Error.NO_REPLY, str(error)

        bundle, error, detail = await in_thread("opcua select", select)
        logger.info("product %s: %s", on_one_line(product), detail)
        values = {"ExternalId": product, "InternalId": bundle, "Error": error}
        await self._space.emit(nodes.RECIPE_PREPARED, values, detail)
        return [bundle, True, error]

    def _is_allowed(self, method: str) -> bool:
        client = caller.get()
        if self._server.clients.may_command(client):
            return True
        name = "without a certificate" if client is None else client.name
        self._refused.error("refused %s of a client that may only read: %s", method, name)
        return False


def run_bridge(line: str, key_files: KeyFiles, announce: Callable[[str], None]) -> None:
    """Run a line's OPC UA bridge until SIGTERM or Ctrl-C.

    Raises: as `Bridge` and `Bridge.run`.
    """

    async def run() -> None:
        await Bridge(line, key_files).run(announce)

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # a client could fill the disk with its warnings
    asyncio.run(run())
