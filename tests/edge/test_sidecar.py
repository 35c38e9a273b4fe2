"""The monitor beside a line: it is started again, ends with its line, and serves the same page as `heatline view`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.config import EvidenceConfig, LineConfig, WebConfig
from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.pictures import picture_socket
from heatline.edge.service import sidecar as sidecar_module
from heatline.edge.service.sidecar import STABLE_AFTER_SECONDS, Sidecar
from heatline.edge.wire.events import WebState
from tests.command import WITHIN_SECONDS, complaint, heatline, process_env
from tests.edge.journals import Clocks, good, make_writer
from tests.edge.lines import small_frames, write_line, write_pictures
from tests.edge.secured import begun, free_port, until
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.view_pages import Page, next_message, serving


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line's file; its contents are what the stand-in shall do."""
    monkeypatch.setattr(sidecar_module, "MODULE", "tests.edge.stand_in")
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


def stand_ins(file: Path) -> dict[int, dict[str, Any]]:
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


def beside(file: Path, of: LineConfig, feed: PictureFeed | None = None) -> contextlib.AbstractContextManager[Sidecar]:
    return begun(Sidecar(file, of, feed))


def test_a_child_that_ends_is_started_again_after_pauses_that_grow_until_one_runs_stably(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "LONGEST_PAUSE_SECONDS", 1.5)  # reached after few starts
    clock = Clocks()
    child = Sidecar(file, config(), None, clock.monotonic_s)

    def pause_after(end: str) -> float:
        """Let it end, and start another one after the pause, not sooner; return the pause."""
        until(lambda: (child.step(), child.process is None)[1])
        assert child.fault == f"the monitor {end}"
        pause = child.restarts.at_s - clock.now_s
        for seconds, is_started in ((pause - 0.01, False), (0.02, True)):
            clock.now_s += seconds
            child.step()
            assert (child.process is not None) == is_started
        return pause

    file.write_text("3")
    child.step()
    assert [pause_after("ended with exit code 3") for _ in range(2)] == pytest.approx([0.5, 1])
    until(lambda: (child.step(), child.process is None)[1])
    file.write_text("wait")
    clock.now_s += 1.6
    child.step()
    assert child.fault is not None, "it may end at once again"
    clock.now_s += STABLE_AFTER_SECONDS + 1
    child.step()
    assert (child.fault, child.process is None) == (None, False)
    child.process.kill()  # type: ignore[union-attr]
    assert pause_after("was ended by SIGKILL") == pytest.approx(0.5)
    child.process.kill()  # type: ignore[union-attr]
    child.process.wait()  # type: ignore[union-attr]


def test_a_child_yields_to_the_line_has_nothing_of_systemd_and_is_killed_if_it_does_not_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "ENDS_WITHIN_SECONDS", 0.2)
    file.write_text("ignore")
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CACHE_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, "/nowhere")
    with beside(file, config(web=True, evidence=False)) as child:
        until(lambda: len(stand_ins(file)) == 1)
    (facts,) = stand_ins(file).values()
    # Its imports take seconds at the lowest priority; the programs themselves go there once they are up.
    assert (facts["nice"], facts["oom"]) == (max(5, os.getpriority(os.PRIO_PROCESS, 0)), "1000")
    assert facts["argv"] == [facts["argv"][0], str(file)]
    assert {name for name, value in facts["env"].items() if value == "/nowhere"} == {"STATE_DIRECTORY"}
    child.process.wait(WITHIN_SECONDS)  # after SIGKILL, the lowest priority may wait long for its last turn
    assert is_gone(facts["pid"])


def test_a_page_or_a_store_that_does_not_work_is_told_and_nothing_else_suffers(file: Path) -> None:
    file.write_text("record without page")
    with beside(file, config(web=True), PictureFeed(picture_socket(file))) as child:
        until(lambda: child.web() == WebState(fault="the address is in use"))
        assert child.evidence().fault is None
    file.write_text("3")
    with beside(file, config(web=True)) as child:  # without a socket for pictures
        assert not child.recorder_is_starting
        until(lambda: "ended with exit code" in str(child.evidence()))
        assert child.web() == WebState(fault="the monitor ended with exit code 3")


