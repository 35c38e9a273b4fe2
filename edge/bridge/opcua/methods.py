"""The methods that clients call: to get and acknowledge results, and to select a product."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from asyncua import ua

from heatline.edge.bridge.opcua.address_space import RECIPE_PREPARED, RECIPES, RESULTS, AddressSpace, Argument
from heatline.edge.bridge.opcua.fields import RESULT_CONTENT, RESULT_FIELDS, Boolean, Int32, String, UInt32
from heatline.edge.bridge.opcua.results import HeldResult, HeldResults
from heatline.edge.bridge.opcua.session import ClientUser, caller
from heatline.edge.delivery.client.commander import Commander
from heatline.edge.errors import CommandRefusedError, HeatlineError
from heatline.edge.util.process import NamedThread
from heatline.edge.util.rate_limited_log import RateLimitedLog
from heatline.edge.util.text import on_one_line

logger = logging.getLogger(__name__)

IDS_AT_MOST = 1000
"""Results in one call."""
ANSWER_SECONDS = 0.5
"""A client's call waits so long for the product; its connection, which it may watch, waits with it. An event reports
what takes longer."""
LONGEST_PRODUCT = 64
"""Characters of a product's name."""
ANY_EVALUATION = -1


class Error(IntEnum):
    """`Error` of a method. As in the specifications, 0 is OK, and an application's own errors are negative."""

    OK = 0
    REFUSED = -1
    NO_REPLY = -2
    NO_COMMANDS = -3
    BUSY = -4
    UNKNOWN_RESULT = -5
    NO_RESULT = -6


_RESULT: tuple[Argument, ...] = (
    *((field.name, field.kind, False) for field in (*RESULT_FIELDS, RESULT_CONTENT)),
    ("Error", Int32, False),
)
INPUTS: dict[str, tuple[Argument, ...]] = {
    "GetLatestResult": (),
    "GetResultById": (("ResultId", String, False),),
    "GetResultIdListFiltered": (
        ("Camera", String, False),
        ("PartId", String, False),
        ("ResultEvaluation", Int32, False),
        ("MaxResults", UInt32, False),
    ),
    "AcknowledgeResults": (("ResultIds", String, True),),
    "PrepareRecipe": (("ExternalId", String, False),),
}
OUTPUTS: dict[str, tuple[Argument, ...]] = {
    "GetLatestResult": _RESULT,
    "GetResultById": _RESULT,
    "GetResultIdListFiltered": (("ResultIdList", String, True), ("Error", Int32, False)),
    "AcknowledgeResults": (("ErrorPerResultId", Int32, True), ("Error", Int32, False)),
    "PrepareRecipe": (("InternalIdOut", String, False), ("IsCompleted", Boolean, False), ("Error", Int32, False)),
}
_NOTHING: list[Any] = [ua.get_default_value(kind) for _, kind, _ in _RESULT[:-1]]


@dataclass(frozen=True)
class Prepared:
    """Outcome of a selection of a product."""

    error: Error
    bundle: str = ""
    detail: str = ""


