"""Errors of the system become errors of this package, except a broken pipe."""

from pathlib import Path

import pytest

from heatline.edge.errors import BundleError, InputError
from heatline.edge.util.files import writing


def test_a_file_that_cannot_be_written_is_named_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "a.txt"
    with pytest.raises(InputError) as said, writing(path):
        path.write_text("a")
    sentence = f"{path} cannot be written (No such file or directory); check the disk and the permissions"
    assert str(said.value) == sentence
    with pytest.raises(BundleError) as said_else, writing(path, BundleError, or_else=", or name another"):
        path.write_text("a")
    assert str(said_else.value) == f"{sentence}, or name another"


def test_a_broken_pipe_is_not_reported_as_an_error_of_the_file() -> None:
    with pytest.raises(BrokenPipeError), writing(Path("a.txt")):
        raise BrokenPipeError
