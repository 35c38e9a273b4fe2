"""The training of one product, as Ray runs it on a node, in a process and on processors of its own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from heatline.edge.cluster import check_same_version
from heatline.edge.errors import HeatlineError
from heatline.edge.util.text import format_count
from heatline.train.config import TrainConfig
from heatline.train.files import lock_file
from heatline.train.run import RunFolder


@contextmanager
def own_processors(count: int) -> Iterator[None]:
    """Limit this process to `count` processors that no other training in this context has.

    Its threads, also those of PyTorch and OpenVINO, then share these, as if the machine had no others. If other
    trainings hold too many, processors are shared.

    Raises:
        TrainingError: the locks, in the folder for temporary files, cannot be written.
    """
    before = os.sched_getaffinity(0)
    locks = Path(tempfile.gettempdir()) / f"heatline-processors-{os.getuid()}"
    with ExitStack() as held:
        own = list[int]()
        for number in sorted(before):
            if len(own) < count and held.enter_context(lock_file(locks / str(number))):
                own.append(number)
        own += sorted(before - {*own})[: count - len(own)]
        os.sched_setaffinity(0, own)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


LOG = "training.log"
"""File of the run's folder: what the training reported."""


def train_product(config: TrainConfig, version: str, processors: int) -> HeatlineError | None:
    """Train a product, or resume its training; return the error if it cannot be trained.

    Another process that trains it into the same folder, such as one whose driver has died, is waited for.

    Args:
        config: its configuration; `resume` is set if the folder holds a run.
        version: of heatline, where the command was given.
        processors: number of processors of this node that the training uses.
    """
    try:
        check_same_version(version)
        run = RunFolder(Path(config.out))
        lock = run.folder.parent / ".locks" / run.folder.name
        with lock_file(lock, wait=True), own_processors(processors):
            from heatline.train.fit import fit  # PyTorch counts the processors as it is imported

            log = _Log(run, f"on {os.uname().nodename}, with {format_count(processors, 'processor')}")
            fit(msgspec.structs.replace(config, resume=run.config.exists()), report_line=log.write)
    except HeatlineError as error:
        return error
    return None


class _Log:
    """Writes lines to the log of a run, from when its folder exists."""

    def __init__(self, run: RunFolder, first: str) -> None:
        self._run, self._waiting = run, [first]

    def write(self, line: str) -> None:
        self._waiting.append(line)
        if self._run.config.exists():
            text = "".join(f"{line}\n" for line in self._waiting)
            with (self._run.folder / LOG).open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)
            self._waiting.clear()
