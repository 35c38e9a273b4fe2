"""Progress bars over pictures, on the terminal."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from heatline.edge.cli.output import progress_console
from heatline.train.readers import LabelledImage

LINES = 10
"""Number of lines that report the progress of one kind of work where no terminal shows a bar."""
Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]
"""Wraps pictures while they are processed, to show progress."""


def tracked(description: str) -> Track:
    """Return a progress bar; it is shown only on a terminal.

    Args:
        description: text before the bar.
    """
    from rich.progress import track

    console = progress_console()
    return partial(track, description=description, console=console, transient=True, disable=not console.is_terminal)


def is_line_due(before: int, done: int, total: int) -> bool:
    """Return whether work that went from `before` to `done` of `total` has reached its next line.

    >>> [is_line_due(each - 1, each, 20) for each in (1, 2, 3, 4)]
    [False, True, False, True]
    """
    return done * LINES // total > before * LINES // total
