"""The page's process beside a line: what it shows of a line that runs, restarts, stops or never ran, and its end."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from heatline.edge.bundle import Bundle
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.metrics import Metrics
from heatline.edge.monitor.store import EvidenceStore
from heatline.edge.wire.events import StatusEvent
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.journals import counted, make_writer, mixed_messages
from tests.edge.lines import (
    assert_every_frame_has_its_event,
    children,
    running,
    small_frames,
    started,
    write_line,
    write_pictures,
)
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.view_pages import Page, acknowledge, next_message, next_picture


def line_file(folder: Path, address: str, tables: str = "") -> Path:
    """The file of a line that need not run."""
    return write_line(folder, Path("boards.bundle"), address, {"top": 'path = "pictures"'}, tables)


@contextlib.contextmanager
def viewing(line: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Page]]:
    """The real command, and its page."""
    with started(HEATLINE, "view", line, "--listen", "127.0.0.1:0", *options) as process:
        assert process.stdout is not None
        announced = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", announced)
        assert found, announced
        memory = Memory()
        yield process, Page(int(found[1]), memory, Metrics(memory))


def until(page: Page, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first state that is wanted."""
    give_up = time.monotonic() + WITHIN_SECONDS
    with page.live() as viewer:
        while time.monotonic() < give_up:
            message = viewer.recv(WITHIN_SECONDS)
            found: dict[str, Any] = json.loads(message) if isinstance(message, str) else {"type": "picture"}
            if found["type"] == "state" and wanted(found):
                return found
    raise AssertionError("the state that was waited for did not come")


def test_it_follows_a_line_that_starts_and_stops(tmp_path: Path, address: str) -> None:
    with viewing(line_file(tmp_path, address)) as (_, page):
        never = until(page, lambda state: not state["running"])
        assert never["words"][0].startswith("The line does not run, or has not reported yet")
        assert page.get("/readyz").status == 503
        with StatusOnlyLine(address, a_status()) as line:
            state = until(page, lambda state: state["running"])
            assert state["bundle"]["name"] == "boards"
            line.status = a_status(boot_id="another", state="STOPPED")
            stopped = until(page, lambda state: not state["running"])
            assert stopped["words"][0].startswith("The line has stopped at ")
        with StatusOnlyLine(address, a_status(boot_id="third")):
            until(page, lambda state: state["running"])
        silent = until(page, lambda state: not state["running"])
        assert silent["words"][0].startswith("Nothing came from the line for ")


def test_a_line_that_never_ran_since_shows_its_journal(tmp_path: Path, address: str) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    journal = make_writer(folder)
    messages = journal.commit(mixed_messages(20))
    journal.close()
    verdicts = [event for event in counted(messages) if event.topic.startswith("verdict.")]
    with viewing(line_file(tmp_path, address, f'[journal]\nfolder = "{folder}"')) as (_, page):
        give_up = time.monotonic() + WITHIN_SECONDS
        while len(rows := page.get("/api/verdicts").json["rows"]) < len(verdicts):  # it reads its journal in parts
            assert time.monotonic() < give_up
        assert [row["frame_number"] for row in rows] == [event.frame_number for event in verdicts]
        assert page.get("/api/state").json["running"] is False


def test_it_ends_in_order_at_sigterm_while_pages_are_open(tmp_path: Path, address: str) -> None:
    with viewing(line_file(tmp_path, address)) as (process, page), contextlib.ExitStack() as viewers:
        opened = [viewers.enter_context(page.live()) for _ in range(5)]
        for viewer in opened:
            next_message(viewer, "state")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_SECONDS) == 0
        for viewer in opened:
            with pytest.raises(ConnectionClosed):
                next_message(viewer, "nothing more")
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_ctrl_c_ends_it(tmp_path: Path, address: str) -> None:
    with viewing(line_file(tmp_path, address)) as (process, page):
        assert page.get("/").status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_SECONDS) == 130


