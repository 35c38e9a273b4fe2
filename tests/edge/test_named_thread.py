"""Threads tell the kernel their names."""

import contextlib
import threading
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.named_thread import NamedThread
from tests.edge.lines import running, small_frames, write_line, write_pictures


def known_to_kernel(pid: int | str = "self") -> list[bytes]:
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((task / "comm").read_bytes().rstrip(b"\n"))
    return names


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


def test_all_parts_of_a_line_have_theirs(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    keys = 'path = "frames"\nloop = true\nrate_fps = 20'
    tables = f'[journal]\nfolder = "{tmp_path}/journal"\n[commands]\nbind = "ipc://{tmp_path}/commands"'
    with running(write_line(tmp_path, bundle.path, address, {"top": keys}, tables), address) as run:
        run.next_verdict()
        names = known_to_kernel(run.process.pid)
        run.end()
    assert {b"grab top", b"infer", b"judge", b"report", b"publish", b"journal", b"commands"} <= set(names)
