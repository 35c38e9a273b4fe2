"""Progress of long work: a bar, or a few lines where no terminal shows a bar."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from heatline.edge.cli.output import progress_console
from heatline.train.readers import LabelledImage

if TYPE_CHECKING:
    from rich.progress import Progress

LINES = 10
"""Number of lines that report the progress of one kind of work where no terminal shows a bar."""
FEWEST = 50
"""With fewer pictures, such lines are not worth reading."""
Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]
"""Wraps pictures while they are processed, to show progress."""
T = TypeVar("T")


class Shown:
    """The progress of one kind of work.

    Args:
        bars: shows nothing where there is no terminal.
        report_line: gets up to `LINES` lines there.
    """

    def __init__(self, bars: "Progress", title: str, report_line: Callable[[str], None]) -> None:
        self._bars, self._title, self._report_line = bars, title, report_line
        self._task, self._done = bars.add_task(title, total=None), 0

    def update(self, done: int, total: int) -> None:
        """Show that so much is done."""
        self._bars.update(self._task, completed=done, total=total, visible=done < total)
        if done * LINES // total > self._done * LINES // total and not self._bars.console.is_terminal:
            self._report_line(f"{self._title}: {done} of {total}")
        self._done = done


def tracked(description: str) -> Callable[[Sequence[T]], Iterable[T]]:
    """Return a `Track` for one kind of work."""

    def track(images: Sequence[T]) -> Iterator[T]:
        from rich.progress import Progress

        console = progress_console()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
            shown = Shown(bars, description, lambda line: click.echo(line, err=True))
            for done, image in enumerate(images, start=1):
                yield image
                if console.is_terminal or len(images) >= FEWEST:
                    shown.update(done, len(images))

    return track