class Methods:
    """The methods of one server.

    Args:
        may_command: whether a client may acknowledge results and select products.
        commander: makes a connection to the line's commands; None: it takes none.
        on_acknowledged: called after results were acknowledged.
    """

    def __init__(
        self,
        space: AddressSpace,
        held: HeldResults,
        may_command: Callable[[ClientUser | None], bool],
        commander: Callable[[], Commander] | None,
        on_acknowledged: Callable[[], Awaitable[None]],
    ) -> None:
        self._space, self._held, self._may_command = space, held, may_command
        self._commander, self._on_acknowledged = commander, on_acknowledged
        self._preparing: asyncio.Task[Prepared] | None = None
        self._refused = RateLimitedLog(logger)

    async def add(self) -> None:
        """Add the methods to the address space."""
        functions = {
            RESULTS: (self.get_latest_result, self.get_result_by_id, self.get_result_id_list, self.acknowledge_results),
            RECIPES: (self.prepare_recipe,),
        }
        names = iter(INPUTS)
        for parent, methods in functions.items():
            for function in methods:
                name = next(names)
                await self._space.add_method(f"{parent}.{name}", function, INPUTS[name], OUTPUTS[name])

    async def get_latest_result(self) -> list[Any]:
        """Return the newest result, also if it is acknowledged."""
        latest = self._held.latest
        return [*_NOTHING, Error.NO_RESULT] if latest is None else _outputs(latest)

    async def get_result_by_id(self, result_id: str) -> list[Any]:
        """Return a result that is held."""
        found = self._held.find(result_id)
        return [*_NOTHING, Error.UNKNOWN_RESULT] if found is None else _outputs(found)

    async def get_result_id_list(self, camera: str, part_id: str, evaluation: int, at_most: int) -> list[Any]:
        """Return the ids of held results, the oldest first. An empty text, -1 and 0 match everything."""
        found: list[str] = []
        for each in self._held:
            fits = camera in ("", each.values["Camera"]) and part_id in ("", each.values["PartId"])
            if fits and evaluation in (ANY_EVALUATION, each.values["ResultEvaluation"]):
                found.append(each.id)
            if at_most and len(found) == at_most:
                break
        return [found, Error.OK]

    async def acknowledge_results(self, ids: Sequence[str]) -> Any:
        """Acknowledge results that the client has stored."""
        if not self._is_allowed("AcknowledgeResults"):
            return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        if len(ids) > IDS_AT_MOST:
            return ua.StatusCode(ua.StatusCodes.BadTooManyOperations)
        errors = [Error.OK if self._held.acknowledge(each) else Error.UNKNOWN_RESULT for each in ids]
        await self._on_acknowledged()
        return [errors, Error.UNKNOWN_RESULT] if any(errors) else [[], Error.OK]

    async def prepare_recipe(self, product: str) -> Any:
        """Select a product. What takes longer than a client waits goes on, and an event reports its end."""
        if not self._is_allowed("PrepareRecipe"):
            return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        if self._commander is None:
            return ["", True, Error.NO_COMMANDS]
        if not 0 < len(product) <= LONGEST_PRODUCT:  # neither sent, logged nor told to the other clients
            return ["", True, Error.REFUSED]
        if self._preparing is not None and not self._preparing.done():
            return ["", True, Error.BUSY]
        self._preparing = asyncio.create_task(self._prepare(product, self._commander))
        await asyncio.wait({self._preparing}, timeout=ANSWER_SECONDS)
        if not self._preparing.done():
            return ["", False, Error.OK]
        prepared = self._preparing.result()
        return [prepared.bundle, True, prepared.error]

    async def _prepare(self, product: str, commander: Callable[[], Commander]) -> Prepared:
        loop, outcome = asyncio.get_running_loop(), asyncio.Future[Prepared]()

        def select() -> None:
            prepared = _select(commander, product)
            with contextlib.suppress(RuntimeError):  # the bridge has ended
                loop.call_soon_threadsafe(outcome.set_result, prepared)

        NamedThread("opcua select", select).start()
        prepared = await outcome
        logger.info("product %s: %s", on_one_line(product), prepared.detail)
        values = {"ExternalId": product, "InternalId": prepared.bundle, "Error": prepared.error}
        await self._space.emit(RECIPE_PREPARED, values, prepared.detail)
        return prepared

    def _is_allowed(self, method: str) -> bool:
        client = caller.get()
        if self._may_command(client):
            return True
        name = "without a name" if client is None else client.name
        self._refused.error("refused %s of a client that may only read: %s", method, name)
        return False


def _select(commander: Callable[[], Commander], product: str) -> Prepared:
    try:
        with commander() as line:
            selected = line.select(product)
    except CommandRefusedError as error:
        return Prepared(Error.REFUSED, detail=str(error))
    except HeatlineError as error:
        return Prepared(Error.NO_REPLY, detail=str(error))
    return Prepared(Error.OK, selected.bundle.digest, f"product {product} is active")


def _outputs(result: HeldResult) -> list[Any]:
    return [*result.values.values(), result.content, Error.OK]
