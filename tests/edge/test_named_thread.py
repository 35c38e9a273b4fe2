"""Threads tell the kernel their names."""

import contextlib
import threading
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.named_thread import NamedThread, threads_named
from tests.command import WITHIN_SECONDS
from tests.edge.lines import running, small_frames, write_line, write_pictures


def known_to_kernel(pid: int | str = "self") -> list[bytes]:
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((task / "comm").read_bytes().rstrip(b"\n"))
    return names


def known_to_kernel_of_this_thread() -> bytes:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_bytes()


@pytest.mark.parametrize(
    ("name", "known"),
    [("infer", b"infer"), ("grab a-camera-of-many-words", b"grab a-camera-o"), ("grab Ä", "grab Ä".encode())],
)
def test_the_kernel_knows_a_thread_by_its_name(name: str, known: bytes) -> None:
    begun, go_on, given = threading.Event(), threading.Event(), list[int]()

    def work(number: int) -> None:
        given.append(number)
        begun.set()
        go_on.wait()

    thread = NamedThread(name, work, 7)
    thread.start()
    begun.wait()
    try:
        assert known in known_to_kernel()
    finally:
        go_on.set()
        thread.join()
    assert (given, thread.name, thread.daemon) == ([7], name, True)


def test_what_a_library_starts_meanwhile_goes_by_the_name_that_is_given() -> None:
    begun, go_on, own = threading.Event(), threading.Event(), known_to_kernel_of_this_thread()

    def work() -> None:
        begun.set()
        go_on.wait()

    with threads_named("engine"):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
    begun.wait()
    try:
        assert b"engine" in known_to_kernel()
        assert known_to_kernel_of_this_thread() == own
    finally:
        go_on.set()
        thread.join()


def test_a_name_that_cannot_be_written_stops_no_work() -> None:
    done = threading.Event()
    NamedThread("\udc80", done.set).start()
    assert done.wait(WITHIN_SECONDS)


def test_all_parts_of_a_line_have_theirs_also_after_a_reload(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    keys = 'path = "frames"\nloop = true\nrate_fps = 20'
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n[commands]\nbind = "ipc://{tmp_path}/commands"\n[engine]\n'
    line = write_line(tmp_path, bundle.path, address, {"top": keys}, tables)
    parts = {b"grab top", b"infer", b"judge", b"report", b"publish", b"journal", b"commands", b"engine"}
    with running(line, address) as run:
        run.next_verdict()
        assert parts <= set(known_to_kernel(run.process.pid))
        line.write_text(line.read_text() + "streams = 1\nthreads = 2\n")
        assert run.reload().in_force
        after = known_to_kernel(run.process.pid)
        run.next_verdict()
        run.end()
    assert parts <= set(after)
    assert after.count(b"changeover") <= 1, "none of the new engine's is called so"
