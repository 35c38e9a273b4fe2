"""An option that takes a number within limits."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """click's own lets nan through, which is neither below nor above a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number
