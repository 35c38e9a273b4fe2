"""Prints what commands found, as text or as JSON, and ends their process."""

import contextlib
import io
import os
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from heatline.edge.errors import InputError
from heatline.edge.keys import public_half
from heatline.edge.util.text import encode_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

WIDTH_OF_FILES = 10_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")


class ReaderHasGoneError(Exception):
    """The reader of the output has closed it. Not an OSError: click and rich would turn that into exit code 1."""


class StandardOutput(io.TextIOWrapper):
    """Standard output that reports in one sentence why it cannot be written, as on a full disk."""

    def write(self, text: str, /) -> int:
        """Write text.

        Raises:
            InputError: the output cannot be written.
            ReaderHasGoneError: the reader has closed the output.
        """
        with _translated_errors():
            return super().write(text)

    def flush(self) -> None:
        """Flush the stream. Raises as `write`."""
        with _translated_errors():
            super().flush()


class StandardError(io.TextIOWrapper):
    """Standard error that ignores failed writes: messages that cannot be shown must not stop a command."""

    def write(self, text: str, /) -> int:
        """Write text, if the stream can be written."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be written."""
        with contextlib.suppress(OSError):
            super().flush()


def replace_standard_streams() -> None:
    """Replace Python's own streams by `StandardOutput` and `StandardError`."""
    # A file name that is not UTF-8 is written as its bytes.
    sys.stdout = _replace(sys.stdout, StandardOutput, "surrogateescape")
    sys.stderr = _replace(sys.stderr, StandardError, "backslashreplace")


def _replace(stream: TextIO | None, kind: type[io.TextIOWrapper], errors: str) -> TextIO:
    if stream is None:  # the parent process has closed it
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:  # a test has replaced it
        return stream
    return kind(
        stream.buffer,
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderHasGoneError from error
    except OSError as error:
        raise InputError(
            f"standard output cannot be written ({error.strerror}); make room there, or redirect it"
        ) from error


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
    """Make the folder that an option names for the output.

    Raises:
        InputError: the folder is not empty.
        OSError: the folder cannot be made.
    """
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


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values as a table."""
    if not facts or not sys.stdout.isatty():  # output to a file or a pipe is not wrapped, so that it can be searched
        width = max((len(visible(name)) for name in facts), default=0)
        click.echo(visible(title))
        for name, value in facts.items():
            text = visible(str(value)).replace("\n", "\n" + " " * (width + 2))
            click.echo(f"{visible(name):<{width}}  {text}")
        return
    from rich.console import Console  # imported here, so that a line starts faster
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(visible(title)), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(*(escape(visible(str(text))) for text in (name, value)))  # a path may look like markup
    Console().print(table)


def table_console(*, markup: bool = True, quiet: bool = False) -> "Console":
    """Return the console for tables. Output to a file or a pipe is not wrapped, so that it can be searched."""
    from rich.console import Console

    return Console(markup=markup, quiet=quiet, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)


def print_table(headings: Iterable[str], rows: Iterable[Iterable[str]], numbers: Container[str]) -> None:
    """Print a table.

    Args:
        numbers: columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(visible, row))
    table_console(markup=False).print(table)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning as one line on standard error."""
    for warning in warnings:
        click.echo(f"warning: {visible(warning)}", err=True)


def print_report(report: object, as_json: bool, title: str, facts: Mapping[str, object]) -> None:
    """Print a command's result: the whole report as JSON, or the facts as text."""
    if as_json:
        print_json(report)
    else:
        print_facts(title, facts)


def labelled(report: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a report with labels for people in place of keys."""
    return {key.replace("_", " "): value for key, value in report.items()}


def print_made_key(path: Path, algorithm: str, fingerprint: str, as_json: bool) -> None:
    """Report a new key, whose private half is at a path."""
    report = {
        "private": str(path),
        "public": str(public_half(path)),
        "algorithm": algorithm,
        "fingerprint": fingerprint,
    }
    print_report(report, as_json, f"{path} is made", report)


def exit_immediately(code: int) -> NoReturn:
    """End the process at once, also while an engine works.

    An ordinary exit of Python would abort when the engine's threads answer. The command has already closed its
    resources.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, InputError, ReaderHasGoneError):  # the error is already reported
            stream.flush()
    os._exit(code)
