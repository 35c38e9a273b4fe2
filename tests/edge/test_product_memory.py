"""The selected product survives a restart; a disk that takes nothing leaves the one before."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.service.product_memory import remember_product, remembered_product

NAMES = st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1), min_size=1, max_size=3)


@settings(deadline=None, max_examples=20)  # each is written down to the disk
@given(NAMES)
def test_the_last_product_that_was_kept_is_remembered(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    assert remembered_product(folder) is None
    for name in names:
        remember_product(folder, name)
    assert remembered_product(folder) == names[-1]
    assert [file.name for file in folder.iterdir()] == ["product"]


def test_without_a_folder_nothing_is_kept() -> None:
    remember_product(None, "a")
    assert remembered_product(None) is None


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    remember_product(tmp_path, "a")
    (tmp_path / "product.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        remember_product(tmp_path, "b")
    assert remembered_product(tmp_path) == "a"


def test_what_cannot_be_read_is_not_taken_for_no_product(tmp_path: Path) -> None:
    (tmp_path / "product").write_bytes(b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        remembered_product(tmp_path)
    (tmp_path / "product").unlink()
    (tmp_path / "product").mkdir()
    with pytest.raises(IsADirectoryError):
        remembered_product(tmp_path)
