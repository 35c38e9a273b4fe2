"""Processors of a training: Ray counts those of a task, and does not assign them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from heatline.train.locks import lock_file


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
