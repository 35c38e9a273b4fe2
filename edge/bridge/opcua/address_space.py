"""The nodes of a line in an OPC UA server: variables, methods and events, with names that are the same for every line.

docs/plant-opcua.md explains each. Fields of a result have the names and numbers of OPC 40001-101.

ns=2;s=VisionSystem
ns=2;s=VisionSystem.Line.Handshake                                and so on: the line
ns=2;s=VisionSystem.ResultManagement.GetResultById                and so on: methods
ns=2;s=VisionSystem.ResultManagement.LatestResult.ResultId        and so on: the newest result
ns=2;s=VisionSystem.RecipeManagement.PrepareRecipe
ns=2;s=VisionSystem.Cameras.top.Captured                          and so on: for each camera
"""

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import msgspec
from asyncua import Node, Server, ua
from asyncua.server.event_generator import EventGenerator

from heatline.edge.bridge.line import EVALUATIONS, state_of
from heatline.edge.wire.events import Account, CameraState, Handshake, StatusEvent, VerdictEvent

Values = Mapping[str, Any]
"""Values of fields by their names."""
LARGEST_UINT32 = (1 << 32) - 1

String, Boolean, Double = ua.VariantType.String, ua.VariantType.Boolean, ua.VariantType.Double
Int32, UInt32, Int64, DateTime = (
    ua.VariantType.Int32,
    ua.VariantType.UInt32,
    ua.VariantType.Int64,
    ua.VariantType.DateTime,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A value that clients can read."""

    name: str
    kind: ua.VariantType
    of: Callable[[T], Any]


def _result_state(event: VerdictEvent) -> int:
    """Return ResultState of OPC 40001-101: 1 Completed, 3 Aborted, 4 Failed."""
    if event.reason is None:
        return 1
    return 4 if event.reason.startswith("failed.") else 3


def _details(event: VerdictEvent) -> str:
    return ": ".join(filter(None, (event.reason, event.detail)))


RESULT_FIELDS: tuple[Field[VerdictEvent], ...] = (
    Field("ResultId", String, lambda r: f"{r.journal_id}-{r.seq}"),
    Field("ResultEvaluation", Int32, lambda r: EVALUATIONS[r.verdict]),
    Field("IsSimulated", Boolean, lambda r: not r.acting),
    Field("IsPartial", Boolean, lambda _: False),
    Field("ResultState", Int32, _result_state),
    Field("ResultEvaluationDetails", String, _details),
    Field("PartId", String, lambda r: r.part_id or ""),
    Field("CreationTime", DateTime, lambda r: EPOCH + timedelta(microseconds=r.times.captured_at_ns // 1000)),
    Field("ExternalRecipeId", String, lambda r: r.product or ""),
    Field("InternalRecipeId", String, lambda r: r.bundle.digest if r.bundle else ""),
    Field("Camera", String, lambda r: r.camera),
    Field("FrameNumber", Int64, lambda r: r.frame_number),
    Field("Frames", UInt32, lambda r: _u32(r.frames)),
    Field("FrameScore", Double, lambda r: float("nan") if r.frame_score is None else r.frame_score),
    Field("ScoreThreshold", Double, lambda r: float("nan") if r.score_threshold is None else r.score_threshold),
    Field("Regions", UInt32, lambda r: _u32(len(r.regions))),
    Field("Tolerated", UInt32, lambda r: _u32(r.tolerated)),
    Field("ExtentMm", Double, lambda r: getattr(r.longest, "extent", float("nan"))),
    Field("AreaMm2", Double, lambda r: getattr(r.longest, "area", float("nan"))),
    Field("ErrorMm", Double, lambda r: getattr(r.longest, "error", float("nan"))),
)
LINE_FIELDS: tuple[Field[Handshake], ...] = (
    Field("Handshake", String, lambda h: h.state),
    Field("Reason", String, lambda h: h.reason or ""),
    Field("Detail", String, lambda h: h.detail or ""),
)
"""They are known, and Good, even if the line is silent: then they say so."""
HEARD_FIELDS: tuple[Field[StatusEvent], ...] = (
    Field("Heartbeat", UInt32, lambda s: _u32(s.handshake.heartbeat)),
    Field("Acting", Boolean, lambda s: s.acting),
    Field("Product", String, lambda s: s.product or ""),
    Field("Bundle", String, lambda s: f"{s.bundle.name} {s.bundle.version}" if s.bundle else ""),
    Field("BootId", String, lambda s: s.boot_id),
)
CAMERA_FIELDS: tuple[Field[tuple[CameraState, Account]], ...] = (
    Field("State", String, lambda c: c[0].state),
    Field("StateReason", String, lambda c: c[0].reason or ""),
    Field("Captured", UInt32, lambda c: _u32(c[1].captured)),
    Field("Inspected", UInt32, lambda c: _u32(c[1].inspected)),
    Field("Dropped", UInt32, lambda c: _u32(sum(c[1].dropped.values()))),
    Field("Failed", UInt32, lambda c: _u32(sum(c[1].failed.values()))),
    Field("InFlight", UInt32, lambda c: _u32(c[1].in_flight)),
    Field("Ledger", String, lambda c: msgspec.json.encode(c[1]).decode()),
    Field("Openings", UInt32, lambda c: _u32(c[0].openings)),
    Field("Counters", String, lambda c: json.dumps(c[0].counters)),
)
COUNTER_FIELDS: tuple[Field[tuple[int, int, str]], ...] = (
    Field("HeldResults", UInt32, lambda c: _u32(c[0])),
    Field("LostEvents", UInt32, lambda c: _u32(c[1])),
    Field("LastLoss", String, lambda c: c[2]),
)
"""What the bridge counts itself, since its start."""


def values_of(fields: tuple[Field[T], ...], source: T) -> Values:
    """Return the values of fields by their names."""
    return {field.name: field.of(source) for field in fields}


def _u32(number: int) -> int:
    """Counters that PLCs can read begin again at 0."""
    return number & LARGEST_UINT32


NAMESPACE = "urn:heatline:bridge"
NAMESPACE_INDEX = 2
"""0 is OPC UA's own, 1 the server's. It is the same at every line."""
ROOT = "VisionSystem"
LINE, RESULTS, RECIPES, CAMERAS = (
    f"{ROOT}.{name}" for name in ("Line", "ResultManagement", "RecipeManagement", "Cameras")
)
LATEST = "LatestResult"
RESULT_READY = "ResultReadyEventType"
RECIPE_PREPARED, RESULTS_LOST = "RecipePreparedEventType", "ResultsLostEventType"
EVENT_FIELDS: dict[str, tuple[tuple[str, ua.VariantType], ...]] = {
    RESULT_READY: tuple((field.name, field.kind) for field in RESULT_FIELDS),
    RECIPE_PREPARED: (("ExternalId", String), ("InternalId", String), ("Error", Int32)),
    RESULTS_LOST: (("LostEvents", UInt32),),
}
"""Fields of the types of events, beside those of BaseEventType."""
SEVERITIES = {RESULT_READY: 100, RECIPE_PREPARED: 300, RESULTS_LOST: 800}
GOOD = ua.StatusCode()
UNCERTAIN = ua.StatusCode(ua.StatusCodes.UncertainLastUsableValue)
WAITING = ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData)

Method = Callable[..., Awaitable[Any]]
Argument = tuple[str, ua.VariantType, bool]
"""Name, type, and whether it is an array."""


class AddressSpace:
    """A line's nodes in a server that is prepared."""

    def __init__(self, server: Server, cameras: Iterable[str]) -> None:
        self._server, self._cameras = server, tuple(cameras)
        self._variables: dict[str, ua.DataValue] = {}
        """What clients read, so that only changes are written."""
        self.is_heard, self._latest_is_newest = False, True
        self._events: dict[str, EventGenerator] = {}

    async def build(self) -> None:
        """Add all objects, variables and types of events. All values wait for the line."""
        assert await self._server.register_namespace(NAMESPACE) == NAMESPACE_INDEX
        root = await self._server.nodes.objects.add_object(_node_id(ROOT), _name_in(ROOT))
        objects = {ROOT: root}
        for path, field in node_names(self._cameras).items():
            parent = await self._object(objects, path.rpartition(".")[0])
            value = ua.get_default_value(field.kind)
            await parent.add_variable(_node_id(path), _name_in(path), value, field.kind)
            await self._write(path, ua.Variant(value, field.kind), WAITING)
        await self._object(objects, RECIPES)
        for name, fields in EVENT_FIELDS.items():
            await self._add_event_type(root, name, fields)
        self._emitters = [root.nodeid, ua.NodeId(ua.ObjectIds.Server)]  # many clients listen to the server only

    async def add_method(
        self, path: str, function: Method, inputs: Sequence[Argument], outputs: Sequence[Argument]
    ) -> None:
        """Add a method. Its function gets what the client sent, and returns the outputs in order, or a status code."""

        async def call(_: ua.NodeId, *given: ua.Variant) -> Any:
            returned = await function(*(variant.Value for variant in given))
            if isinstance(returned, ua.StatusCode):
                return returned
            return [
                ua.Variant(value, kind, is_array=is_array)
                for value, (_name, kind, is_array) in zip(returned, outputs, strict=True)
            ]

        node = self._server.get_node(_node_id(path.rpartition(".")[0]))
        await node.add_method(_node_id(path), _name_in(path), call, _arguments(inputs), _arguments(outputs))

    async def write_line(self, handshake: Handshake, status: StatusEvent | None) -> None:
        """Write the state of the line.

        Args:
            handshake: as of now.
            status: the last one; None: the line is silent, and its values stay and become uncertain.
        """
        await self.set(LINE, values_of(LINE_FIELDS, handshake))
        await self.mark(status is not None, self._latest_is_newest)
        if status is not None:
            await self.set(LINE, values_of(HEARD_FIELDS, status))
            for name in self._cameras:
                state, account = state_of(status, name)
                if state is not None:
                    await self.set(f"{CAMERAS}.{name}", values_of(CAMERA_FIELDS, (state, account)))

    async def set(self, path: str, values: Values) -> None:
        """Write variables below a path, except those that do not exist, as of a camera that was removed."""
        for name, value in values.items():
            if f"{path}.{name}" in self._variables:
                await self._set_one(f"{path}.{name}", value)

    async def mark(self, is_heard: bool, latest_is_newest: bool) -> None:
        """Write the status of all variables that have a value, if it changes: whether the line is heard, and whether
        the newest results here can be those of the line.
        """
        if (is_heard, latest_is_newest) != (self.is_heard, self._latest_is_newest):
            self.is_heard, self._latest_is_newest = is_heard, latest_is_newest
            for path, data in self._variables.items():
                if data.StatusCode != WAITING:
                    await self._set_one(path, data.Value.Value)

    async def emit(
        self, kind: str, values: Values, message: str, event_id: str | None = None, at: datetime | None = None
    ) -> None:
        """Send an event to the clients that listen for it; without an id, with one that no other event has."""
        now = datetime.now(UTC)
        event = self._events[kind].event
        for name, value in values.items():
            setattr(event, name, value)
        event.EventId, event.Message = (event_id or uuid.uuid4().hex).encode(), ua.LocalizedText(message)
        event.Time, event.ReceiveTime, event.Severity = at or now, now, SEVERITIES[kind]
        for emitter in self._emitters:
            event.emitting_node = emitter
            await self._server.iserver.subscription_service.trigger_event(event)

    async def _set_one(self, path: str, value: Any) -> None:
        of_latest, before = f".{LATEST}." in path, self._variables[path]
        is_known = self.is_heard or path in _KNOWN_WITHOUT_LINE
        status = GOOD if is_known and (self._latest_is_newest or not of_latest) else UNCERTAIN
        if (before.Value.Value, before.StatusCode) != (value, status):
            await self._write(path, ua.Variant(value, before.Value.VariantType), status)

    async def _write(self, path: str, value: ua.Variant, status: ua.StatusCode) -> None:
        now = datetime.now(UTC)
        self._variables[path] = data = ua.DataValue(value, status, now, now)
        await self._server.write_attribute_value(_node_id(path), data)

    async def _object(self, objects: dict[str, Node], path: str) -> Node:
        """Return the object of a path, which is made together with those above it."""
        if path not in objects:
            parent = await self._object(objects, path.rpartition(".")[0])
            objects[path] = await parent.add_object(_node_id(path), _name_in(path))
        return objects[path]

    async def _add_event_type(self, root: Node, name: str, fields: Sequence[tuple[str, ua.VariantType]]) -> None:
        base = self._server.get_node(ua.NodeId(ua.ObjectIds.BaseEventType))
        kind = await base.add_object_type(_node_id(name), _name_in(name))
        for field, variant in fields:
            value = ua.get_default_value(variant)
            await kind.add_property(_node_id(f"{name}.{field}"), _name_in(field), value, variant)
        self._events[name] = await self._server.get_event_generator(kind, root.nodeid)
        self._events[name].event.data_types.update(fields)


_KNOWN_WITHOUT_LINE = {
    *(f"{LINE}.{field.name}" for field in LINE_FIELDS),
    *(f"{RESULTS}.{field.name}" for field in COUNTER_FIELDS),
}
"""Variables that say what holds also while the line is silent."""


def node_names(cameras: Iterable[str] = ("CAMERA",)) -> dict[str, Field[Any]]:
    """Return the variables of a line by their paths."""
    latest = [*(f"{CAMERAS}.{name}.{LATEST}" for name in cameras), f"{RESULTS}.{LATEST}"]
    of: list[tuple[str, Sequence[Field[Any]]]] = [(LINE, (*LINE_FIELDS, *HEARD_FIELDS)), (RESULTS, COUNTER_FIELDS)]
    of += [(f"{CAMERAS}.{name}", CAMERA_FIELDS) for name in cameras]
    of += [(path, RESULT_FIELDS) for path in latest]
    return {f"{path}.{field.name}": field for path, fields in of for field in fields}


def _node_id(path: str) -> ua.NodeId:
    return ua.NodeId(path, NAMESPACE_INDEX)


def _name_in(path: str) -> ua.QualifiedName:
    """Return the name of the last part of a path. Only a camera's name may have dots."""
    return ua.QualifiedName(path.rpartition(".")[2], NAMESPACE_INDEX)


def _arguments(declared: Sequence[Argument]) -> list[ua.Argument]:
    return [
        ua.Argument(Name=name, DataType=ua.NodeId(kind.value), ValueRank=ua.Int32(1 if is_array else -1))
        for name, kind, is_array in declared
    ]
