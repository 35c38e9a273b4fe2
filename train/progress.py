"""Progress bars over pictures, on the terminal."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from edge.cli.output import progress_console
from train.readers import LabelledImage

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
