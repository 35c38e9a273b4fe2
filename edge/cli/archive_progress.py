"""Shows on standard error how far `heatline archive inspect` is: bars on a terminal, else a line now and then."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from heatline.edge.cli.output import progress_console
from heatline.edge.util.text import format_count, on_one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_SECONDS = 30.0
"""How often a line is printed if standard error is not a terminal."""


class ArchiveProgress:
    """Observes an inspection.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console, self._clock = progress_console(), clock
        self._bars = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}")),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        """When each count began, and at how many."""
        self._printed_at = 0.0

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        click.echo(on_one_line(sentence), err=True)

    def progress(self, pictures: int, of: int, unjudged: int, workers: int) -> None:
        """Show how many pictures are inspected."""
        rate = self._rate("pictures", pictures)
        more = f"{unjudged} without verdict, {format_count(workers, 'worker')} at work"
        self._show("pictures", pictures, of, more if rate is None else f"{rate:.1f} pictures/s, {more}")

    def drawing(self, overlays: int, of: int) -> None:
        """Show how many overlays are drawn."""
        self._show("overlays", overlays, of, "drawn for the report")

    def _rate(self, what: str, done: int) -> float | None:
        """Return the items per second since the first call; None: not known yet."""
        now_s = self._clock()
        began_s, before = self._began.setdefault(what, (now_s, done))
        return (done - before) / (now_s - began_s) if done > before and now_s > began_s else None

    def _show(self, what: str, done: int, of: int, more: str) -> None:
        is_first = what not in self._tasks
        if is_first:
            self._bars.start()
            self._tasks[what] = self._bars.add_task(what, total=of, more="")
        is_new_end = done == of and self._bars.tasks[self._tasks[what]].completed < of
        self._bars.update(self._tasks[what], completed=done, more=more)
        if self._console.is_terminal:
            return
        if is_first or is_new_end or self._clock() - self._printed_at >= LINE_SECONDS:
            self._printed_at = self._clock()
            self.say(f"{what}: {done} of {of}, {more}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()
