"""What commands share: options, groups of commands, and how they print what they found, as text or as JSON."""

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO, TypeVar, get_args

import click
import msgspec

from heatline.edge.errors import InputError
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

WIDTH_OF_FILES = 10_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")


class ReaderHasGoneError(Exception):
    """The reader of the output has closed it. Not an OSError: click and rich would turn that into exit code 1."""


class StandardStream(io.TextIOWrapper):
    """A standard stream: why output cannot be written, as on a full disk, is one sentence; a message on standard error
    that cannot be shown stops no command.
    """

    def write(self, text: str, /) -> int:
        """Write text, all of it."""
        with self._translated_errors():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._translated_errors():
            super().flush()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self is sys.stdout and isinstance(error, BrokenPipeError):
                raise ReaderHasGoneError from error
            if self is sys.stdout:
                raise InputError(
                    f"standard output cannot be written ({error.strerror}); make room there, or redirect it"
                ) from error


def replace_standard_streams() -> None:
    """Replace Python's own streams by `StandardStream`."""
    # A file name that is not UTF-8 is written as its bytes.
    sys.stdout = _replace(sys.stdout, "surrogateescape")
    sys.stderr = _replace(sys.stderr, "backslashreplace")


def _replace(stream: TextIO | None, errors: str) -> TextIO:
    if stream is None:  # the parent process has closed it
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:  # a test has replaced it
        return stream
    return StandardStream(stream.buffer, stream.encoding, errors, None, stream.line_buffering, stream.write_through)


def progress_console() -> "Console":
    """Return the console for progress: standard error, so that standard output holds only the report."""
    from rich.console import Console

    return Console(stderr=True)


def progress_bar(*, hidden: bool = False) -> "Progress":
    """Return a bar that counts items on standard error, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = progress_console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, console=console, disable=hidden or not console.is_terminal)


def make_empty(folder: Path, option: str) -> None:
    """Make the folder that an option names for the output, and refuse one that is not empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty, and its files would be mixed with new ones; name a new folder with {option}"
        )


def print_json(value: object) -> None:
    """Print a JSON object on one line of standard output, and flush it."""
    sys.stdout.write(encode_json(value).decode() + "\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """Escape control characters, so that a terminal shows them: text from a bundle or a line may hold some."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def say(text: str, *, err: bool = False) -> None:
    """Print a sentence."""
    click.echo(visible(text), err=err)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values as a table, without those that are None. It is not wrapped, so that it can be searched."""
    known = {visible(name): visible(str(value)) for name, value in facts.items() if value is not None}
    width = max(map(len, known), default=0)
    say(title)
    for name, value in known.items():
        click.echo(f"{name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 2)))


def print_table(headings: Iterable[str], rows: Iterable[Iterable[str]], numbers: Container[str]) -> None:
    """Print a table, `numbers` aligned to the right. Output to a file or a pipe is not wrapped, so that it can be
    searched.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(visible, row))
    Console(markup=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES).print(table)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning as one line on standard error."""
    for warning in warnings:
        say(f"warning: {warning}", err=True)


class Rows(NamedTuple):
    """A table of a report."""

    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    numbers: Container[str] = ()
    """Columns that are aligned to the right."""


def print_report(
    report: object,
    as_json: bool,
    title: str,
    facts: Mapping[str, object] | None = None,
    rows: Rows | None = None,
    notes: Iterable[str] = (),
) -> None:
    """Print a command's result: the whole report as JSON, or for people a title with facts, a table and sentences."""
    if as_json:
        print_json(report)
        return
    if title:
        print_facts(title, facts or {})
    if rows is not None and rows.cells:
        print_table(*rows)
    for sentence in notes:
        say(sentence)


def facts_of(report: object, **words: object) -> dict[str, object]:
    """Return the values of a report, a struct or its fields, for people: labels in place of keys, and words in place of
    some values.
    """
    fields = report if isinstance(report, Mapping) else msgspec.structs.asdict(report)  # type: ignore[arg-type]
    return {key.replace("_", " "): value for key, value in {**fields, **words}.items()}


def share_text(value: dict[str, float] | str | int | None) -> str:
    """Return a share with its interval as text, and any other value as it is."""
    if isinstance(value, dict):
        share, low, high = (f"{100 * value[name]:.3g}" for name in ("share", "low", "high"))
        return f"{value['count']}: {share} % ({low} to {high} %)"
    return "" if value is None else str(value)


def print_made_key(private: Path, public: Path, algorithm: str, fingerprint: str, as_json: bool) -> None:
    """Report a new key."""
    report = {"private": str(private), "public": str(public), "algorithm": algorithm, "fingerprint": fingerprint}
    print_report(report, as_json, f"{private} is made", report)


def exit_immediately(code: int) -> NoReturn:
    """End the process at once, also while an engine works.

    An ordinary exit of Python would abort when the engine's threads answer. The command has already closed its
    resources.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, InputError, ReaderHasGoneError):  # the error is already reported
            stream.flush()
    os._exit(code)


Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of finite numbers. click's own range accepts nan, which is neither below nor above a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


engine_option = click.option(
    "--engine",
    "kind",
    type=click.Choice(["openvino", "onnxruntime"]),
    default="openvino",
    show_default=True,
    help="What runs the graph; ONNX Runtime only computes in f32.",
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


def reply_timeout_option(seconds: float, until: str) -> Callable[[Command], Command]:
    """Give a command that sends a line a request the option `--timeout`, whose help says until when it waits."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=FiniteRange(min=0, max=3600),
        default=seconds,
        show_default=True,
        help=f"Seconds to wait {until}.",
    )


class CommandGroup(click.Group):
    """A click group with headings: `sections` names the commands of each; default: one heading for all."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands as click does, but without cutting sentences off."""
        names = self.list_commands(ctx)
        widest = max(map(len, names), default=0)
        for heading, listed in (self._sections or {"Commands": names}).items():
            commands = {name: self.get_command(ctx, name) for name in listed if name in names}
            # Names are padded, so that the sentences of all sections are in one column.
            rows = [
                (name.ljust(widest), command.get_short_help_str(limit=10_000))
                for name, command in commands.items()
                if command is not None and not command.hidden
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
