"""Distributes parts to workers on Ray: on this machine, or on a cluster.

Why actors that Ray does not restart (tried with Ray 2.60, three local nodes, one killed): a restarted actor keeps its
tasks, and they wait as long as the other workers hold the remaining processors, so that the whole command waits. Ray
Data ended, but only after the other actors had; with an actor on every processor it never began, as its own reading
task found none. Here a worker that ends is forgotten, its part goes to another one, and a new worker is asked for,
which Ray places wherever a processor is free, also on a node that joined later. What is finished is in DEST.
"""

import contextlib
import logging
import os
import socket
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edge import __version__
from edge.archive.shipping import Files
from edge.archive.worker import Job, Opened, Worker
from edge.errors import DeliveryError, EngineError, HeatlineError, last_line

# Ray reads them when it is imported: no usage statistics; no upload of the working folder if `uv run` started heatline;
# no warning about graphics cards that are not used.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

import ray
from ray.exceptions import RayError, RayTaskError

WAIT_SECONDS = 1.0
"""How often the number of processors is read again."""
CONNECT_SECONDS = 10.0
MOST_FAILED_STARTS = 5
"""So many workers in succession may end before one is ready."""
SMALL_STORE_BYTES = 80 << 20
"""Ray's object store holds only the bundles; Ray's own default is a third of the memory."""


class Part(NamedTuple):
    """A part to inspect, and by which bundles."""

    number: int
    digests: Sequence[str]


@contextlib.contextmanager
def connected(address: str | None, processors: int, bundle_bytes: int) -> Iterator[None]:
    """Connect to a cluster, or start a Ray that ends with this process.

    Args:
        address: `HOST:PORT` of a cluster that this machine belongs to, or `ray://HOST:PORT` of any; None: start one
            here, whatever the environment says.
        processors: how many a Ray that is started here may use.
        bundle_bytes: what it must hold.
    Raises:
        DeliveryError: the cluster does not answer, or has another version of Ray or Python.
    """
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is not None:
        _require_listener(address)
    with contextlib.ExitStack() as stack:
        # Ray prints on standard output that workers have ended, which `Crew` reports, too.
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        if address is None:
            # A short path: Ray's sockets are in it. Ray's own folder would grow with each call.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="hl-ray-", dir="/tmp", ignore_cleanup_errors=True)
            )
            options |= {
                "num_cpus": processors,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": SMALL_STORE_BYTES + 2 * bundle_bytes,
                "_temp_dir": folder,
            }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a cluster that does not answer, which is an error here
                ray.init(address or "local", **options)
        except (RayError, RuntimeError, ConnectionError, ValueError, OSError) as error:
            raise DeliveryError(
                f"Ray at {address or 'this machine'} cannot be used ({last_line(error)}); expected a cluster that "
                "runs, with the same versions of Ray and Python as here, and its token if it has one"
            ) from error
        stack.callback(ray.shutdown)
        yield


def _require_listener(address: str) -> None:
    """Require that somebody listens: Ray itself waits for minutes.

    Raises:
        DeliveryError: nobody does, or it is no address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise DeliveryError(
            f"no Ray cluster answers at {address} ({last_line(error)}); expected HOST:PORT or ray://HOST:PORT of "
            "one that runs"
        ) from error


def processors() -> int:
    """Return the number of processors of the cluster at present."""
    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


class Crew:
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

    def inspect(self, parts: Iterable[Part], sizes: Callable[[int], int]) -> Iterator[tuple[Part | None, int]]:
        """Inspect parts. Yield each that is finished with its number of rows without verdict, and None meanwhile.

        Args:
            sizes: number of pictures of a part.
        Raises:
            HeatlineError: a worker cannot do the job.
        """
        waiting, deaths = deque(parts), Counter[int]()
        while waiting or self.working:
            self._hire(len(waiting))
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
                    self._bury(part, waiting, deaths, sizes, error)
                    continue
                self._failed_starts = 0
                if isinstance(result, Opened):
                    self._pass_on(result)
                if waiting:
                    following = waiting.popleft()
                    self._busy[worker.inspect.remote(following.number, following.digests)] = worker, following
                if part is not None:
                    yield part, result

    def _hire(self, waiting: int) -> None:
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

    def _bury(
        self,
        part: Part | None,
        waiting: deque[Part],
        deaths: Counter[int],
        sizes: Callable[[int], int],
        error: RayError,
    ) -> None:
        """Put the part of a worker that has ended back.

        Raises:
            EngineError: workers end without any progress.
        """
        if part is None:
            self._failed_starts += 1
            if self._failed_starts > MOST_FAILED_STARTS:
                raise EngineError(
                    f"{self._failed_starts} workers in succession ended before they were ready ({last_line(error)}); "
                    "install heatline with the extra cluster on every node, and look at Ray's logs"
                ) from error
            return
        self._warn(f"a worker ended ({last_line(error)}); its part {part.number} is inspected again")
        waiting.appendleft(part)
        deaths[part.number] += 1
        if deaths[part.number] > 10 + 3 * sizes(part.number):  # more than edge.archive.attempts can need
            raise EngineError(
                f"part {part.number} ended its worker {deaths[part.number]} times ({last_line(error)}); look at the "
                "memory of the nodes and at Ray's logs"
            ) from error


def _cause_of(error: RayTaskError) -> Exception:
    cause = error.cause
    return cause if isinstance(cause, HeatlineError) else error
