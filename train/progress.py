"""Progress over pictures, on the terminal of whoever waits."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from edge.cli.output import progress_console
from train.readers import LabelledImage

Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]
"""Wraps pictures as they are worked through."""


def tracked(what: str) -> Track:
    """A progress bar, where a terminal can show one.

    Args:
        what: stands before the bar.
    """
    from rich.progress import track

    console = progress_console()
    return partial(track, description=what, console=console, transient=True, disable=not console.is_terminal)
