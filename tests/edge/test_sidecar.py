"""The monitor beside a line: it is started again when it ends, ends with the line, and its faults are shown."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.config import EvidenceConfig, LineConfig, WebConfig
from heatline.edge.inference import Engine
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.pictures import picture_socket
from heatline.edge.service import sidecar as sidecar_module
from heatline.edge.service.sidecar import STABLE_AFTER_SECONDS, Sidecar
from heatline.edge.wire.events import WebState
from tests.command import WITHIN_SECONDS, process_env
from tests.edge.secured import until
from tests.edge.setups import setup_of
from tests.edge.supervised import stop
from tests.edge.test_pictures import DARK, WHITE, Line

STAND_IN = "tests.edge.stand_in"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_module, "MODULE", STAND_IN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A line's file; its contents are what the stand-in shall do."""
    file = tmp_path / "line.toml"
    file.write_text("record")
    return file


def config(*, evidence: bool = True, web: bool = False) -> LineConfig:
    return LineConfig(
        bundle=Path("b"),
        cameras=[PatternSettings(name="top")],
        evidence=EvidenceConfig() if evidence else None,
        web=WebConfig() if web else None,
    )


def started(file: Path) -> dict[int, dict[str, Any]]:
    """How each stand-in was started, by its process."""
    found = {}
    for path in file.parent.glob("*.json"):
        with contextlib.suppress(json.JSONDecodeError):  # it is being written
            found[int(path.stem)] = json.loads(path.read_text())
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


@contextlib.contextmanager
def running(file: Path, of: LineConfig) -> Iterator[tuple[Sidecar, PictureFeed]]:
    feed = PictureFeed(picture_socket(file))
    child = Sidecar(file, of, feed)
    child.start()
    try:
        yield child, feed
    finally:
        child.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def step_until(child: Sidecar, done: Callable[[], bool]) -> None:
    def stepped() -> bool:
        child.step()
        return done()

    until(stepped)


def test_a_child_that_ends_is_started_again_after_pauses_that_grow_and_shrink(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "LONGEST_PAUSE_SECONDS", 3.0)  # reached after few starts
    file.write_text("3")
    clock = Clock()
    child, pauses = Sidecar(file, config(), None, clock), list[float]()
    for _ in range(5):
        step_until(child, lambda: child.process is None)
        assert child.fault == "the monitor ended with exit code 3"
        pauses.append(child.restarts.at_s - clock.now_s)
        clock.now_s = child.restarts.at_s - 0.01
        child.step()
        assert child.process is None, "too early"
        clock.now_s += 0.02
        child.step()
        assert child.process is not None
    assert pauses == pytest.approx([0.5, 1, 2, 3, 3])
    step_until(child, lambda: child.process is None)
    file.write_text("wait")
    clock.now_s += 3.0
    child.step()
    until(lambda: any(child.process is not None and child.process.pid == pid for pid in started(file)))
    child.step()
    assert child.fault is not None, "it may end at once again"
    clock.now_s += STABLE_AFTER_SECONDS
    child.step()
    assert child.fault is None
    assert child.process is not None
    child.process.kill()
    step_until(child, lambda: child.process is None)
    assert child.fault == "the monitor was ended by SIGKILL"
    assert child.restarts.at_s - clock.now_s == pytest.approx(0.5)


def test_a_child_yields_processor_and_memory_to_the_line_and_has_nothing_that_systemd_means_for_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CACHE_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "/nowhere")
    with running(file, config(web=True, evidence=False)):
        until(lambda: len(started(file)) == 1)
    (facts,) = started(file).values()
    # Its imports take seconds at the lowest priority; the programs themselves go there once they are up.
    assert (facts["nice"], facts["oom"]) == (max(5, os.getpriority(os.PRIO_PROCESS, 0)), "1000")
    assert facts["argv"] == [facts["argv"][0], str(file)]
    assert {name for name, value in facts["env"].items() if value == "/nowhere"} == {"STATE_DIRECTORY"}
    assert is_gone(facts["pid"])