def test_a_mistake_is_one_sentence(tmp_path: Path, address: str) -> None:
    line = line_file(tmp_path, address)
    for listen, words in (
        ("0.0.0.0:0", "other machines can reach 0.0.0.0:0, and nothing protects the page; set token_file"),
        ("nonsense", "nonsense"),
        ("127.0.0.1:99999", "the page's address is '127.0.0.1:99999'; expected HOST:PORT, PORT 0 to 65535"),
    ):
        result = heatline("view", line, "--listen", listen)
        assert words in complaint(result), listen
        assert result.returncode in (3, 7)
    assert "cannot be read" in complaint(heatline("view", tmp_path / "none.toml"))


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.long), signal.SIGSTOP], ids=["killed", "hangs"]
)
def test_a_line_does_not_notice_the_end_of_its_page(
    how: signal.Signals, bundle: Bundle, tmp_path: Path, address: str
) -> None:
    write_pictures(tmp_path / "pictures", small_frames(20))
    line = write_line(
        tmp_path, bundle.path, address, {"top": f'path = "{tmp_path / "pictures"}"\nrate_fps = 20\nloop = true'}
    )
    with running(line, address) as one, contextlib.ExitStack() as ended:
        one.until_inspected()  # the line began when the test subscribed, not when the page did
        page = ended.enter_context(started(HEATLINE, "view", line, "--listen", "127.0.0.1:0"))
        assert page.stdout is not None
        assert "http://127.0.0.1:" in page.stdout.readline()
        one.until_inspected_frames(10)
        page.send_signal(how)
        one.until_inspected_frames(30)
        status = one.until(lambda event: isinstance(event, StatusEvent))
        assert status.handshake.state in ("READY", "BUSY")
        page.kill()
        assert_every_frame_has_its_event(one.end(), ["top"])


def test_a_defect_of_a_running_line_is_on_its_own_page(bundle: Bundle, tmp_path: Path, address: str) -> None:
    """The line starts the page as its child, and the page shows a defect with its picture, its heatmap and why."""
    write_pictures(tmp_path / "pictures", small_frames(20))
    camera = {"top": f'path = "{tmp_path / "pictures"}"\nrate_fps = 10\nloop = true'}
    tables = f'[evidence]\nfolder = "{tmp_path / "evidence"}"\n'
    with running(write_line(tmp_path, bundle.path, address, camera, tables), address) as one:
        one.until_inspected()
        with viewing(tmp_path / "line.toml") as (_, page), page.live() as viewer:
            message, jpeg, heatmap = next_picture(viewer)
            while message["verdict"] != "DEFECT":
                acknowledge(viewer, message)
                message, jpeg, heatmap = next_picture(viewer)
            assert message["hw"] == [230, 300]
            assert message["event"]["picture"] == message["id"]
            assert jpeg.startswith(b"\xff\xd8")
            assert heatmap is not None
            assert heatmap.startswith(b"\x89PNG")
            why = page.get(f"/api/pictures/{message['id']}").json
            threshold = message["event"]["score_threshold"]
            assert why["tiles"][0]["logit"] == pytest.approx(message["event"]["frame_score"])
            assert why["tiles"][0]["logit"] >= threshold
            assert why["cells"][0]["logit"] == pytest.approx(message["event"]["regions"][0]["score"])
            defect = message["event"]["source"]
            frame = page.get(f"/api/pictures/{message['id']}/frame.png").body
            shown = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(shown, cv2.imread(str(tmp_path / "pictures" / defect)))
            until(page, lambda state: state["running"])
            metrics = page.get("/metrics").body.decode()
            assert 'heatline_camera_state{camera="top",state="LIVE"} 1.0' in metrics
        assert_every_frame_has_its_event(one.end(), ["top"])
    with viewing(tmp_path / "line.toml") as (_, page):  # the line has ended: its evidence is still there
        why = page.get(f"/api/pictures/{message['id']}").json
        assert why["event"]["source"] == defect


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is reserved until the test ends, as `address` does."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def test_a_good_frame_that_is_marked_on_the_lines_own_page_is_stored(
    bundle: Bundle, tmp_path: Path, address: str, port: int
) -> None:
    write_pictures(tmp_path / "pictures", small_frames(20))
    camera = {"top": f'path = "{tmp_path / "pictures"}"\nrate_fps = 2\nloop = true'}
    folders = [tmp_path / "evidence", tmp_path / "journal"]
    folders[1].mkdir()
    tables = "".join(f'[{folder.name}]\nfolder = "{folder}"\n' for folder in folders)
    line = write_line(tmp_path, bundle.path, address, camera, f'{tables}[web]\nlisten = "127.0.0.1:{port}"\n')
    memory = Memory()
    page = Page(port, memory, Metrics(memory))

    def marked() -> str | None:
        """Mark a GOOD frame of which the page has the picture."""
        with contextlib.suppress(OSError):  # the page is not served yet
            rows = page.get("/api/verdicts").json["rows"]
            for name in [row["id"] for row in rows if row["verdict"] == "GOOD"]:
                if page.get(f"/api/pictures/{name}").status == 404:
                    continue
                body = json.dumps({"picture": name, "kind": "right", "by": "Ada"})
                answer = page.request("POST", "/api/marks", body, {"Content-Type": "application/json"})
                assert (answer.status, answer.json["stored"]) == (200, True)
                return str(name)
        return None

    with running(line, address) as one:
        names: list[str] = []

        def is_marked(_: object) -> bool:
            if not names and (name := marked()) is not None:
                names.append(name)
            return bool(names) and EvidenceStore(folders[0]).find(names[0]) is not None

        one.until(is_marked)
        one.end()
    entry = EvidenceStore(folders[0]).require(names[0])
    assert (entry.is_chosen, entry.event.verdict, entry.review is not None) == (True, "GOOD", True)


