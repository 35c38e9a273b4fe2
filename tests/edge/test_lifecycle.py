"""The service's main thread: signals at any instant, and the last status after a fault in a stage."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.config import load_config
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.service.lifecycle import Service, signal_handlers
from heatline.edge.wire.events import Message, StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.lines import small_frames, write_line, write_pictures

SIGNAL_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
from heatline.edge.service import lifecycle

lifecycle.POLL_SECONDS = 0.001

class Nothing:  # stands for a line, its changeover and its status: nothing ends, and nothing happens
    ended = False
    def __getattr__(self, name):
        return self
    def __call__(self, *args):
        return self

for at in range(1, 80):
    service = lifecycle.Service(Path("line.toml"), None)
    lines = 0
    def trace(frame, event, argument):
        global lines
        if event == "line":
            lines += 1
            if lines == at:
                os.kill(os.getpid(), signal.SIGTERM)
        return trace
    with lifecycle.signal_handlers(service):
        sys.settrace(trace)
        service._main_loop(Nothing(), Nothing(), Nothing())
        sys.settrace(None)
print("ended every time")
"""


def test_a_signal_at_any_line_of_the_main_loop_ends_it() -> None:
    """Also while the loop holds a lock that the signal handler would wait for."""
    result = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_EVERY_LINE],
        capture_output=True,
        text=True,
        timeout=WITHIN_SECONDS,
        check=False,
    )
    assert result.stdout == "ended every time\n", result.stderr


def test_former_signal_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    service = Service(Path("line.toml"), None)  # type: ignore[arg-type]
    with signal_handlers(service):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def service(tmp_path: Path, bundle: Bundle, address: str) -> Service:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"\nloop = true'})
    return Service(line, load_config(line))


@contextlib.contextmanager
def in_thread(service: Service) -> Iterator[list[BaseException]]:
    """Run the service to its end and return its exception."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            service.run()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield caught
    thread.join(WITHIN_SECONDS)
    assert not thread.is_alive()


def test_a_stage_that_breaks_ends_the_service_with_its_error_and_a_last_status(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a stage must not look like an idle line."""

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Inspector, "finish", breaks)
    # The line waits for a subscriber to verdicts.
    with (
        Subscriber(address, topics=["status", "verdict."], timeout_s=WITHIN_SECONDS) as events,
        in_thread(service) as caught,
    ):
        last = None
        while last is None or last.state != "STOPPED":
            message = events.receive()
            assert isinstance(message, Message)
            last = message.event if isinstance(message.event, StatusEvent) else last
    assert [type(error) for error in caught] == [ZeroDivisionError]
    account = last.ledger["top"]
    assert account.balanced
    assert (account.inspected, account.in_flight > 0) == (0, True), "frames that nobody judged are not inspected"


def test_a_service_can_be_stopped_from_any_thread_before_and_while_it_runs(service: Service, address: str) -> None:
    with Subscriber(address, timeout_s=WITHIN_SECONDS) as events, in_thread(service) as caught:
        assert events.receive() is not None
        service.stop()
        service.stop()
    assert caught == []
