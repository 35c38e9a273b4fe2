"""Says in plain words why a frame has no verdict, for people who do not read codes."""

from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "dropped.overload": "frames came faster than they could be inspected",
    "dropped.deadline": "the verdict did not come in time",
    "dropped.lost_by_camera": "frames were lost on the way from the camera",
    "dropped.no_frame": "a part was triggered, and no frame of it came",
    "dropped.changeover": "the camera was closed to change its settings",
    "dropped.stopped": "the line or the camera was stopped",
    "dropped.crashed": "the line's program had crashed",
    "failed.incomplete": "frames arrive damaged",
    "failed.unreadable": "the picture cannot be decoded",
    "failed.wrong_size": "frames do not have the expected size",
    "failed.wrong_colour": "frames do not have the expected pixel format",
    "failed.implausible": "frames do not show the product, or not in its usual light or focus",
    "failed.misaligned": "the part does not lie as its reference picture shows it",
    "failed.foreign_area": "something covers the product, or a part of the picture is lost",
    "failed.engine": "the computation failed",
    "failed.frozen": "the same picture comes again and again",
    "failed.clock": "its clock stands still or runs back",
    "failed.stale": "frames are too old when they arrive",
    "failed.frame_ids": "its frame numbers run back or leap",
    "failed.silent": "no frames come",
    "failed.unreachable": "it does not answer",
    "failed.unresponsive": "its program does not answer",
    "failed.process": "its program ended or does not start",
    "failed.broken": "it cannot be used any longer",
    "failed.open": "it could not be opened in time",
}
"""By reason of a verdict event. After `failed.`, the alarms of cameras have the same words."""


def in_words(reason: str) -> str:
    """Return a reason in plain words; one of a newer line stays as it is."""
    return WORDS.get(reason, reason)
