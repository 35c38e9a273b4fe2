"""Options that commands share."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of finite numbers. click's own range accepts nan, which is neither below nor above a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


engine_option = click.option(
    "--engine", "kind", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["f32", "bf16", "int8"]),
    default="f32",
    show_default=True,
    help="Precision to compute in. If this machine cannot, f32 is used instead, with a warning.",
)

topic_option = click.option(
    "--topic", "topics", multiple=True, default=("",), help="Topic prefix, e.g. verdict.top.DEFECT; may be repeated."
)


def reply_timeout_option(seconds: float, until: str) -> Callable[[Command], Command]:
    """Give a command that sends a line a request the option `--timeout`.

    Args:
        seconds: the default.
        until: the end of the help text, such as "for the reply".
    """
    return click.option(
        "--timeout",
        "timeout_s",
        type=FiniteRange(min=0, max=3600),
        default=seconds,
        show_default=True,
        help=f"Seconds to wait {until}.",
    )
