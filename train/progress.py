"""Progress over pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

from heatline.edge.cli.output import progress_console
from heatline.train.readers import LabelledImage

LINES = 10
"""Number of lines that report the progress of one kind of work where no terminal shows a bar."""
FEWEST = 50
"""With fewer pictures, such lines are not worth reading."""
Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]
"""Wraps pictures while they are processed, to show progress."""


def tracked(description: str) -> Track:
    """Return a `Track` of `show_progress` for one kind of work.

    Args:
        description: text before the bar.
    """

    def track(images: Sequence[LabelledImage]) -> Iterator[LabelledImage]:
        with show_progress() as name:
            yield from name(description)(images)

    return track


@contextmanager
def show_progress(first: str | None = None) -> Iterator[Callable[[str], Track]]:
    """Show progress from now on: a bar, or at most `LINES` lines per kind of work where no terminal shows a bar.

    Yields a function that returns the `Track` of a kind of work by its description.

    Args:
        first: what is done before pictures are processed.
    """
    from rich.progress import Progress

    console = progress_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(first or "", total=None, visible=first is not None)

        def say(line: str) -> None:
            if not console.is_terminal:
                click.echo(line, err=True)

        def name(description: str) -> Track:
            def track(images: Sequence[LabelledImage]) -> Iterator[LabelledImage]:
                total = len(images)
                progress.update(task, description=description, total=total, completed=0, visible=True)
                for done, image in enumerate(images, start=1):
                    yield image
                    progress.advance(task)
                    if total >= FEWEST and is_line_due(done - 1, done, total):
                        say(f"{description}: {done} of {total}")

            return track

        if first is not None:
            say(first)
        yield name


def is_line_due(before: int, done: int, total: int) -> bool:
    """Return whether work that went from `before` to `done` of `total` has reached its next line.

    >>> [is_line_due(each - 1, each, 20) for each in (1, 2, 3, 4)]
    [False, True, False, True]
    """
    return done * LINES // total > before * LINES // total
