"""Commands to a line and their replies. docs/commands.md is the authority, schemas/ has the JSON Schemas."""

from typing import Literal

from heatline.edge.wire.events import BundleName
from heatline.edge.wire.requests import (
    IdentifiedReply,
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
"""Reasons for which a request is refused. A reader must expect others: `Refused.reason` is any text."""


class TriggerRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="trigger"):
    """Take a frame of the next part: at once with a software trigger, else at the next edge of the hardware trigger."""

    camera: ShortText
    """The camera's name."""
    part_id: ShortText | None = None
    """The part that the frame will show: printable characters. The reply and every event of the frame contain it."""

    def __post_init__(self) -> None:
        require_printable(camera=self.camera, part_id=self.part_id)


class SelectRequest(IdentifiedRequest, frozen=True, kw_only=True, tag="select"):
    """Activate one of the line's products."""

    product: ShortText
    """The product's name."""

    def __post_init__(self) -> None:
        require_printable(product=self.product)


class Triggered(IdentifiedReply, frozen=True, kw_only=True, tag="triggered"):
    """The camera was triggered and took this frame."""

    camera: str
    part_id: str | None = None
    frame_id: int
    """The camera's number of the frame, as in its event; it may wrap, and restarts with the camera."""
    frame_number: int
    """The line's number of the frame, as in its event: 1, 2, 3, ... per camera and boot."""


class Announced(IdentifiedReply, frozen=True, kw_only=True, tag="announced"):
    """The part id waits for the camera's next trigger edge."""

    camera: str
    part_id: str | None = None


class Selected(IdentifiedReply, frozen=True, kw_only=True, tag="selected"):
    """The product is active: every frame that the line takes from now on is inspected as this product."""

    product: str
    bundle: BundleName | None
    """The bundle that is active with it; null: none."""


Request = TriggerRequest | SelectRequest
Reply = Triggered | Announced | Selected | Refused

PROTOCOL: Protocol[Request, Reply] = Protocol(Request, Reply, "docs/commands.md")
request_from, reply_from = PROTOCOL.request_from, PROTOCOL.reply_from


def refusal(reason: Reason, detail: str) -> Refused:
    """Return the refusal of a command, for a reason that docs/commands.md lists."""
    return refuse(reason, detail)
