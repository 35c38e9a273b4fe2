"""What the command lines of commands share: options, and groups of commands."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import click

from heatline.edge.wire.events import Verdict

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


VERDICT = click.Choice(get_args(Verdict))


def day_option(name: str, help_text: str) -> Callable[[Command], Command]:
    """Give a command an option for a UTC day, which its function gets as `YYYY-MM-DD`."""
    day = click.DateTime(["%Y-%m-%d"])
    return click.option(name, type=day, help=help_text, callback=lambda _context, _option, at: at and f"{at:%Y-%m-%d}")


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


class CommandGroup(click.Group):
    """A click group with headings.

    Args:
        sections: names of commands by heading; default: one heading for all. A command in no section is listed under
            `Other commands`.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands as click does, but without cutting sentences off."""
        rows = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows[name] = command.get_short_help_str(limit=10_000)
        widest = max(map(len, rows), default=0)
        sections = self._sections or {"Commands": list(rows)}
        named = {name for names in sections.values() for name in names}
        for heading, names in {**sections, "Other commands": [name for name in rows if name not in named]}.items():
            # Names are padded, so that the sentences of all sections are in one column.
            found = [(name.ljust(widest), rows[name]) for name in names if name in rows]
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)
