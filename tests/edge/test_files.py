"""Files are replaced whole, locked by one descriptor, and an error of the system names the file and what to do."""

import os
from pathlib import Path

import pytest

from heatline.edge.util.files import replacing


@pytest.mark.parametrize("unique", [False, True])
def test_a_new_file_replaces_the_old_one_only_when_it_is_complete_and_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unique: bool
) -> None:
    path, synced = tmp_path / "a.txt", list[tuple[str, str]]()
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), path.read_text())))
    for interruption in (OSError, KeyboardInterrupt):
        with pytest.raises(interruption), replacing(path, unique=unique) as new:  # noqa: PT012
            new.write_text("half")
            raise interruption
        assert path.read_text() == "old"
    with replacing(path, unique=unique) as new:
        new.write_text("new")
    assert (path.read_text(), synced) == ("new", [(str(new), "old")])
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "never"):
        pass
    with replacing(path) as one, replacing(path, unique=True) as other:  # as two processes may
        one.write_text("one")
        other.write_text("other")
    assert (path.read_text(), os.listdir(tmp_path)) == ("one", ["a.txt"])


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
