"""Types of the options of `heatline evidence`."""

from datetime import datetime
from typing import Any, get_args

import click

from edge.wire.events import Verdict


class Day(click.ParamType[str]):
    """A UTC day, `YYYY-MM-DD`."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return f"{datetime.strptime(value, '%Y-%m-%d').date():%Y-%m-%d}"
        except ValueError:
            self.fail(f"{value!r} is no day; expected YYYY-MM-DD, as 2026-11-28.", param, ctx)


DAY = Day()
VERDICT = click.Choice(get_args(Verdict))
