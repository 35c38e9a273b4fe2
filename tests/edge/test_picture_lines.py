"""Real lines whose pictures programs receive, or not: the ledger and the events are the same."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.pattern import frame_id_of
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import DeliveryError
from heatline.edge.monitor.pictures import Picture, PictureClient, picture_socket
from heatline.edge.wire.events import StatusEvent, VerdictEvent
from tests.command import heatline
from tests.edge.lines import (
    POLL_SECONDS,
    RunningLine,
    assert_every_frame_has_its_event,
    children,
    line_started,
    running,
    write_line_with,
)
from tests.edge.secured import until
from tests.edge.supervised import in_thread
from tests.edge.test_pictures import program_of

OVERLOADED = {"kind": "pattern", "rate_fps": 1000, "draw_size": [640, 480]}
LATE = {**OVERLOADED, "deadline_ms": 150.0}
"""On a busy machine, all its verdicts may be too late."""
MORE_THAN_MEMORY_HOLDS = 16
"""A camera has memory for 13 frames."""


@contextlib.contextmanager
def nobody(_path: Path) -> Iterator[None]:
    yield


@contextlib.contextmanager
def quick(path: Path) -> Iterator[list[Picture]]:
    """Receive all pictures, copy their pixels and release them; check each against its event."""
    pictures: list[Picture] = []

    def receive() -> None:
        with PictureClient(path, slots=4) as client, contextlib.suppress(DeliveryError):
            while True:
                picture = client.receive(None)
                assert picture is not None
                assert frame_id_of(np.array(picture.image)) == picture.event.frame_id
                pictures.append(picture)
                picture.release()

    thread = in_thread(receive)
    yield pictures
    thread.join()


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    with PictureClient(path, slots=2):
        yield


@contextlib.contextmanager
def stopped(path: Path) -> Iterator[None]:
    with program_of(path, "releases") as process:
        process.send_signal(signal.SIGSTOP)
        yield


def overloaded(run: RunningLine) -> set[str]:
    return {event.camera for event in run.received.verdicts if event.reason == "dropped.overload"}


@pytest.mark.parametrize(
    "client", [quick, stopped, *(pytest.param(each, marks=pytest.mark.long) for each in (nobody, holding))]
)
def test_an_overloaded_line_reports_every_frame_whoever_receives_its_pictures(
    tmp_path: Path, bundle: Bundle, address: str, client: object
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": LATE, "side": OVERLOADED})
    path = picture_socket(line)
    with contextlib.ExitStack() as at_end:
        process = at_end.enter_context(line_started(line))
        until(path.exists)
        pictures = at_end.enter_context(client(path))  # type: ignore[operator]
        # The line begins with its first subscriber.
        run = RunningLine(process, at_end.enter_context(Subscriber(address, timeout_s=POLL_SECONDS)))
        run.until(lambda _: overloaded(run) == {"top", "side"})
        for _ in range(MORE_THAN_MEMORY_HOLDS):  # so nobody keeps the memory of a camera
            run.until_inspected("side")
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top", "side"])
    top = heard.last.ledger["top"]
    assert top.inspected + top.dropped.get("deadline", 0) > 0
    assert all((event.picture is not None) == (event.verdict != "NO_VERDICT") for event in heard.verdicts)
    if pictures:
        published = {event.picture: event for event in heard.verdicts}
        assert all(picture.event.frame_score == published[picture.event.picture].frame_score for picture in pictures)
        assert not path.exists()
    assert pictures is None or pictures


def test_evidence_needs_a_folder(tmp_path: Path, bundle: Bundle, address: str) -> None:
    cameras = {"top": {"kind": "pattern"}}
    line = write_line_with(tmp_path, bundle.path, address, cameras, "[evidence]")
    result = heatline("run", line)
    assert (result.returncode, "set evidence.folder or journal.folder" in result.stderr) == (3, True)


def test_a_line_whose_page_and_recorder_die_inspects_and_says_so(tmp_path: Path, bundle: Bundle, address: str) -> None:
    cameras = {"top": {"kind": "pattern", "rate_fps": 20.0}}
    tables = f'[evidence]\nfolder = "evidence"\n[web]\nlisten = "127.0.0.1:1"\ntoken_file = "{tmp_path}/none"'
    line = write_line_with(tmp_path, bundle.path, address, cameras, tables)
    with running(line, address) as run:
        run.until_inspected()

        def kill() -> None:
            for pid in children(run.process.pid):
                if b"heatline.edge.util.child_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        def both_are_down(event: object) -> bool:
            kill()
            return (
                isinstance(event, StatusEvent)
                and event.evidence is not None
                and event.web is not None
                and None not in (event.evidence.fault, event.web.fault)
            )

        status = run.until(both_are_down)
        assert status.handshake.state == "DEGRADED"
        assert status.evidence.fault in status.handshake.detail
        assert "the monitor" in status.evidence.fault
        assert "the monitor" in status.web.fault
        before = status.ledger["top"].inspected
        after = run.until(lambda event: isinstance(event, StatusEvent) and event.ledger["top"].inspected > before + 20)
        assert after.ledger["top"].balanced
        verdict = run.next_verdict()
        assert isinstance(verdict, VerdictEvent)
        shown = heatline("status", line).stdout
        assert "NOT SERVED NOW (" in shown
        back = run.until(lambda event: isinstance(event, StatusEvent) and event.evidence.fault is None)  # type: ignore[union-attr]
        assert back.evidence.skipped >= status.evidence.skipped, "the recorder works again"
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
