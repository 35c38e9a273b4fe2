"""The OPC UA bridge of a line: the results that clients can get and acknowledge, and the methods that they call."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from asyncua import ua

from heatline.edge.bridge.line import RESULTS, Line, result_of, serve, unjournalled_results
from heatline.edge.bridge.opcua import address_space as nodes
from heatline.edge.bridge.opcua.address_space import AddressSpace, Boolean, Int32, String, Values
from heatline.edge.bridge.opcua.server import BridgeServer, Certificates, caller, fingerprint_of
from heatline.edge.config.bridges import OpcuaConfig
from heatline.edge.errors import CommandRefusedError, EventsLostError, MessageError
from heatline.edge.target import KeyFiles, file_of
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.systemd import state_folder
from heatline.edge.util.text import on_one_line
from heatline.edge.wire.commands import Selected
from heatline.edge.wire.events import JournalEvent
from heatline.edge.wire.following import Delivered

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""So soon, clients' acknowledgements reach the line."""
EVENTS_AT_ONCE = 100
LARGEST_CONTENT_BYTES, LARGEST_HELD_BYTES = 65536, 4 << 20
SELECT_WITHIN_SECONDS = 120.0
"""A large bundle takes so long to be verified and compiled."""

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


Result = tuple[Values, str]
"""The fields of a result, and its event as JSON; empty if it is too long to be held."""


class HeldResults:
    """Holds results in the order of the journal.

    Args:
        at_most: number of results that are held. If they wait for clients, add no more than there is `room` for.
        wait: whether each is held until a client acknowledges it; otherwise it is done at once.
    """

    def __init__(self, at_most: int, wait: bool) -> None:
        self._at_most, self._wait = at_most, wait
        self.by_id: dict[str, Result] = {}
        """The oldest first."""
        self._in_hand: deque[Delivered] = deque()
        """The first result that waits, and all after it."""
        self._latest: dict[str, Result] = {}
        """The newest one. It can be got even if it is acknowledged."""
        self.settled_through: Delivered | None = None
        """After this result, all events come again at the next start: a report of a loss has no acknowledgement. Any
        thread may read it."""

    @property
    def room(self) -> int:
        """How many events can be added at once. Any thread may read it.

        0: none comes before clients have acknowledged some, and the latest may not be the line's.
        """
        held_bytes = sum(len(event.header) for event in list(self._in_hand))
        return min(EVENTS_AT_ONCE, self._at_most - len(self._in_hand)) if held_bytes < LARGEST_HELD_BYTES else 0

    def add(self, event: Delivered, result: Result) -> None:
        """Add the next result of the journal."""
        self._in_hand.append(event)
        self.by_id[event.key] = result
        self._latest = {event.key: result}
        if not self._wait and len(self.by_id) > self._at_most:
            del self.by_id[next(iter(self.by_id))]
        self._advance()

    def find(self, result_id: str) -> Result | None:
        """Return the result with that id; None: it is not held."""
        return self._latest.get(result_id) or self.by_id.get(result_id)

    def acknowledge(self, result_id: str) -> bool:
        """Record that a client has stored a result; return whether it was held. One that waited is held no more."""
        if result_id not in self.by_id:
            return False
        if self._wait:
            del self.by_id[result_id]
            self._advance()
        return True

    def _advance(self) -> None:
        while self._in_hand and not (self._wait and self._in_hand[0].key in self.by_id):
            self.settled_through = self._in_hand.popleft()


