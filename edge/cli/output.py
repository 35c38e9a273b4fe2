"""What commands share: examples in their help, and reports for people or for programs."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click
import msgspec

from edge.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])

WIDE = 10_000
"""Characters: more than a fact has."""

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
    sys.stdout = _instead(sys.stdout, StandardOutput)
    sys.stderr = _instead(sys.stderr, StandardError)


def _instead(stream: TextIO, kind: type[io.TextIOWrapper]) -> TextIO:
    if type(stream) is not io.TextIOWrapper:  # none where it was closed; another one where a test looks on
        return stream
    return kind(
        stream.buffer,
        stream.encoding,
        stream.errors,
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


def print_json(value: object) -> None:
    """One JSON object on one line of standard output, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey: what comes from a bundle may hold its control characters."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, for people."""
    from rich.console import Console  # not above: a line starts the sooner without
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(visible(title)), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(*(escape(visible(str(text))) for text in (name, value)))  # a path or a group may look like markup
    if not facts:  # there is nothing to be as wide as
        click.echo(visible(title))
        return
    # What is not read on a screen is searched, and must not be cut into lines.
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(table)
