"""Marks: what people say of verdicts. A mark is part of a review event."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heatline.edge.wire.requests import ShortText, require_printable

MarkKind = Literal["right", "false_alarm", "missed", "withdrawn"]
"""`right`: the verdict is right. `false_alarm`: the verdict is DEFECT, and the part is good. `missed`: the line did not
find a defect. `withdrawn`: the reviewer takes the former mark back."""
MOST_POINTS = 64
LARGEST_COORDINATE = 1 << 20
PictureId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
CameraName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Coordinate = Annotated[int, Meta(ge=0, le=LARGEST_COORDINATE)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
MarkId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a verdict, with the facts of the verdict that it is about."""

    id: MarkId
    """Chosen by the program that sends it, which recognises by it that the mark is journalled."""
    picture: PictureId
    """Id of the frame's picture, as in its verdict event."""
    camera: CameraName
    captured_at_ns: Annotated[int, Meta(ge=0)]
    """UTC, ns since 1970, as in the verdict event."""
    verdict: Literal["GOOD", "DEFECT"]
    """The verdict that is marked."""
    bundle: Digest
    """Digest of the bundle that gave the verdict."""
    kind: MarkKind
    at_xy: Annotated[list[tuple[Coordinate, Coordinate]], Meta(max_length=MOST_POINTS)] = []
    """Where the missed defects are, px of the frame; empty for other kinds."""
    by: ShortText
    """The reviewer's name."""

    def __post_init__(self) -> None:
        require_printable(by=self.by)
        if self.by != self.by.strip():
            raise ValueError(f"Expected a name without spaces at its ends, got {self.by!a} - at `$.by`")
        if self.kind == "false_alarm" and self.verdict != "DEFECT":
            raise ValueError(f"Expected a DEFECT as false alarm, got {self.verdict} - at `$.verdict`")
        if (self.kind == "missed") != bool(self.at_xy):
            raise ValueError(f"Expected positions for `missed` only, got {len(self.at_xy)} for {self.kind}")
