"""Shared fixtures. Everything is real and small; nothing is downloaded."""

import gc
import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from tests import needs
from tests.ray_head import ray_head
from tests.small_bundle import small_bundle
from tests.train.trained import (  # noqa: F401 (fixtures for all tests)
    blobs,
    tiny,
    tiny_trunk,
    trained,
    trained_bundle,
    trained_run,
)

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored

gc.disable()  # until all tests are collected: searching the imported objects for garbage takes a third longer

# With small tensors, a second thread waits longer than it works, and several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `ci` draws the same examples in every run; `make test-long` draws more, and new ones. Examples have no deadline,
# because a busy machine is not a failure.
settings.register_profile(
    "ci", max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=500, derandomize=False, print_blob=True)
settings.load_profile("ci")

COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""All collected tests, also those of the other tier."""
ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> None:
    """Exclude the objects that other files left from garbage collection: it would search them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle, written once. Tests that change it make their own."""
    return small_bundle(tmp_path_factory.mktemp("bundles") / "darkness")


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[None]:
    """Sockets of lines that tests kill are deleted with this folder."""
    with tempfile.TemporaryDirectory(prefix="heatline-run-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Ray with two processors, below this process, which takes seconds to start."""
    with ray_head() as address:
        yield address


@pytest.fixture
def address() -> Iterator[str]:
    """A TCP address on loopback that is reserved until the test ends.

    A socket that is bound but does not listen reserves the port: the kernel gives it to no other process, and ZeroMQ,
    which also sets SO_REUSEADDR, can still bind it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real defect images."""
    folder = os.environ.get("HEATLINE_DATA")
    if not folder:
        pytest.skip("HEATLINE_DATA is not set: it names the folder of real defect images")
    return Path(folder)


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: with tiny tensors a second one waits more than it works."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_picture(path: Path, rgb: NDArray[np.uint8]) -> Path:
    """Write an RGB or grey picture in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb if rgb.ndim == 2 else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail on any skip that allowed_skips.txt does not name")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Put the files that take longest first, in any order of the others, so that all processes end together."""
    config.stash[COLLECTED] = list(items)
    yield
    items.sort(
        key=lambda item: next((at for at, one in enumerate(LONGEST) if item.nodeid.startswith(one)), len(LONGEST))
    )


TOGETHER = {
    "exporting": (
        "tests/export/", "tests/test_chain.py", "tests/test_file_names.py", "tests/train/test_dense_run.py",
        "tests/train/test_evaluation_run.py", "tests/train/test_models.py",
    ),
    "installing": ("tests/systemd/test_boot.py", "tests/systemd/test_install.py"),
    "on a cluster": ("tests/train/test_products.py", "tests/archive/test_archive_cluster.py"),
    "in a browser": ("tests/view/",),
}  # fmt: skip
"""Files that one process runs: export, Ray and browser take seconds to start in a process, an installation more."""
LONGEST = (
    "tests/systemd/", TOGETHER["exporting"], "tests/view/", "tests/train/", "tests/archive/",
    "tests/edge/test_bridges.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule as `--dist loadfile`, with the files of `TOGETHER` in one process each."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            names = (name for name, files in TOGETHER.items() if nodeid.startswith(files))
            return next(names, super()._split_scope(nodeid))

    return Together(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Exclude the million objects of imports and collection from garbage collection, and collect seldom.

    An export makes so many objects that a fifth of its time went into collections.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape output that is not UTF-8, such as paths: test processes exchange only UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--no-skips`, fail on a skipped test that `allowed_skips.txt` does not name."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--no-skips"):  # only the reporting process decides
        return
    allowed = {line.strip() for line in ALLOWED_SKIPS.read_text().splitlines() if line.strip() and line[0] != "#"}
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])} - allowed
    if skipped:
        reporter.write_line(f"skipped, and not in {ALLOWED_SKIPS.name}: {', '.join(sorted(skipped))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what the machine lacks. `-rs` prints each skipped test with its reason."""
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])]
    packages = [reason.removeprefix(needs.REASON) for reason in reasons if reason.startswith(needs.REASON)]
    others = Counter(reason.partition(":")[0] for reason in reasons if not reason.startswith(needs.REASON))
    said = [f"{count} skipped: {reason}" for reason, count in others.most_common()]
    if packages:
        names = " ".join(sorted({name for each in packages for name in each.split()}))
        said.insert(
            0, f"{len(packages)} skipped: Debian packages are missing: apt install {names} (.ci/run installs them)"
        )
    if said:
        terminalreporter.write_line("; ".join(said))
