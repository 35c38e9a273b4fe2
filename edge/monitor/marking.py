"""Makes the mark of a verdict from its event and what a person says of it."""

import uuid
from collections.abc import Sequence

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.util.text import format_count
from heatline.edge.wire.events import VerdictEvent
from heatline.edge.wire.marks import MOST_POINTS, Mark, MarkKind

LONGEST_NAME = 64
"""Characters of a reviewer's name."""


def mark_of(event: VerdictEvent, kind: MarkKind, by: str, at_xy: Sequence[tuple[int, int]] = ()) -> Mark:
    """Return a new mark of a frame's verdict.

    Args:
        by: the reviewer's name; spaces at its ends are removed.
        at_xy: where the missed defects are, px of the frame.
    Raises:
        InputError: such a verdict cannot be marked so; the message says what to do.
    """
    if event.picture is None or event.verdict == "NO_VERDICT":
        raise InputError("the frame has no verdict, so there is nothing to mark; mark a frame with GOOD or DEFECT")
    if kind == "false_alarm" and event.verdict == "GOOD":
        raise InputError(
            f"the verdict of picture {event.picture} is GOOD, which is not a false alarm; mark it as right or missed"
        )
    _check_positions(event, kind, at_xy)
    fields = {
        "id": str(uuid.uuid4()),
        "picture": event.picture,
        "camera": event.camera,
        "captured_at_ns": event.times.captured_at_ns,
        "verdict": event.verdict,
        "bundle": event.bundle.digest,
        "kind": kind,
        "at_xy": list(at_xy),
        "by": _name(by),
    }
    try:
        return msgspec.convert(fields, Mark)
    except msgspec.ValidationError as error:
        raise InputError(f"picture {event.picture!a} cannot be marked: {error}") from error


def _check_positions(event: VerdictEvent, kind: MarkKind, at_xy: Sequence[tuple[int, int]]) -> None:
    if kind != "missed" and at_xy:
        raise InputError(f"positions came with a mark as {kind.replace('_', ' ')}; only missed defects have positions")
    if kind == "missed" and not at_xy:
        raise InputError("no position of the missed defect came; name at least one, in px of the frame")
    if len(at_xy) > MOST_POINTS:
        raise InputError(f"{len(at_xy)} positions came, and a mark has at most {MOST_POINTS}; name fewer")
    if event.frame_hw is None:
        return
    height, width = event.frame_hw
    for x, y in at_xy:
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"({x}, {y}) lies outside the frame, which is {width} px wide and {height} px high; expected x from 0 "
                f"to {width - 1} and y from 0 to {height - 1}"
            )


def _name(by: str) -> str:
    """Return a reviewer's name.

    Raises:
        InputError: it cannot be one.
    """
    name = by.strip()
    if not name:
        raise InputError("the name of the reviewer is empty; enter a name")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"{name[: LONGEST_NAME + 1]!a} came as the name of the reviewer, {format_count(len(name), 'character')}; "
            f"expected 1 to {LONGEST_NAME} printable characters, no spaces at its ends"
        )
    return name
