"""What a sweep shows of itself while it runs: a bar on a terminal, a line per row in a log."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class SweepWatch:
    """Shown between `with` and its end.

    Args:
        rows: still to be measured.
    """

    def __init__(self, console: Console, rows: int) -> None:
        self._console, self._total, self._begun = console, rows, 0
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=rows)
        self._row = ""

    def begin(self, row: str) -> None:
        """The next row, in words; those before are done."""
        self._row = row
        self._progress.update(self._task, completed=self._begun, description=row)
        self._begun += 1
        if not self._console.is_terminal:
            self.say(f"{self._begun} of {self._total}: {row}")

    def step(self, what: str) -> None:
        """What is done for it now."""
        self._progress.update(self._task, description=f"{self._row}: {what}")

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
