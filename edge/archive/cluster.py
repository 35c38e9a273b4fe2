"""Distributes parts to workers on Ray: on this machine, or on a cluster.

A worker that ends is forgotten, its part goes to another one, and a new worker is asked for, which Ray places wherever
a processor is free, also on a node that joined later. What is finished is in DEST.

Ray does not restart the actors, for this reason, seen with Ray 2.60: of two actors with `max_restarts=-1` on two local
nodes of one processor, one was killed while the other kept the only remaining processor; its task was still pending
after 60 s. Ray Data finished in 30 s with a node killed; with three actors on three processors, its reading task had
not begun after 150 s, without any kill.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from heatline.edge import __version__
from heatline.edge.archive.worker import Files, Job, Opened, Worker
from heatline.edge.errors import EngineError, HeatlineError, last_line

WAIT_SECONDS = 1.0
"""How often the number of processors is read again."""
MOST_FAILED_STARTS = 5
"""So many workers in succession may end before one is ready."""
MOST_DEATHS = 4
"""A part that ended so many workers has failed. One end does not suffice: a node may lose its power at any part."""


class Part(NamedTuple):
    """A part to inspect, and by which bundles."""

    number: int
    digests: Sequence[str]


def processors() -> int:
    """Return the number of processors of the cluster at present."""
    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


class WorkerPool:
    """The workers of a job.

    Args:
        bundles: files by digest.
        most: the largest number of workers; None: one per processor of the cluster.
        warn: called with each sentence that the user should read.
    """

    def __init__(
        self, job: Job, bundles: Mapping[str, Files], most: int | None, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self._job, self._bundles, self._most, self._warn = job, ray.put(dict(bundles)), most, warn
        self._actor: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
        self._busy: dict[Any, tuple[Any, Part | None]] = {}
        """By the pending answer: the worker, and its part; None: it is opening."""
        self._failed_starts = 0
        self._warned = set[str]()

    @property
    def working(self) -> int:
        """The number of workers that inspect."""
        return sum(part is not None for _, part in self._busy.values())

    def inspect(self, parts: Iterable[Part], name_of: Callable[[int], str]) -> Iterator[tuple[Part | None, int]]:
        """Inspect parts. Yield each that is finished with its number of rows without verdict, and None meanwhile.

        Args:
            name_of: names the pictures of a part.
        Raises:
            EngineError: workers end without any progress, or, after all other parts are finished, parts have failed.
            HeatlineError: a worker cannot do the job.
        """
        waiting, deaths = deque(parts), Counter[int]()
        while waiting or self.working:
            self._scale_up(len(waiting))
            yield None, 0
            if not self._busy:  # the cluster has no processor at present
                time.sleep(WAIT_SECONDS)
                continue
            ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=WAIT_SECONDS)
            for answer in ready:
                worker, part = self._busy.pop(answer)
                try:
                    result = ray.get(answer)
                except RayTaskError as error:
                    raise _cause_of(error) from error
                except RayError as error:  # the process or its node has ended
                    ray.kill(worker)  # if it only cannot be reached, it must not go on
                    self._requeue(part, waiting, deaths, error)
                    continue
                self._failed_starts = 0
                if isinstance(result, Opened):
                    self._pass_on(result)
                if waiting:
                    following = waiting.popleft()
                    self._busy[worker.inspect.remote(following.number, following.digests)] = worker, following
                if part is not None:
                    yield part, result
        failed = [name_of(part) for part, count in sorted(deaths.items()) if count >= MOST_DEATHS]
        if failed:
            raise EngineError(
                f"a picture among {', and among '.join(failed)} ended its worker {MOST_DEATHS} times, and they have no "
                "verdicts; look at these files and at the memory of the nodes, take the picture out of SOURCE, and "
                "call the same command again"
            )

    def _scale_up(self, waiting: int) -> None:
        """Ask Ray for workers. It starts one as soon as a processor is free."""
        wanted = min(processors() if self._most is None else self._most, waiting + self.working)
        for _ in range(wanted - len(self._busy)):
            worker = self._actor.remote()
            self._busy[worker.open.remote(__version__, self._job, self._bundles)] = worker, None

    def _pass_on(self, opened: Opened) -> None:
        for sentence in opened.warnings:
            if sentence not in self._warned:
                self._warned.add(sentence)
                self._warn(sentence)

    def _requeue(self, part: Part | None, waiting: deque[Part], deaths: Counter[int], error: RayError) -> None:
        """Put the part of a worker that has ended back, unless it has failed.

        Raises:
            EngineError: workers end before they are ready.
        """
        if part is None:
            self._failed_starts += 1
            if self._failed_starts > MOST_FAILED_STARTS:
                raise EngineError(
                    f"{self._failed_starts} workers in succession ended before they were ready ({_reason(error)}); "
                    "install heatline with the extra cluster on every node, and look at Ray's logs"
                ) from error
            return
        deaths[part.number] += 1
        if deaths[part.number] < MOST_DEATHS:
            self._warn(f"a worker ended ({_reason(error)}); its part {part.number} is inspected again")
            waiting.append(part)
        else:
            self._warn(f"a worker ended ({_reason(error)}); its part {part.number} has failed")


def _reason(error: RayError) -> str:
    """Return the first sentence of Ray's explanation, which then lists causes that are possible."""
    return last_line(error).partition(". ")[0].rstrip(".")


def _cause_of(error: RayTaskError) -> Exception:
    cause = error.cause
    return cause if isinstance(cause, HeatlineError) else error
