"""`heatline reload`: a line's process is told, and what became of it is the command's end.

This process is the line's: what the signal sets off is said before the command goes on.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge.cli.reload import reload
from edge.delivery.messages import StatusEvent
from edge.errors import CommandRefusedError, ConfigError, DeliveryError, HeatlineError
from tests.edge.spoken_line import SpokenLine, a_change, a_status

OWN = str(os.getpid())


@contextlib.contextmanager
def told(then: Callable[[], object]) -> Iterator[list[int]]:
    """What comes of SIGHUP; grows with each."""
    came: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        then()

    before = signal.signal(signal.SIGHUP, hear)
    try:
        yield came
    finally:
        signal.signal(signal.SIGHUP, before)


def an_own_status(**what: Any) -> StatusEvent:
    """Of a line whose process this is."""
    return a_status(pid=os.getpid(), **what)


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(reload, ["--timeout", "20", *map(str, arguments)], env=environment)


def failed(result: Result, kind: type[HeatlineError]) -> str:
    assert isinstance(result.exception, kind), result.exception
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_reload_that_is_in_force_says_what_is(address: str) -> None:
    with (
        SpokenLine(address, an_own_status()) as line,
        told(lambda: line.say(a_change(change="reload"))) as came,
    ):
        result = run(address, "--pid", OWN)
    assert (result.exit_code, came) == (0, [signal.SIGHUP])
    assert result.output == "line1: in force is product 4711, bundle boards 2026.11 (abababababab)\n"


def test_the_process_is_the_one_that_systemd_names(address: str) -> None:
    with (
        SpokenLine(address, an_own_status()) as line,
        told(lambda: line.say(a_change(change="reload", product=None))),
    ):
        result = run(address, MAINPID=OWN)
    assert (result.exit_code, result.output) == (0, "line1: in force is bundle boards 2026.11 (abababababab)\n")


def test_a_reload_that_is_refused_is_the_lines_own_sentence_and_exit_code_15(address: str) -> None:
    refused = a_change(change="reload", in_force=False, detail="events.bind was changed; that needs a restart")
    with SpokenLine(address, an_own_status()) as line, told(lambda: line.say(refused)):
        result = run(address, "--pid", OWN)
    assert failed(result, CommandRefusedError) == "the line refuses: events.bind was changed; that needs a restart"
    assert isinstance(result.exception, CommandRefusedError)
    assert result.exception.exit_code == 15


def test_a_selection_meanwhile_is_not_taken_for_the_reload(address: str) -> None:
    def both() -> None:
        line.say(a_change(change="select", product="1"))
        line.say(a_change(change="reload", product="2"))

    with SpokenLine(address, an_own_status()) as line, told(both):
        result = run(address, "--pid", OWN)
    assert "product 2" in result.output


def test_a_file_of_nonsense_is_told_to_the_line_all_the_same(address: str, tmp_path: Path) -> None:
    """So that the line says so to everybody who listens."""
    file = tmp_path / "line1.toml"
    file.write_text("nonsense")
    with told(lambda: None) as came:
        result = run(file, "--pid", OWN)
    assert "is not valid TOML" in failed(result, ConfigError)
    assert came == [signal.SIGHUP]


def test_a_line_that_is_not_heard_is_told_all_the_same_and_the_outcome_is_said_to_be_unknown(address: str) -> None:
    with told(lambda: None) as came:
        result = run(address, "--pid", OWN, "--timeout", "0.05")
    assert "what became of it is not known" in failed(result, DeliveryError)
    assert came == [signal.SIGHUP]


@pytest.mark.parametrize("last", [{"state": "STOPPED"}, {"boot_id": "the next one"}], ids=["stopped", "started anew"])
def test_a_line_that_stops_meanwhile_is_not_waited_for(address: str, last: dict[str, str]) -> None:
    with (
        SpokenLine(address, an_own_status()) as line,
        told(lambda: line.say(an_own_status(**last))),
    ):
        result = run(address, "--pid", OWN)
    assert "stopped before it said what became of the reload" in failed(result, DeliveryError)


def test_a_line_that_does_not_say_in_time_may_still_do_it(address: str) -> None:
    with SpokenLine(address, an_own_status()), told(lambda: None):
        result = run(address, "--pid", OWN, "--timeout", "0.3")
    assert "and may still do it" in failed(result, DeliveryError)


def test_a_line_of_an_older_version_is_not_told_as_it_would_end(address: str) -> None:
    with SpokenLine(address, an_own_status(handshake=None)), told(lambda: None) as came:
        result = run(address, "--pid", OWN)
    assert "restart it instead" in failed(result, DeliveryError)
    assert came == []


def test_a_process_that_is_not_there_is_a_delivery_error(address: str) -> None:
    gone = 4194304  # more than Linux gives
    with SpokenLine(address, a_status(pid=gone)):
        result = run(address, "--pid", str(gone))
    assert "No such process" in failed(result, DeliveryError)


def test_a_process_that_is_not_the_lines_is_not_told_as_it_would_end(address: str) -> None:
    with SpokenLine(address, a_status(pid=4242)), told(lambda: None) as came:
        result = run(address, "--pid", OWN)
    assert f"process {OWN} is not line line1's, which is 4242" in failed(result, DeliveryError)
    assert came == []


def test_the_line_says_which_process_it_is(address: str) -> None:
    with (
        SpokenLine(address, an_own_status()) as line,
        told(lambda: line.say(a_change(change="reload"))) as came,
    ):
        result = run(address, MAINPID="")
    assert (result.exit_code, came) == (0, [signal.SIGHUP])


def test_where_no_line_is_heard_and_no_process_named_nothing_is_told(address: str) -> None:
    result = run(address, "--timeout", "0.05", MAINPID="")
    assert "nothing was heard" in failed(result, DeliveryError)
