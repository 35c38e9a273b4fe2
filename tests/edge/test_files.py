"""Files are replaced whole, locked by one descriptor, and an error of the system names the file and what to do."""

import os
from pathlib import Path

import pytest

from heatline.edge.errors import BundleError, InputError
from heatline.edge.util.files import open_locked, replacing, writing


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("interruption", [None, OSError, KeyboardInterrupt])
def test_a_new_file_replaces_the_old_one_only_when_it_is_complete(
    tmp_path: Path, unique: bool, interruption: type[BaseException] | None
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path, unique=unique) as new:
            new.write_text("new")
            assert path.read_text() == "old"
            if interruption is not None:
                raise interruption

    if interruption is None:
        write()
    else:
        with pytest.raises(interruption):
            write()
    assert path.read_text() == ("old" if interruption else "new")
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "never"):
        pass
    with replacing(path) as one, replacing(path, unique=True) as other:  # as two processes may
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_a_links_target_is_replaced_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    with open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)) as reader:
        for name in ("link", "pipe"):
            with replacing(tmp_path / name) as new:
                new.write_text("new")
        assert ((tmp_path / "real").read_text(), reader.read()) == ("new", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_or_folder_is_locked_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    for path, flags in ((tmp_path / "lock", os.O_RDONLY | os.O_CREAT), (tmp_path, os.O_RDONLY | os.O_DIRECTORY)):
        held, before = open_locked(path, flags), len(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            open_locked(path, flags)
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(held)
        os.close(open_locked(path, flags))


def test_a_file_that_cannot_be_written_is_named_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "a.txt"
    sentence = f"{path} cannot be written (No such file or directory); check the disk and the permissions"
    for kind, more in ((InputError, ""), (BundleError, ", or name another")):
        with pytest.raises(kind) as said, writing(path, kind, or_else=more):
            path.write_text("a")
        assert str(said.value) == sentence + more
    with pytest.raises(BrokenPipeError), writing(path):  # no error of the file
        raise BrokenPipeError
