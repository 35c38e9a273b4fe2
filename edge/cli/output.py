"""What commands print, for people or for programs, and how their process ends."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from edge.errors import InputError
from edge.key_files import public_half
from edge.util.text import encode_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

WIDTH_OF_FILES = 10_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")


class ReaderHasGoneError(Exception):
    """Whoever read our output has closed it. Not an OSError: click and rich would turn that into exit code 1."""


class StandardOutput(io.TextIOWrapper):
    """Standard output that says in a sentence why it takes no more: its disk may be full, which is no fault of ours."""

    def write(self, text: str, /) -> int:
        """As of any text stream.

        Raises:
            InputError: it takes no more.
            ReaderHasGoneError: whoever read it has closed it.
        """
        with _told():
            return super().write(text)

    def flush(self) -> None:
        """As of any text stream. Raises as `write`."""
        with _told():
            super().flush()


class StandardError(io.TextIOWrapper):
    """Standard error that may take no more: progress that nobody can read costs no result."""

    def write(self, text: str, /) -> int:
        """As of any text stream, and whether or not it can."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As `write`."""
        with contextlib.suppress(OSError):
            super().flush()


def replace_standard_streams() -> None:
    """Replace Python's own streams by `StandardOutput` and `StandardError`."""
    # A file's name that is no text goes out as the bytes that it has.
    sys.stdout = _instead(sys.stdout, StandardOutput, "surrogateescape")
    sys.stderr = _instead(sys.stderr, StandardError, "backslashreplace")


def _instead(stream: TextIO | None, kind: type[io.TextIOWrapper], errors: str) -> TextIO:
    if stream is None:  # it was closed by whoever started us
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:  # another one where a test looks on
        return stream
    return kind(
        stream.buffer,
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderHasGoneError from error
    except OSError as error:
        raise InputError(
            f"standard output cannot be written ({error.strerror}); make room there, or send it elsewhere"
        ) from error


def progress_console() -> "Console":
    """Where progress is shown: standard error, so that standard output stays the report."""
    from rich.console import Console

    return Console(stderr=True)


def progress_bar(*, hidden: bool = False) -> "Progress":
    """How many of how many things are done, shown on standard error where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = progress_console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, console=console, disable=hidden or not console.is_terminal)


def print_json(value: object) -> None:
    """One JSON object on one line of standard output, at once."""
    sys.stdout.write(encode_json(value).decode() + "\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey: what comes from a bundle may hold its control characters."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, for people."""
    if not facts or not sys.stdout.isatty():  # what is not read on a screen is searched: it is not cut into lines
        width = max((len(visible(name)) for name in facts), default=0)
        click.echo(visible(title))
        for name, value in facts.items():
            text = visible(str(value)).replace("\n", "\n" + " " * (width + 2))
            click.echo(f"{visible(name):<{width}}  {text}")
        return
    from rich.console import Console  # not above: a line starts the sooner without
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(visible(title)), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(*(escape(visible(str(text))) for text in (name, value)))  # a path or a group may look like markup
    Console().print(table)


def table_console(*, markup: bool = True, quiet: bool = False) -> "Console":
    """Where tables are printed: what is not read on a screen is searched, and must not be cut into lines."""
    from rich.console import Console

    return Console(markup=markup, quiet=quiet, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)


def print_warnings(warnings: Iterable[str]) -> None:
    """One line each on standard error."""
    for words in warnings:
        click.echo(f"warning: {visible(words)}", err=True)


def print_report(report: object, as_json: bool, title: str, facts: Mapping[str, object]) -> None:
    """Print what a command found: all of it as JSON, or facts for people."""
    if as_json:
        print_json(report)
    else:
        print_facts(title, facts)


def print_made_key(path: Path, algorithm: str, fingerprint: str, as_json: bool) -> None:
    """Say that a key was made, whose private half is at a path."""
    report = {
        "private": str(path),
        "public": str(public_half(path)),
        "algorithm": algorithm,
        "fingerprint": fingerprint,
    }
    print_report(report, as_json, f"{path} is made", report)


def leave_at_once(code: int) -> NoReturn:
    """End the process, as a command may have stopped while an engine was still at work.

    The interpreter's own way out trips over the engine's threads as they answer, and aborts. All that a command had to
    put in order, it has.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, InputError, ReaderHasGoneError):  # it takes no more, which is said already
            stream.flush()
    os._exit(code)
