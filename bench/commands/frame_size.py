"""An option that takes the size of a frame."""

import re
from typing import Any

import click

MOST_PX = 8192


class FrameSize(click.ParamType[tuple[int, int]]):
    """As `2448x2048`, width by height; gives (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        width, height = map(int, sides.groups()) if sides else (0, 0)
        if not (0 < width <= MOST_PX and 0 < height <= MOST_PX):
            self.fail(f"{value} is no size; expected width and height in px, each up to {MOST_PX}, as 2448x2048")
        return height, width
