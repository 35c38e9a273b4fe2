"""A lock belongs to one descriptor, until it is closed."""

import os
from pathlib import Path

import pytest

from heatline.edge.util.files import open_locked


def test_a_file_or_folder_is_locked_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    for path, flags in ((tmp_path / "lock", os.O_RDONLY | os.O_CREAT), (tmp_path, os.O_RDONLY | os.O_DIRECTORY)):
        held = open_locked(path, flags)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            open_locked(path, flags)
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(held)
        os.close(open_locked(path, flags))