def test_a_line_starts_its_page_again_when_it_is_killed(
    bundle: Bundle, tmp_path: Path, address: str, port: int
) -> None:
    write_pictures(tmp_path / "pictures", small_frames(20))
    camera = {"top": f'path = "{tmp_path / "pictures"}"\nrate_fps = 10\nloop = true'}
    line = write_line(tmp_path, bundle.path, address, camera, f'[web]\nlisten = "127.0.0.1:{port}"\n')
    memory = Memory()
    page = Page(port, memory, Metrics(memory))

    def answers() -> None:
        give_up = time.monotonic() + WITHIN_SECONDS
        while True:
            try:
                assert page.get("/healthz").status == 200
                return
            except OSError:
                assert time.monotonic() < give_up

    with running(line, address) as one:
        one.until_inspected()
        answers()
        (web,) = [pid for pid in children(one.process.pid) if b"heatline.edge.monitor.sidecar" in command_of(pid)]
        threads = Path(f"/proc/{web}/task").glob("*/stat")
        assert {each.read_text().rpartition(") ")[2].split()[16] for each in threads} == {"19"}
        os.kill(web, signal.SIGKILL)
        one.until(
            lambda event: isinstance(event, StatusEvent) and event.web is not None and event.web.fault is not None
        )
        answers()
        # The page subscribes too, so the line may have begun before the test's subscriber came.
        received = one.end()
        numbered = [event for event in received.in_order if not isinstance(event, StatusEvent)]
        assert [event.seq for event in numbered] == list(range(numbered[0].seq, received.last.last_seq + 1))
        frames = [event.frame_number for event in received.verdicts]
        account = received.last.ledger["top"]
        assert frames == list(range(frames[0], account.captured + 1))
        assert account.in_flight == 0
    with pytest.raises(OSError, match="refused"):
        page.get("/healthz")


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_check_verifies_the_files_of_the_page(bundle: Bundle, tmp_path: Path, address: str, port: int) -> None:
    write_pictures(tmp_path / "pictures", small_frames(1))
    token = tmp_path / "token"
    web = f'[web]\nlisten = "0.0.0.0:{port}"\ntoken_file = "token"\n'
    line = write_line(tmp_path, bundle.path, address, {"top": f'path = "{tmp_path / "pictures"}"'}, web)
    missing = heatline("check", line)
    assert (missing.returncode, "make a token with: " in complaint(missing)) == (21, True)
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    assert heatline("check", line).returncode == 0
    with socket.create_server(("0.0.0.0", port)):
        taken = heatline("check", line)
    assert (taken.returncode, "the page cannot listen on" in complaint(taken)) == (7, True)
