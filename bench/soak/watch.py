"""What a soak shows of itself while it runs: a bar on a terminal, a line now and then in a log."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.soak.process_tree import TreeSample

LINES = 10
"""Per run, in a log."""


class SoakWatch:
    """Shown between `with` and its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[seen]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._next_line = 0

    def show(self, run: str, frames: int, told: int, sample: TreeSample) -> None:
        """How far a run is.

        Args:
            frames: it is to have.
            told: of them.
        """
        seen = f"{sample.pss_bytes / 1e6:.1f} MB, {sample.descriptors} descriptors, {sample.threads} threads"
        if run not in self._tasks:
            self._tasks[run] = self._progress.add_task(run, total=frames, seen=seen)
            self._next_line = 0
        self._progress.update(self._tasks[run], completed=told, seen=seen)
        if not self._console.is_terminal and told * LINES >= self._next_line * frames:
            line = f"{run}: {told} of {frames} frames, {seen}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._next_line = told * LINES // frames + 1

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