LINE = """
import sys, time
from pathlib import Path
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.config import LineConfig, WebConfig
from heatline.edge.service import sidecar
sidecar.MODULE = "tests.edge.stand_in"
config = LineConfig(bundle=Path("b"), cameras=[PatternSettings(name="top")], web=WebConfig())
sidecar.Sidecar(Path(sys.argv[1]), config, None).start()
time.sleep(1000)
"""


def test_it_ends_if_its_line_is_killed(file: Path) -> None:
    file.write_text("ignore")
    with subprocess.Popen([sys.executable, "-c", LINE, file], env=process_env(None)) as line:
        until(lambda: len(stand_ins(file)) == 1)
        line.kill()
        until(lambda: all(map(is_gone, stand_ins(file))))


def until_state(page: Page, wanted: Callable[[dict[str, Any]], object]) -> None:
    until(lambda: wanted(page.get("/api/state").json))


def stopped_line(folder: Path, address: str, tables: str = "") -> Path:
    """The file of a line that does not run."""
    return write_line(folder, Path("boards.bundle"), address, {"top": 'path = "pictures"'}, tables)


def test_it_shows_the_journal_of_a_stopped_line_follows_its_starts_and_ends_at_sigterm_with_open_pages(
    tmp_path: Path, address: str
) -> None:
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([good(number=number) for number in range(1, 13)])
    with serving("view", stopped_line(tmp_path, address, f'[journal]\nfolder = "{tmp_path}"')) as (process, page):
        until(lambda: [row["frame_number"] for row in page.get("/api/verdicts").json["rows"]] == list(range(1, 13)))
        never = page.get("/api/state").json
        assert (never["running"], never["words"][0].partition(",")[0]) == (False, "The line does not run")
        with StatusOnlyLine(address, a_status()) as status:
            until_state(page, lambda state: state["running"] and state["bundle"]["name"] == "boards")
            status.status = a_status(boot_id="another", state="STOPPED")
            until_state(page, lambda state: state["words"][0].startswith("The line has stopped at "))
        with StatusOnlyLine(address, a_status(boot_id="third")):
            until_state(page, lambda state: state["running"])
        with page.live() as viewer:
            next_message(viewer, "state")
            process.send_signal(signal.SIGTERM)
            assert process.wait(WITHIN_SECONDS) == 0
            with pytest.raises(ConnectionClosed):
                next_message(viewer, "nothing more")
        assert process.stderr.read() == ""


def test_a_mistake_is_one_sentence_also_of_check(tmp_path: Path, bundle: Bundle, address: str) -> None:
    line, port = stopped_line(tmp_path, address), free_port().number
    for listen, words in (
        ("0.0.0.0:0", "other machines can reach 0.0.0.0:0, and nothing protects the page; set token_file"),
        ("127.0.0.1:99999", "the page's address is '127.0.0.1:99999'; expected HOST:PORT, PORT 0 to 65535"),
    ):
        assert words in complaint(heatline("view", line, "--listen", listen)), listen
    told = complaint(heatline("label", tmp_path, "--listen", "0.0.0.0:0"))
    assert "nothing protects the page; name a file with a token by --token-file" in told
    write_pictures(tmp_path / "pictures", small_frames(1))
    token = tmp_path / "token"
    web = f'[web]\nlisten = "0.0.0.0:{port}"\ntoken_file = "token"\n'
    line = write_line(tmp_path, bundle.path, address, {"top": f'path = "{tmp_path / "pictures"}"'}, web)
    missing = heatline("check", line)
    assert (missing.returncode, "make a token with: " in complaint(missing)) == (21, True)
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    with socket.create_server(("0.0.0.0", port)):
        taken = heatline("check", line)
    assert (taken.returncode, "the page cannot listen on" in complaint(taken)) == (7, True)
