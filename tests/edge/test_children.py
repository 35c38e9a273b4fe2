"""The sidecars of a line: they are started again when they end, end with the line, and their faults are shown."""

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
from heatline.edge.monitor.picture_place import picture_socket
from heatline.edge.service import children as children_module
from heatline.edge.service.children import STABLE_AFTER_SECONDS, Child, Sidecars
from heatline.edge.wire.events import WebState
from tests.command import WITHIN_SECONDS, process_env
from tests.edge.secured import until
from tests.edge.setups import setup_of
from tests.edge.supervised import stop
from tests.edge.test_pictures import DARK, WHITE, Line

STAND_IN = "tests.edge.stand_in"


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children_module, "RECORDER_MODULE", STAND_IN)
    monkeypatch.setattr(children_module, "WEB_MODULE", STAND_IN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A line's file; its contents are what the stand-ins shall do."""
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
def running(file: Path, of: LineConfig) -> Iterator[tuple[Sidecars, PictureFeed]]:
    feed = PictureFeed(picture_socket(file), count_unstored=True)
    children = Sidecars(file, of, feed)
    children.start()
    try:
        yield children, feed
    finally:
        children.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def step_until(child: Child, done: Callable[[], bool]) -> None:
    def stepped() -> bool:
        child.step()
        return done()

    until(stepped)


def test_a_child_that_ends_is_started_again_after_pauses_that_grow_and_shrink(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "LONGEST_PAUSE_SECONDS", 3.0)  # reached after few starts
    file.write_text("3")
    clock = Clock()
    child, pauses = Child("the page", [STAND_IN, str(file)], clock=clock), list[float]()
    for _ in range(5):
        step_until(child, lambda: child.process is None)
        assert child.fault == "the page ended with exit code 3"
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
    child.end(signal.SIGKILL)
    step_until(child, lambda: child.process is None)
    assert child.fault == "the page was ended by SIGKILL"
    assert child.restarts.at_s - clock.now_s == pytest.approx(0.5)


def test_a_child_without_its_extra_is_not_started_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("10")
    clock = Clock()
    child = Child("the page", [STAND_IN, str(file)], extra="view", clock=clock)
    child.step()
    step_until(child, lambda: child.process is None)
    clock.now_s += 1e6
    child.step()
    assert (child.process, len(started(file))) == (None, 1)
    (told,) = [record.getMessage() for record in caplog.records]
    assert (
        told == child.fault == "the page needs the extra view: pip install 'heatline[view]', then start the line again"
    )


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
    with running(file, config()) as (children, feed):
        line = Line(feed, setup_of(bundle, openvino), feed._path)
        assert children.web() is None
        until(lambda: not children.recorder_is_starting)
        state = children.evidence()
        assert state is not None
        assert state.fault is None
        line.show(DARK, WHITE)
        until(lambda: (state := children.evidence()) is not None and state.kept == 2)
        line.show(DARK)
    assert (file.parent / "ended").read_text() == "3"


def test_a_recorder_that_is_killed_is_a_fault_until_another_one_reports(
    file: Path, bundle: Bundle, openvino: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "FIRST_PAUSE_SECONDS", 0.01)
    with running(file, config()) as (children, feed):
        line = Line(feed, setup_of(bundle, openvino), feed._path)

        def fault() -> str | None:
            state = children.evidence()
            assert state is not None
            return state.fault

        until(lambda: feed.evidence()[1] is not None)
        (first,) = started(file)
        line.show(DARK)
        until(lambda: feed.evidence()[0].kept == 1)
        file.write_text("4")  # the next ones end at once
        os.kill(first, signal.SIGKILL)
        until(lambda: fault() == "the recorder of evidence was ended by SIGKILL")
        until(lambda: fault() == "the recorder of evidence ended with exit code 4")
        line.show(DARK, WHITE)
        assert not children.recorder_is_starting, "the line does not wait for it"
        file.write_text("record")
        until(lambda: fault() is None and feed.evidence()[1] is not None)
        line.show(DARK)
        until(lambda: feed.evidence()[0].kept == 2)
        state = children.evidence()
        assert state is not None
        assert (state.stored, state.skipped) == (1, 1), "one DEFECT came while none was connected"


def test_a_recorder_that_stands_still_is_a_fault(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children_module, "REPORTS_WITHIN_SECONDS", 1.0)
    with running(file, config()) as (children, feed):
        until(lambda: feed.evidence()[1] is not None)
        (pid,) = started(file)
        stop(pid)
        until(lambda: "has not answered for" in str(getattr(children.evidence(), "fault", None)))
        os.kill(pid, signal.SIGCONT)
        until(lambda: getattr(children.evidence(), "fault", "") is None)


def test_a_page_that_cannot_be_served_is_told_and_nothing_else_suffers(file: Path) -> None:
    file.write_text("3")
    with running(file, config(evidence=False, web=True)) as (children, _):
        until(lambda: children.web() == WebState(fault="the web page ended with exit code 3"))
        assert children.evidence() is None


def test_without_pictures_the_store_is_at_fault_and_the_line_does_not_wait(file: Path) -> None:
    children = Sidecars(file, config(), None)
    children.start()
    try:
        assert not children.recorder_is_starting
        until(lambda: "ended with exit code" in str(getattr(children.evidence(), "fault", None)))
    finally:
        children.close()


def test_a_child_that_does_not_end_is_killed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children_module, "ENDS_WITHIN_SECONDS", 0.2)
    file.write_text("ignore")
    with running(file, config(web=True)) as (children, _):
        until(lambda: len(started(file)) == 2)
    for child in children._all:  # after SIGKILL, the lowest priority may wait long for its last turn
        child.wait(WITHIN_SECONDS)
    assert all(map(is_gone, started(file)))


LINE = """
import sys, time
from pathlib import Path
from heatline.edge.service import children
children.RECORDER_MODULE = children.WEB_MODULE = "tests.edge.stand_in"
from tests.edge.test_children import config
children.Sidecars(Path(sys.argv[1]), config(web=True), None).start()
time.sleep(1000)
"""


def test_children_end_if_their_line_is_killed(file: Path) -> None:
    file.write_text("ignore")
    with subprocess.Popen([sys.executable, "-c", LINE, file], env=process_env(None)) as line:
        until(lambda: len(started(file)) == 2)
        line.kill()
        until(lambda: all(map(is_gone, started(file))))
