"""`heatline reload`: the line's process gets a signal, and the command reports the result.

The line's process is this one, so it sends its events before the command continues.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from heatline.edge.errors import CommandRefusedError, ConfigError, DeliveryError, HeatlineError, MessageError
from heatline.edge.wire.events import StatusEvent
from tests.command import complaint, heatline
from tests.edge.status_only_line import StatusOnlyLine, a_change, a_status


@contextlib.contextmanager
def on_sighup(then: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Receive SIGHUP in this process and call a function then. Return the received signals."""
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        then()

    before = signal.signal(signal.SIGHUP, handle)
    try:
        yield came
    finally:
        signal.signal(signal.SIGHUP, before)


def an_own_status(**what: Any) -> StatusEvent:
    """Return a status that names this process as the line's."""
    return a_status(pid=os.getpid(), **what)


def done(*arguments: str | Path) -> str:
    result = heatline("reload", "--timeout", "20", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def failed(kind: type[HeatlineError], *arguments: str | Path) -> str:
    """Return the sentence with which the command fails."""
    result = heatline("reload", "--timeout", "20", *arguments)
    assert (result.returncode, result.stdout) == (kind.exit_code, "")
    return complaint(result)


def test_an_applied_reload_prints_the_active_product_and_bundle(address: str) -> None:
    def say() -> None:
        line.send(a_change(change="select", product="1"))  # not mistaken for the reload
        line.send(a_change(change="reload"))

    with StatusOnlyLine(address, an_own_status()) as line, on_sighup(say) as came:
        output = done(address)
    assert came == [signal.SIGHUP]
    assert output == "line1: product 4711, bundle boards 2026.11 (abababababab) is active\n"


def test_a_refused_reload_prints_the_lines_reason_with_exit_code_15(address: str) -> None:
    refused = a_change(change="reload", applied=False, detail="events.bind was changed; that needs a restart")
    with StatusOnlyLine(address, an_own_status()) as line, on_sighup(lambda: line.send(refused)):
        sentence = failed(CommandRefusedError, address)
    assert sentence == "heatline: the line refuses: events.bind was changed; that needs a restart"
    assert CommandRefusedError.exit_code == 15


def test_no_process_is_signalled_for_an_invalid_file_or_a_silent_line(tmp_path: Path, address: str) -> None:
    (tmp_path / "line1.toml").write_text("nonsense")
    with on_sighup() as came:
        assert "is not valid TOML" in failed(ConfigError, tmp_path / "line1.toml")
        assert "nothing came from" in failed(DeliveryError, address, "--timeout", "0.05")
    assert came == []


@pytest.mark.parametrize("last", [{"state": "STOPPED"}, {"boot_id": "the next one"}], ids=["stopped", "next-boot"])
def test_reload_ends_when_the_line_stops(address: str, last: dict[str, str]) -> None:
    with StatusOnlyLine(address, an_own_status()) as line, on_sighup(lambda: line.send(an_own_status(**last))):
        assert "stopped before it reported the result of the reload" in failed(DeliveryError, address)


def test_a_late_reload_is_an_error_that_says_it_may_still_be_applied(address: str) -> None:
    with StatusOnlyLine(address, an_own_status()), on_sighup():
        assert "and may still apply it" in failed(DeliveryError, address, "--timeout", "0.3")


def test_a_line_of_another_version_is_not_signalled(address: str) -> None:
    with StatusOnlyLine(address, an_own_status(schema_version=1)), on_sighup() as came:
        assert "update the line" in failed(MessageError, address)
    assert came == []


def test_a_missing_process_is_a_delivery_error(address: str) -> None:
    gone = 4194304  # above Linux's largest pid
    with StatusOnlyLine(address, a_status(pid=gone)):
        assert "No such process" in failed(DeliveryError, address)
