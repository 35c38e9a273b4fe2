"""The values that clients read: fields of a result, with names and numbers of OPC 40001-101, and a line's state."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Generic, TypeVar

import msgspec
from asyncua import ua

from heatline.edge.bridge.line import EVALUATIONS
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

T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A value that clients can read."""

    name: str
    kind: ua.VariantType
    of: Callable[[T], Any]
    meaning: str


@dataclass(frozen=True)
class LineNow:
    """What the line said last, if anything, and the handshake as of now."""

    status: StatusEvent | None
    handshake: Handshake
    is_heard: bool


class VisionState(IntEnum):
    """StateNumbers of VisionStateMachineType and VisionAutomaticModeStateMachineType, version 1.00."""

    PREOPERATIONAL = 1
    HALTED = 2
    ERROR = 3
    INITIALIZED = 5
    READY = 6
    SINGLE_EXECUTION = 7
    CONTINUOUS_EXECUTION = 8


def vision_state(status: StatusEvent | None, handshake: Handshake) -> VisionState:
    """Return the state of a line; one that is not heard is in error.

    Args:
        status: the last one that came.
        handshake: as of now, `NOT_READY` if the line is not heard.
    """
    if status is None:
        return VisionState.ERROR
    match handshake.state:
        case "NOT_READY":
            not_begun = {"starting": VisionState.PREOPERATIONAL, "stopping": VisionState.HALTED}
            return {**not_begun, "stopped": VisionState.HALTED}.get(handshake.reason or "", VisionState.ERROR)
        case "BUSY":
            return VisionState.INITIALIZED
    states = {camera.state for camera in status.cameras.values()}
    if "IDLE" not in states:
        return VisionState.CONTINUOUS_EXECUTION if "LIVE" in states else VisionState.READY
    in_flight = any(account.in_flight for account in status.ledger.values())
    return VisionState.SINGLE_EXECUTION if in_flight else VisionState.READY


class ResultState(IntEnum):
    """ResultState of OPC 40001-101."""

    COMPLETED = 1
    ABORTED = 3
    FAILED = 4


def _result_state(event: VerdictEvent) -> ResultState:
    if event.reason is None:
        return ResultState.COMPLETED
    return ResultState.FAILED if event.reason.startswith("failed.") else ResultState.ABORTED


def _details(event: VerdictEvent) -> str:
    return "" if event.reason is None else ": ".join(filter(None, (event.reason, event.detail)))


RESULT_FIELDS: tuple[Field[VerdictEvent], ...] = (
    Field(
        "ResultId",
        String,
        lambda r: f"{r.journal_id}-{r.seq}",
        "`JOURNAL_ID-SEQ`: the same whenever the result comes again.",
    ),
    Field(
        "ResultEvaluation",
        Int32,
        lambda r: int(EVALUATIONS[r.verdict]),
        "1 OK (GOOD), 2 NotOK (DEFECT), 3 NotDecidable (NO_VERDICT); 0 Undefined: no result has come yet.",
    ),
    Field("IsSimulated", Boolean, lambda r: not r.acting, "True while the line is being commissioned: do not act."),
    Field("IsPartial", Boolean, lambda _: False, "Always false: a result is whole."),
    Field(
        "ResultState",
        Int32,
        lambda r: int(_result_state(r)),
        "1 Completed; 3 Aborted: the frame was dropped; 4 Failed: it could not be inspected.",
    ),
    Field("ResultEvaluationDetails", String, _details, "Why there is no verdict; else empty."),
    Field("PartId", String, lambda r: r.part_id or "", "The part, if its trigger named one; else empty."),
    Field(
        "CreationTime",
        DateTime,
        lambda r: _time(r.times.captured_at_ns),
        "When the frame was captured, UTC; 1970-01-01 if unknown after a crash.",
    ),
    Field("ExternalRecipeId", String, lambda r: r.product or "", "The product; empty if the line has none."),
    Field("InternalRecipeId", String, lambda r: r.bundle.digest, "The digest of the bundle."),
    Field("Camera", String, lambda r: r.camera, "The camera."),
    Field("FrameNumber", Int64, lambda r: r.frame_number, "The line's number of the frame, per camera and boot."),
    Field("Frames", UInt32, lambda r: _u32(r.frames), "Number of frames that the result stands for."),
    Field(
        "FrameScore",
        Double,
        lambda r: float("nan") if r.frame_score is None else r.frame_score,
        "The highest logit of the frame's tiles; NaN without a verdict.",
    ),
    Field("ScoreThreshold", Double, lambda r: r.score_threshold, "The threshold that was applied, logits."),
    Field("Regions", UInt32, lambda r: _u32(len(r.regions)), "Number of defects."),
)
RESULT_CONTENT: Field[VerdictEvent] = Field(
    "ResultContent",
    String,
    lambda r: "",
    "The whole [verdict event](protocol.md#verdict-event) as JSON; empty if it is longer than 65,536 bytes.",
)
"""Only methods return it."""

