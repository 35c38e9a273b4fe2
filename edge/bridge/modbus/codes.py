"""The numbers that stand for words in registers. They never change; 0 never means that all is well."""

from collections.abc import Mapping
from enum import IntEnum

from heatline.edge.wire.events import HandshakeState

OTHER = 65535
"""A word that this table does not have: of a newer line."""

HANDSHAKE_STATES: Mapping[HandshakeState, int] = {"READY": 1, "BUSY": 2, "DEGRADED": 3, "NOT_READY": 4}
HANDSHAKE_REASONS: Mapping[str, int] = {
    "starting": 1,
    "stopping": 2,
    "stalled": 3,
    "no_camera": 4,
    "stopped": 5,
    "unreachable": 6,
    "changing": 20,
    "camera_dead": 40,
    "frames_lost": 41,
    "precision": 42,
    "unjournalled": 43,
    "in_flight_not_logged": 44,
    "product_not_stored": 45,
    "evidence_not_stored": 46,
}
"""Reasons of the handshake, and what a bridge adds while the line is silent."""
RESULT_REASONS: Mapping[str, int] = {
    "dropped.overload": 1,
    "dropped.deadline": 2,
    "dropped.lost_by_camera": 3,
    "dropped.no_frame": 4,
    "dropped.changeover": 5,
    "dropped.stopped": 6,
    "dropped.crashed": 7,
    "failed.incomplete": 20,
    "failed.unreadable": 21,
    "failed.wrong_size": 22,
    "failed.wrong_colour": 23,
    "failed.implausible": 24,
    "failed.engine": 25,
    "failed.foreign_area": 26,
    "failed.misaligned": 27,
    "failed.frozen": 40,
    "failed.clock": 41,
    "failed.stale": 42,
    "failed.frame_ids": 43,
    "failed.silent": 44,
    "failed.unreachable": 45,
    "failed.unresponsive": 46,
    "failed.process": 47,
    "failed.broken": 48,
    "failed.open": 49,
}
"""Why a frame has no verdict."""
CAMERA_STATES: Mapping[str, int] = {"OPENING": 1, "LIVE": 2, "IDLE": 3, "DEAD": 4, "ENDED": 5}


class EntryKind(IntEnum):
    """What the mailbox shows."""

    NONE = 0
    RESULT = 1
    LOST = 2
    """Results were deleted before the PLC acknowledged them, or their journal was replaced."""
    UNRECORDED = 3
    """Results that the line could not store: they were sent live only."""
    UNREADABLE = 4
    """A result of a heatline that this bridge does not understand."""


class PartIdState(IntEnum):
    """Whether the registers hold the part id. They are 0 if they cannot hold all of it."""

    NONE = 0
    COMPLETE = 1
    TOO_LONG = 2
    NOT_ASCII = 3


class Command(IntEnum):
    """What the PLC requests."""

    NONE = 0
    TRIGGER = 1
    SELECT = 2
    ACKNOWLEDGE_ERROR = 3


class Outcome(IntEnum):
    """How a command ended. From 10 on, it failed."""

    NONE = 0
    DONE = 1
    ANNOUNCED = 2
    UNKNOWN_COMMAND = 10
    UNKNOWN_CAMERA = 11
    UNKNOWN_PRODUCT = 12
    BAD_PART_ID = 13
    NOT_RESET = 14
    NO_COMMANDS = 15
    NO_REPLY = 16
    NO_ACCESS = 17
    LINE_UNKNOWN_CAMERA = 20
    LINE_UNKNOWN_PRODUCT = 21
    LINE_NOT_TRIGGERED = 22
    LINE_BUSY = 23
    LINE_CAMERA_DEAD = 24
    LINE_NO_FRAME = 25
    LINE_UNUSABLE = 26
    LINE_STOPPING = 27
    LINE_FAULT = 28
    LINE_OTHER = 29
    """The line refuses the command for a reason that this table does not have."""


def refusal(reason: str | None) -> Outcome:
    """Return the outcome of a command that the line refuses, for a reason of docs/commands.md."""
    return Outcome.__members__.get(f"LINE_{reason}".upper(), Outcome.LINE_OTHER)
