"""The package that line PCs are installed from, built once for all tests of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.boot.packages import build_next_package, build_package
from tests.systemd.line_pc import hindrance


@pytest.fixture(scope="session")
def package(request: pytest.FixtureRequest) -> Path:
    """The package's folder. Downloaded wheels are kept in pytest's cache."""
    why_not = hindrance()
    if why_not is not None:
        pytest.skip(why_not)
    return build_package(request.config.cache.mkdir("package"))


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same of a later version."""
    folder = tmp_path_factory.mktemp("next")
    yield build_next_package(package, folder)
    shutil.rmtree(folder)
