"""A new file replaces the old one only when it is complete."""

import os
from pathlib import Path

import pytest

from heatline.edge.util.files import replacing


@pytest.mark.parametrize("unique", [False, True])
def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path, unique: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, unique=unique) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_an_incomplete_file_is_removed(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as new:
            new.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path, unique=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_a_links_target_is_replaced_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as new:
        new.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"

    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(tmp_path / "pipe") as new:
            new.write_text("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
