"""The kernel has the names of threads, and knows which of them wait."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.util.process import NamedThread, threads_named, waits_for_processor
from tests.command import WITHIN_SECONDS
from tests.edge.lines import RunningLine, running, small_frames, write_line, write_pictures


def known_to_kernel(pid: int | str = "self") -> list[bytes]:
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((task / "comm").read_bytes().rstrip(b"\n"))
    return names


def known_to_kernel_of_this_thread() -> bytes:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_bytes()


@contextlib.contextmanager
def at_work(make: Callable[[Callable[..., None]], threading.Thread]) -> Iterator[threading.Thread]:
    """Run a thread that has begun its work, and ends with the context."""
    begun, go_on = threading.Event(), threading.Event()

    def work(*_: object) -> None:
        begun.set()
        go_on.wait()

    thread = make(work)
    thread.start()
    assert begun.wait(WITHIN_SECONDS)
    try:
        yield thread
    finally:
        go_on.set()
        thread.join()


@pytest.mark.parametrize(
    ("name", "known"),
    [("infer", b"infer"), ("grab a-camera-of-many-words", b"grab a-camera-o"), ("grab Ä", "grab Ä".encode())],
)
def test_the_kernel_knows_a_thread_by_its_name(name: str, known: bytes) -> None:
    with at_work(lambda work: NamedThread(name, work, 7)) as thread:
        assert known in known_to_kernel()
        assert (thread.name, thread.daemon) == (name, True)


def test_threads_that_a_library_starts_inherit_the_name() -> None:
    own = known_to_kernel_of_this_thread()
    with contextlib.ExitStack() as at_end:
        with threads_named("engine"):
            at_end.enter_context(at_work(lambda work: threading.Thread(target=work, daemon=True)))
        assert b"engine" in known_to_kernel()
        assert known_to_kernel_of_this_thread() == own


def test_a_name_that_cannot_be_written_stops_no_work() -> None:
    done = threading.Event()
    NamedThread("\udc80", done.set).start()
    assert done.wait(WITHIN_SECONDS)


def test_all_threads_of_a_line_have_names_also_after_a_reload(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    keys = 'path = "frames"\nloop = true\nrate_fps = 20'
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n[commands]\nbind = "ipc://{tmp_path}/commands"\n[engine]\n'
    line = write_line(tmp_path, bundle.path, address, {"top": keys}, tables)
    parts = {b"grab top", b"infer", b"judge", b"report", b"publish", b"journal", b"commands", b"engine"}

    def named(run: RunningLine) -> bool:
        """Some threads set their names after their start; none of the new engine's keeps that of the changeover."""
        names = known_to_kernel(run.process.pid)
        return parts <= set(names) and names.count(b"changeover") <= 1

    with running(line, address) as run:
        run.until(lambda _: named(run))
        line.write_text(line.read_text() + "streams = 1\nthreads = 2\n")
        assert run.reload().applied
        run.until(lambda _: named(run))
        run.end()


def test_a_thread_that_computes_is_told_from_one_that_waits() -> None:
    begun, ended = threading.Event(), threading.Event()

    def compute() -> None:
        begun.set()
        while not ended.is_set():
            hashlib.sha256(bytes(10_000_000))  # without Python's lock

    computing, waiting = NamedThread("computes", compute), NamedThread("waits", ended.wait)
    assert not waits_for_processor(computing), "it has not started"
    computing.start()
    waiting.start()
    try:
        assert begun.wait(WITHIN_SECONDS)
        give_up = time.monotonic() + WITHIN_SECONDS
        while not waits_for_processor(computing) or waits_for_processor(waiting):
            assert time.monotonic() < give_up
    finally:
        ended.set()
        computing.join()
        waiting.join()
