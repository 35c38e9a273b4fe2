"""The expected size and pixel format: if none is given, the first frame sets it."""

import numpy as np
import pytest

from heatline.edge.colour import PixelFormat
from heatline.edge.frames import BadFrame, Frame, FrameFormat, FrameRule, FrameSize, Stamp


def frame(width: int, height: int, pixel_format: PixelFormat = "Mono8") -> Frame:
    return Frame(Stamp("top", 1), np.zeros((height, width), np.uint8), pixel_format)


def outcomes(rule: FrameRule, *frames: Frame) -> list[str]:
    checked = [rule.check(one) for one in frames]
    return [one.reason if isinstance(one, BadFrame) else "passes" for one in checked]


@pytest.mark.parametrize(
    ("size", "pixel_format", "frames", "expected"),
    [
        ("first", "first", [frame(8, 6), frame(6, 8), frame(8, 6)], ["passes", "wrong_size", "passes"]),  # rotated
        ("first", "first", [frame(8, 6), frame(8, 6, "Mono12")], ["passes", "wrong_colour"]),
        ("any", "first", [frame(8, 6), frame(9, 9), frame(9, 9, "RGB8")], ["passes", "passes", "wrong_colour"]),
        ((8, 6), "any", [frame(8, 6), frame(6, 8)], ["passes", "wrong_size"]),  # width, then height
        ("any", "Mono8", [frame(8, 6, "RGB8"), frame(8, 6)], ["wrong_colour", "passes"]),
        ((8, 6), "Mono8", [frame(7, 6, "RGB8")], ["wrong_size"]),  # both are wrong: one reason is given
        (
            "first",
            "Mono8",
            [frame(9, 9, "RGB8"), frame(8, 6)],
            ["wrong_colour", "passes"],
        ),  # a refused frame sets no size
        ((8, 6), "first", [frame(9, 9, "RGB8"), frame(8, 6)], ["wrong_size", "passes"]),
    ],
)
def test_frames_with_the_expected_size_and_format_pass(
    size: FrameSize, pixel_format: FrameFormat, frames: list[Frame], expected: list[str]
) -> None:
    assert outcomes(FrameRule(size, pixel_format), *frames) == expected


def test_a_refusal_states_the_actual_and_the_expected_value() -> None:
    sent = frame(8, 6)
    for rule, detail in [
        (FrameRule((640, 480)), "8x6 px came, 640x480 px expected"),
        (FrameRule("any", "RGB8"), "Mono8 came, RGB8 expected"),
    ]:
        refused = rule.check(sent)
        assert isinstance(refused, BadFrame)
        assert (refused.detail, refused.stamp) == (detail, sent.stamp)
    assert FrameRule().check(sent) is sent
