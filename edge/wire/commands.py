"""Commands to a line and their replies. docs/commands.md is the authority, schemas/ its JSON Schemas."""

from typing import Literal

import msgspec

from edge.wire.events import BundleName
from edge.wire.requests import (
    SCHEMA_VERSION,
    IdentifiedRequest,
    Protocol,
    Refused,
    ShortText,
    refuse,
    require_printable,
)

Reason = Literal[
    "malformed",
    "version",
    "unknown_camera",
    "unknown_product",
    "not_triggered",
    "busy",
    "camera_dead",
    "no_frame",
    "unusable",
    "stopping",
    "fault",
]
"""Why a request is refused. A reader must expect others: `Refused.reason` is any text."""


class TriggerRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="trigger"):
    """Take a frame of the next part: at once where heatline triggers, else with the next edge of the line's trigger."""

    camera: ShortText
    part_id: ShortText | None = None

    def __post_init__(self) -> None:
        require_printable(camera=self.camera, part_id=self.part_id)


class SelectRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="select"):
    """Put one of the line's products in force."""

    product: ShortText

    def __post_init__(self) -> None:
        require_printable(product=self.product)


class Triggered(msgspec.Struct, frozen=True, kw_only=True, tag="triggered", tag_field="type"):
    """The camera was triggered, and this is the frame that came of it."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    camera: str
    part_id: str | None = None
    frame_id: int
    """The camera's own number, as in the frame's verdict event."""
    frame_number: int
    """heatline's count of the camera's frames since boot."""


class Announced(msgspec.Struct, frozen=True, kw_only=True, tag="announced", tag_field="type"):
    """The part id waits for the camera's next trigger edge."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    camera: str
    part_id: str | None = None


class Selected(msgspec.Struct, frozen=True, kw_only=True, tag="selected", tag_field="type"):
    """The product is in force: every frame that the line takes from now on is inspected as it."""

    schema_version: int = SCHEMA_VERSION
    request_id: str | None = None
    product: str
    bundle: BundleName


Request = TriggerRequest | SelectRequest
Reply = Triggered | Announced | Selected | Refused

PROTOCOL: Protocol[Request, Reply] = Protocol(Request, Reply, "docs/commands.md")
request_from, reply_from = PROTOCOL.request_from, PROTOCOL.reply_from


def refusal(reason: Reason, detail: str) -> Refused:
    """The refusal of a command, for a reason that docs/commands.md has."""
    return refuse(reason, detail)