class Bridge:
    """The server of one line, which is named by its name or its file.

    Raises:
        ConfigError: the line's file has no table `[opcua]`, or cannot be used.
    """

    def __init__(self, name: str, key_files: KeyFiles) -> None:
        self._line = line = Line(name, "opcua", key_files)
        self._config: OpcuaConfig = line.table
        folder = self._config.folder or state_folder() or file_of(name).absolute().parent / "opcua"
        self._certificates = Certificates(folder, line.name, self._config)
        self._server = BridgeServer(f"heatline {line.name}", self._certificates, self._config)
        self._space = AddressSpace(self._server, line.places)
        self._held = HeldResults(self._config.hold, wait=self._config.acknowledge == "client")
        self._lost, self._last_loss = 0, ""
        self._losses, self._refused = RateLimitedLog(logger), RateLimitedLog(logger)
        self._preparing: asyncio.Task[list[Any]] | None = None

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or Ctrl-C, and announce it in a sentence once clients can connect.

        Raises: as `Follower.receive_batch`, and DeliveryError: nothing can listen at the address.
        """
        self._loop = asyncio.get_running_loop()
        await self._server.prepare()
        await self._space.build()
        await self._add_methods()
        await self._count()
        async with self._server:
            with self._line:
                announce(
                    f"OPC UA: opc.tcp://{self._config.listen}; the server's certificate is "
                    f"{self._certificates.certificate_path}, sha256 {fingerprint_of(self._certificates.certificate)}"
                )
                await serve(self._follow, self._refresh, f"opc.tcp://{self._config.listen}")

    def _follow(self, is_over: threading.Event) -> None:
        """Follow the line's results, and pass them to the event loop. On a thread of its own."""
        topics = *RESULTS, "journal"  # journal events say what the journal itself lacks
        with self._line.follower(topics=topics, timeout_s=TICK_SECONDS, keep_position=True) as events:
            while not is_over.is_set():
                room = self._held.room
                if room == 0:
                    events.hold()
                    is_over.wait(TICK_SECONDS)
                    continue
                try:
                    taking = self._take(events.receive_batch(room))
                except EventsLostError as lost:  # it is settled with the next result
                    taking = self._lose(lost.through_seq - lost.after_seq, str(lost))
                asyncio.run_coroutine_threadsafe(taking, self._loop).result()
                if self._held.settled_through is not None:
                    events.settle(self._held.settled_through)

    async def _refresh(self) -> None:
        """Write the line's state, and disconnect clients that are not allowed any more."""
        await self._space.write_line(self._line.handshake(), self._line.status if self._line.is_heard else None)
        self._server.disconnect_revoked()

    async def _take(self, events: list[Delivered]) -> None:
        """Hold results and send their events."""
        newest: dict[str, Values] = {}
        for delivered in events:
            try:
                event = delivered.event
            except MessageError as error:
                await self._lose(1, f"event {delivered.key} cannot be read: {error}")
                continue
            if isinstance(event, JournalEvent) and (lost := unjournalled_results(event)) != 0:
                await self._lose(lost or 0, f"the line could not journal all events: {event.detail}")
            if (result := result_of(event)) is not None:
                content = delivered.header.decode() if len(delivered.header) <= LARGEST_CONTENT_BYTES else ""
                values = nodes.values_of(nodes.RESULT_FIELDS, result)
                self._held.add(delivered, (values, content))
                message, at = f"{result.camera}: {result.verdict}", values["CreationTime"]
                await self._space.emit(nodes.RESULT_READY, values, message, delivered.key, at)
                newest[nodes.RESULTS] = newest[f"{nodes.CAMERAS}.{result.camera}"] = values
        for path, values in newest.items():
            await self._space.set(f"{path}.{nodes.LATEST}", values)
        await self._count()

    async def _lose(self, events: int, sentence: str) -> None:
        """Count and report a loss of so many events; 0: it is not known of how many."""
        self._losses.error("%s", sentence)
        self._lost += max(1, events)  # a client that watches the counter must see every loss
        self._last_loss = sentence
        await self._count()
        await self._space.emit(nodes.RESULTS_LOST, {"LostEvents": self._lost}, sentence)

    async def _count(self) -> None:
        counters = len(self._held.by_id), self._lost, self._last_loss
        await self._space.mark(self._space.is_heard, latest_is_newest=self._held.room > 0)
        await self._space.set(nodes.RESULTS, nodes.values_of(nodes.COUNTER_FIELDS, counters))

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
        values, content = found
        return [*values.values(), content, Error.OK]

    async def _get_result_id_list(self) -> list[Any]:
        """Return the ids of held results, the oldest first."""
        return [list(self._held.by_id), Error.OK]

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
        if self._line.commands is None:
            return ["", True, Error.NO_COMMANDS]
        if not 0 < len(product) <= LONGEST_PRODUCT:  # neither sent, logged nor told to the other clients
            return ["", True, Error.REFUSED]
        if self._preparing is not None and not self._preparing.done():
            return ["", True, Error.BUSY]
        self._preparing = asyncio.create_task(self._prepare(product))
        await asyncio.wait({self._preparing}, timeout=ANSWER_SECONDS)
        return self._preparing.result() if self._preparing.done() else ["", False, Error.OK]

    async def _prepare(self, product: str) -> list[Any]:
        """Select a product, and return the outputs of the method."""
        reply = await self._line.command(SELECT_WITHIN_SECONDS, lambda line: line.select(product))
        bundle, error, detail = "", Error.OK, f"product {product} is active"
        if not isinstance(reply, Selected):
            error, detail = Error.REFUSED if isinstance(reply, CommandRefusedError) else Error.NO_REPLY, str(reply)
        elif reply.bundle is not None:
            bundle = reply.bundle.digest
        logger.info("product %s: %s", on_one_line(product), detail)
        values = {"ExternalId": product, "InternalId": bundle, "Error": error}
        await self._space.emit(nodes.RECIPE_PREPARED, values, detail)
        return [bundle, True, error]

    def _is_allowed(self, method: str) -> bool:
        client = caller.get()
        if client is not None and self._certificates.role_of(client.name) == "command":
            return True
        name = "without a certificate" if client is None else client.name
        self._refused.error("refused %s of a client that may only read: %s", method, name)
        return False


def run_bridge(line: str, key_files: KeyFiles, announce: Callable[[str], None]) -> None:
    """Run a line's OPC UA bridge until SIGTERM or Ctrl-C.

    Raises: as `Bridge` and `Bridge.run`.
    """
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # a client could fill the disk with its warnings
    asyncio.run(Bridge(line, key_files).run(announce))