LINE_FIELDS: tuple[Field[LineNow], ...] = (
    Field(
        "Handshake",
        String,
        lambda h: h.handshake.state,
        "`READY`, `BUSY`, `DEGRADED` or `NOT_READY` ([protocol.md](protocol.md#handshake)).",
    ),
    Field("Reason", String, lambda h: h.handshake.reason or "", "Why it is not READY, one word; else empty."),
    Field("Detail", String, lambda h: h.handshake.detail or "", "The same as a sentence, for people."),
    Field(
        "CurrentState",
        Int32,
        lambda h: int(vision_state(h.status, h.handshake)),
        "State of the machine of OPC 40100-1, [below](#the-state-machine).",
    ),
)
"""They are known, and Good, even if the line is silent: then they say so."""
HEARD_FIELDS: tuple[Field[StatusEvent], ...] = (
    Field(
        "Heartbeat",
        UInt32,
        lambda s: _u32(s.handshake.heartbeat),
        "Grows at least every other second while the line inspects.",
    ),
    Field("Acting", Boolean, lambda s: s.acting, "False while the line is being commissioned."),
    Field("Product", String, lambda s: s.product or "", "The active product; empty if the line has none."),
    Field("Bundle", String, lambda s: f"{s.bundle.name} {s.bundle.version}", "The active bundle: name and version."),
    Field("BootId", String, lambda s: s.boot_id, "Changes with each start of the line."),
)
CAMERA_FIELDS: tuple[Field[tuple[CameraState, Account]], ...] = (
    Field("State", String, lambda c: c[0].state, "`OPENING`, `LIVE`, `IDLE`, `DEAD` or `ENDED`."),
    Field("StateReason", String, lambda c: c[0].reason or "", "Why it is dead, one word; else empty."),
    Field("Captured", UInt32, lambda c: _u32(c[1].captured), "Frames since the line's start."),
    Field("Inspected", UInt32, lambda c: _u32(c[1].inspected), "Of these, frames with a verdict."),
    Field("Dropped", UInt32, lambda c: _u32(sum(c[1].dropped.values())), "Frames that were dropped."),
    Field("Failed", UInt32, lambda c: _u32(sum(c[1].failed.values())), "Frames that could not be inspected."),
    Field("InFlight", UInt32, lambda c: _u32(c[1].in_flight), "Frames that are being inspected."),
    Field("Ledger", String, lambda c: msgspec.json.encode(c[1]).decode(), "The ledger with its reasons, as JSON."),
    Field("Openings", UInt32, lambda c: _u32(c[0].openings), "Times that it was opened since the line's start."),
    Field("Counters", String, lambda c: json.dumps(c[0].counters), "Counters of its transport, as JSON."),
)
COUNTER_FIELDS: tuple[Field["Counters"], ...] = (
    Field("HeldResults", UInt32, lambda c: _u32(c.held), "Results that `GetResultIdListFiltered` finds."),
    Field(
        "LostEvents",
        UInt32,
        lambda c: _u32(c.lost),
        "Events of the line that this bridge cannot get any more. A loss of unknown size counts as 1.",
    ),
    Field("LastLoss", String, lambda c: c.last_loss, "The last of these losses as a sentence; else empty."),
)


@dataclass
class Counters:
    """What the bridge counts itself, since its start."""

    held: int = 0
    lost: int = 0
    last_loss: str = ""


def values_of(fields: tuple[Field[T], ...], source: T) -> Values:
    """Return the values of fields by their names."""
    return {field.name: field.of(source) for field in fields}


def _u32(number: int) -> int:
    """Counters that PLCs can read begin again at 0."""
    return number & LARGEST_UINT32


def _time(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)
