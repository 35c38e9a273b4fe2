"""The package that line PCs are installed from, built once for all its tests."""

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need, need_root
from tests.systemd.machines import LinePc, build_next_package, build_package


@pytest.fixture(scope="session")
def package(request: pytest.FixtureRequest, testrun_uid: str) -> Path:
    """The package's folder, built once for all processes of a run. Downloaded wheels stay in pytest's cache."""
    need_root()
    need("python3", "iproute2", "systemd")
    out = request.config.cache.mkdir("package")
    built = out / "built-by"
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run, _, folder = built.read_text().partition(" ") if built.exists() else ("", "", "")
        if run != testrun_uid:
            folder = str(build_package(out))
            built.write_text(f"{testrun_uid} {folder}")
        return Path(folder)


@pytest.fixture(scope="session")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder /opt after the package was installed on an empty PC, without a network, from a read-only medium."""
    opt = tmp_path_factory.mktemp("installed")
    with LinePc() as pc:
        pc.sh(f"mkdir /mnt/stick && mount --bind '{package}' /mnt/stick && mount -o remount,bind,ro /mnt/stick")
        pc.sh(f"mount --bind '{opt}' /opt && sh /mnt/stick/install.sh")
    yield opt
    shutil.rmtree(opt)


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of a later version."""
    folder = tmp_path_factory.mktemp("next")
    yield build_next_package(package, folder)
    shutil.rmtree(folder)