def test_what_the_recorder_reports_is_the_lines_state_and_it_stores_the_last_picture(
    file: Path, bundle: Bundle, openvino: Engine
) -> None:
    with running(file, config()) as (child, feed):
        line = Line(feed, setup_of(bundle, openvino), feed._path)
        assert child.web() is None
        until(lambda: not child.recorder_is_starting)
        state = child.evidence()
        assert state is not None
        assert state.fault is None
        line.show(DARK, WHITE)
        until(lambda: (state := child.evidence()) is not None and state.kept == 2)
        line.show(DARK)
    assert (file.parent / "ended").read_text() == "3"


def test_a_recorder_that_is_killed_is_a_fault_until_another_one_reports(
    file: Path, bundle: Bundle, openvino: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "FIRST_PAUSE_SECONDS", 0.01)
    with running(file, config()) as (child, feed):
        line = Line(feed, setup_of(bundle, openvino), feed._path)

        def fault() -> str | None:
            state = child.evidence()
            assert state is not None
            return state.fault

        until(lambda: feed.evidence()[1] is not None)
        (first,) = started(file)
        line.show(DARK)
        until(lambda: feed.evidence()[0].kept == 1)
        file.write_text("4")  # the next ones end at once
        os.kill(first, signal.SIGKILL)
        until(lambda: fault() == "the monitor was ended by SIGKILL")
        until(lambda: fault() == "the monitor ended with exit code 4")
        assert not child.recorder_is_starting, "the line does not wait for it"
        file.write_text("record")
        until(lambda: fault() is None and feed.evidence()[1] is not None)
        line.show(DARK)
        until(lambda: feed.evidence()[0].kept == 2)
        state = child.evidence()
        assert state is not None
        assert state.stored == 1


def test_a_recorder_that_stands_still_is_a_fault(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_module, "REPORTS_WITHIN_SECONDS", 1.0)
    with running(file, config()) as (child, feed):
        until(lambda: feed.evidence()[1] is not None)
        (pid,) = started(file)
        stop(pid)
        until(lambda: "has not answered for" in str(getattr(child.evidence(), "fault", None)))
        os.kill(pid, signal.SIGCONT)
        until(lambda: getattr(child.evidence(), "fault", "") is None)


def test_a_page_that_the_recorder_reports_as_not_served_is_told(file: Path) -> None:
    file.write_text("record without page")
    with running(file, config(web=True)) as (child, _):
        until(lambda: child.web() == WebState(fault="the address is in use"))
        state = child.evidence()
        assert state is not None
        assert state.fault is None


def test_a_page_that_cannot_be_served_is_told_and_nothing_else_suffers(file: Path) -> None:
    file.write_text("3")
    with running(file, config(evidence=False, web=True)) as (child, _):
        until(lambda: child.web() == WebState(fault="the monitor ended with exit code 3"))
        assert child.evidence() is None


def test_without_pictures_the_store_is_at_fault_and_the_line_does_not_wait(file: Path) -> None:
    child = Sidecar(file, config(), None)
    child.start()
    try:
        assert not child.recorder_is_starting
        until(lambda: "ended with exit code" in str(getattr(child.evidence(), "fault", None)))
    finally:
        child.close()


def test_a_child_that_does_not_end_is_killed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_module, "ENDS_WITHIN_SECONDS", 0.2)
    file.write_text("ignore")
    with running(file, config(web=True)) as (child, _):
        until(lambda: len(started(file)) == 1)
    assert child.process is not None
    child.process.wait(WITHIN_SECONDS)  # after SIGKILL, the lowest priority may wait long for its last turn
    assert all(map(is_gone, started(file)))


LINE = """
import sys, time
from pathlib import Path
from heatline.edge.service import sidecar
sidecar.MODULE = "tests.edge.stand_in"
from tests.edge.test_sidecar import config
sidecar.Sidecar(Path(sys.argv[1]), config(web=True), None).start()
time.sleep(1000)
"""


def test_it_ends_if_its_line_is_killed(file: Path) -> None:
    file.write_text("ignore")
    with subprocess.Popen([sys.executable, "-c", LINE, file], env=process_env(None)) as line:
        until(lambda: len(started(file)) == 1)
        line.kill()
        until(lambda: all(map(is_gone, started(file))))
