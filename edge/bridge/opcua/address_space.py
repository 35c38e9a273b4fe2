"""The nodes of a line in an OPC UA server: variables, methods and events, with names that are the same for every line.

ns=2;s=VisionSystem
ns=2;s=VisionSystem.Line.CurrentState                             and so on: the line
ns=2;s=VisionSystem.ResultManagement.GetLatestResult              and so on: methods
ns=2;s=VisionSystem.ResultManagement.LatestResult.ResultId        and so on: the newest result
ns=2;s=VisionSystem.RecipeManagement.PrepareRecipe
ns=2;s=VisionSystem.Cameras.top.Captured                          and so on: for each camera
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from asyncua import Node, Server, ua
from asyncua.server.event_generator import EventGenerator

from heatline.edge.bridge.opcua.fields import (
    CAMERA_FIELDS,
    COUNTER_FIELDS,
    HEARD_FIELDS,
    LINE_FIELDS,
    RESULT_FIELDS,
    Counters,
    Field,
    Int32,
    LineNow,
    OneCamera,
    String,
    Values,
    values_of,
)

NAMESPACE = "urn:heatline:bridge"
NAMESPACE_INDEX = 2
"""0 is OPC UA's own, 1 the server's. It is the same at every line."""
ROOT = "VisionSystem"
LINE, RESULTS, RECIPES, CAMERAS = (
    f"{ROOT}.{name}" for name in ("Line", "ResultManagement", "RecipeManagement", "Cameras")
)
LATEST = "LatestResult"
RESULT_READY, STATE_CHANGED = "ResultReadyEventType", "StateChangedEventType"
RECIPE_PREPARED, RESULTS_LOST = "RecipePreparedEventType", "ResultsLostEventType"
EVENT_FIELDS: dict[str, tuple[tuple[str, ua.VariantType], ...]] = {
    RESULT_READY: tuple((field.name, field.kind) for field in RESULT_FIELDS),
    STATE_CHANGED: (("OldState", Int32), ("NewState", Int32), ("Reason", String)),
    RECIPE_PREPARED: (("ExternalId", String), ("InternalId", String), ("Error", Int32)),
    RESULTS_LOST: (("LostEvents", ua.VariantType.UInt32),),
}
"""Fields of the types of events, beside those of BaseEventType."""
SEVERITIES = {RESULT_READY: 100, STATE_CHANGED: 300, RECIPE_PREPARED: 300, RESULTS_LOST: 800}
GOOD = ua.StatusCode()
UNCERTAIN = ua.StatusCode(ua.StatusCodes.UncertainLastUsableValue)
WAITING = ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData)

Method = Callable[..., Awaitable[Any]]
Argument = tuple[str, ua.VariantType, bool]
"""Name, type, and whether it is an array."""


class AddressSpace:
    """A line's nodes.

    Args:
        server: prepared.
        cameras: names of the line's cameras.
    """

    def __init__(self, server: Server, cameras: Iterable[str]) -> None:
        self._server, self._cameras = server, tuple(cameras)
        self._kinds: dict[str, ua.VariantType] = {}
        self._written: dict[str, tuple[Any, ua.StatusCode]] = {}
        """Value and status of each variable, so that only changes are written."""
        self._of_line: set[str] = set()
        """Variables that only the line knows."""
        self._is_heard = False
        self._latest: set[str] = set()
        """Variables of the newest results."""
        self._latest_is_newest = True
        self._events: dict[str, EventGenerator] = {}
        self._emitters: list[ua.NodeId] = []

    async def build(self) -> None:
        """Add all objects, variables and types of events. All values wait for the line."""
        assert await self._server.register_namespace(NAMESPACE) == NAMESPACE_INDEX
        root = await self._object(self._server.nodes.objects, ROOT)
        line, results, _ = [await self._object(root, path) for path in (LINE, RESULTS, RECIPES)]
        await self._variables(line, LINE, LINE_FIELDS)
        await self._variables(line, LINE, HEARD_FIELDS, of_line=True)
        await self._variables(results, RESULTS, COUNTER_FIELDS)
        latest = f"{RESULTS}.{LATEST}"
        await self._variables(await self._object(results, latest), latest, RESULT_FIELDS, of_line=True)
        cameras = await self._object(root, CAMERAS)
        for name in self._cameras:
            path = f"{CAMERAS}.{name}"
            camera = await self._object(cameras, path)
            await self._variables(camera, path, CAMERA_FIELDS, of_line=True)
            latest = f"{path}.{LATEST}"
            await self._variables(await self._object(camera, latest), latest, RESULT_FIELDS, of_line=True)
        for name, fields in EVENT_FIELDS.items():
            await self._add_event_type(root, name, fields)
        self._emitters = [root.nodeid, ua.NodeId(ua.ObjectIds.Server)]  # many clients listen to the server only

    async def add_method(
        self, path: str, function: Method, inputs: Sequence[Argument], outputs: Sequence[Argument]
    ) -> None:
        """Add a method. Its function gets plain values of the declared types, and returns the outputs in order, or a
        status code.
        """
        parent, _, name = path.rpartition(".")

        async def call(_: ua.NodeId, *given: ua.Variant) -> Any:
            if len(given) != len(inputs):
                few = len(given) < len(inputs)
                return ua.StatusCode(ua.StatusCodes.BadArgumentsMissing if few else ua.StatusCodes.BadTooManyArguments)
            values = []
            for variant, (_name, kind, is_array) in zip(given, inputs, strict=True):
                value = [] if is_array and variant.Value is None else variant.Value
                if value == [] and is_array:
                    pass
                elif variant.VariantType != kind or isinstance(value, list) != is_array:
                    return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
                values.append("" if kind == String and value is None else value)
            returned = await function(*values)
            if isinstance(returned, ua.StatusCode):
                return returned
            return [
                ua.Variant(value, kind, is_array=is_array)
                for value, (_name, kind, is_array) in zip(returned, outputs, strict=True)
            ]

        node = self._server.get_node(_node_id(parent))
        name_there = ua.QualifiedName(name, NAMESPACE_INDEX)
        await node.add_method(_node_id(path), name_there, call, _arguments(inputs), _arguments(outputs))

    # Values.

    async def write_line(self, line: LineNow) -> None:
        """Write what the line said last. If it is silent, its values stay and become uncertain."""
        await self._write(LINE, values_of(LINE_FIELDS, line))
        if line.is_heard and line.status is not None:
            await self._hear(True)
            await self._write(LINE, values_of(HEARD_FIELDS, line.status))
            for name in self._cameras:
                state, account = line.status.cameras.get(name), line.status.ledger.get(name)
                if state is not None and account is not None:
                    await self._write(f"{CAMERAS}.{name}", values_of(CAMERA_FIELDS, OneCamera(state, account)))
        else:
            await self._hear(False)

    async def write_result(self, values: Values, of_all: bool) -> None:
        """Write the newest result of a camera.

        Args:
            of_all: whether it is also the newest one of all cameras.
        """
        if values["Camera"] in self._cameras:
            await self._write(f"{CAMERAS}.{values['Camera']}.{LATEST}", values)
        if of_all:
            await self._write(f"{RESULTS}.{LATEST}", values)

    async def mark_latest(self, is_newest: bool) -> None:
        """Write whether the newest results here can be those of the line; otherwise they become uncertain."""
        if is_newest != self._latest_is_newest:
            self._latest_is_newest = is_newest
            await self._write_again(self._latest)

    async def write_counters(self, counters: Counters) -> None:
        """Write what the bridge counts."""
        await self._write(RESULTS, values_of(COUNTER_FIELDS, counters))

    async def emit(
        self, kind: str, values: Values, message: str, event_id: str | None = None, at: datetime | None = None
    ) -> None:
        """Send an event to the clients that listen for it.

        Args:
            event_id: None: one that no other event has.
        """
        now = datetime.now(UTC)
        event = self._events[kind].event
        for name, value in values.items():
            setattr(event, name, value)
        event.EventId, event.Message = (event_id or uuid.uuid4().hex).encode(), ua.LocalizedText(message)
        event.Time, event.ReceiveTime, event.Severity = at or now, now, SEVERITIES[kind]
        for emitter in self._emitters:
            event.emitting_node = emitter
            await self._server.iserver.subscription_service.trigger_event(event)

    async def _hear(self, is_heard: bool) -> None:
        """Write the status of all values that only the line knows, if it changes."""
        if is_heard == self._is_heard:
            return
        self._is_heard = is_heard
        await self._write_again(self._of_line)

    async def _write_again(self, paths: Iterable[str]) -> None:
        """Write the status of variables that have a value."""
        for path in paths:
            value, status = self._written[path]
            if status != WAITING:
                await self._write_one(path, value)

    async def _write(self, path: str, values: Values) -> None:
        for name, value in values.items():
            await self._write_one(f"{path}.{name}", value)

    async def _write_one(self, path: str, value: Any) -> None:
        is_uncertain = path in self._of_line and not self._is_heard
        is_uncertain |= path in self._latest and not self._latest_is_newest
        status = UNCERTAIN if is_uncertain else GOOD
        if self._written[path] == (value, status):
            return
        self._written[path] = value, status
        await self._server.write_attribute_value(_node_id(path), _data(value, self._kinds[path], status))

    # Building.

    async def _object(self, parent: Node, path: str) -> Node:
        name = path.rpartition(".")[2]
        return await parent.add_object(_node_id(path), ua.QualifiedName(name, NAMESPACE_INDEX))

    async def _variables(self, parent: Node, path: str, fields: Sequence[Field[Any]], of_line: bool = False) -> None:
        """Add variables that wait for their first value.

        Args:
            of_line: whether only the line knows them.
        """
        for field in fields:
            own = f"{path}.{field.name}"
            name = ua.QualifiedName(field.name, NAMESPACE_INDEX)
            nothing = ua.get_default_value(field.kind)
            await parent.add_variable(_node_id(own), name, nothing, field.kind)
            await self._server.write_attribute_value(_node_id(own), _data(nothing, field.kind, WAITING))
            self._kinds[own], self._written[own] = field.kind, (nothing, WAITING)
            if of_line:
                self._of_line.add(own)
            if path.endswith(f".{LATEST}"):
                self._latest.add(own)

    async def _add_event_type(self, root: Node, name: str, fields: Sequence[tuple[str, ua.VariantType]]) -> None:
        base = self._server.get_node(ua.NodeId(ua.ObjectIds.BaseEventType))
        kind = await base.add_object_type(_node_id(name), ua.QualifiedName(name, NAMESPACE_INDEX))
        for field, variant in fields:
            own = ua.QualifiedName(field, NAMESPACE_INDEX)
            await kind.add_property(_node_id(f"{name}.{field}"), own, ua.get_default_value(variant), variant)
        self._events[name] = await self._server.get_event_generator(kind, root.nodeid)
        self._events[name].event.data_types.update(fields)


def node_names(cameras: Iterable[str] = ("CAMERA",)) -> dict[str, Field[Any]]:
    """Return the variables of a line by their paths."""
    latest = [*(f"{CAMERAS}.{name}.{LATEST}" for name in cameras), f"{RESULTS}.{LATEST}"]
    of: list[tuple[str, Sequence[Field[Any]]]] = [(LINE, (*LINE_FIELDS, *HEARD_FIELDS)), (RESULTS, COUNTER_FIELDS)]
    of += [(f"{CAMERAS}.{name}", CAMERA_FIELDS) for name in cameras]
    of += [(path, RESULT_FIELDS) for path in latest]
    return {f"{path}.{field.name}": field for path, fields in of for field in fields}


def _node_id(path: str) -> ua.NodeId:
    return ua.NodeId(path, NAMESPACE_INDEX)


def _data(value: Any, kind: ua.VariantType, status: ua.StatusCode) -> ua.DataValue:
    now = datetime.now(UTC)
    return ua.DataValue(ua.Variant(value, kind), status, now, now)


def _arguments(declared: Sequence[Argument]) -> list[ua.Argument]:
    return [
        ua.Argument(Name=name, DataType=ua.NodeId(kind.value), ValueRank=ua.Int32(1 if is_array else -1))
        for name, kind, is_array in declared
    ]
