"""`heatline status` and `reload`: a line's status as text, as JSON and as an exit code; a signal and its result.

The process that `reload` signals is this one, so it sends its events before the command continues.
"""

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
from typing import Any, get_args

import msgspec
import pytest

from heatline.edge import target
from heatline.edge.cli.line import EXIT_CODES
from heatline.edge.delivery.auth import make_key_pair
from heatline.edge.errors import CommandRefusedError, ConfigError, DeliveryError, HeatlineError, MessageError
from heatline.edge.target import KeyFiles, endpoint_of
from heatline.edge.wire.events import Handshake, HandshakeState, StatusEvent
from tests.command import complaint, heatline, refused
from tests.edge.status_only_line import StatusOnlyLine, a_change, a_status
from tests.edge.wire_examples import GOLDEN, JOURNAL_STATUS
from tests.golden import assert_golden


def ask(*arguments: str | Path, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    return heatline("status", *arguments, "--timeout", str(timeout_s), env={"COLUMNS": "240"})


def test_the_exit_code_gives_the_state_and_is_documented(address: str) -> None:
    document = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \| `heatline status`: (\w+)", document, flags=re.MULTILINE)
    assert {"READY": 0} | {state: int(code) for code, state in rows} == EXIT_CODES
    assert EXIT_CODES == {"READY": 0, "BUSY": 16, "DEGRADED": 17, "NOT_READY": 18}
    for state in get_args(HandshakeState):
        event = a_status(handshake=Handshake(state=state, reason=None, detail=None, heartbeat=7))
        with StatusOnlyLine(address, event):
            result = ask(address, "--json")
        report = json.loads(result.stdout)
        assert (result.returncode, result.stderr, report["state"]) == (EXIT_CODES[state], "", state)
        assert report | msgspec.structs.asdict(event.handshake) == report
        assert msgspec.convert(report["status"], StatusEvent) == event, "the rest is the event as protocol.md has it"


def test_status_as_text_has_all_facts(address: str) -> None:
    hostile = Handshake(state="DEGRADED", reason="camera_dead", detail="\x1b[2J[bold]gone", heartbeat=7)
    texts = []
    for event in (a_status(), JOURNAL_STATUS.event, GOLDEN["status-evidence"].event, a_status(handshake=hostile)):
        with StatusOnlyLine(address, event):
            texts.append(ask(address).stdout)
    assert "\x1b" not in texts[-1]
    assert_golden("status", "\n".join(texts), address=address)


def test_a_missing_line_is_not_ready_and_another_version_or_an_unusable_file_is_an_error(
    address: str, tmp_path: Path
) -> None:
    shown = ask(address, timeout_s=0.05).stdout
    assert shown.startswith(f"{address}: NOT_READY (unreachable)\n")
    assert "check that the line runs" in shown
    with socket.create_server(("127.0.0.1", 0)) as hung:  # the kernel accepts, and nobody greets
        began_s = time.monotonic()
        result = ask(f"tcp://127.0.0.1:{hung.getsockname()[1]}", "--json", timeout_s=0.05)
        took_s = time.monotonic() - began_s
    report = json.loads(result.stdout)
    assert (result.returncode, report["reason"], report["heartbeat"]) == (18, "unreachable", None)
    (said_s,) = re.findall(r"within ([0-9.]+) s", report["detail"])
    assert 1.0 <= float(said_s) <= took_s + 0.1
    with StatusOnlyLine(address, a_status(schema_version=1)):
        result = ask(address, "--json")
    assert (result.returncode, result.stdout) == (MessageError.exit_code, "")
    assert "an event of schema version 1 came, this reader knows version 2; update the line" in complaint(result)
    (tmp_path / "line1.toml").write_text("nonsense")
    for name in ("line1.toml", "missing.toml"):
        assert name in refused(3, "status", tmp_path / name)


def test_a_line_is_found_by_its_file_and_its_name_and_a_wildcard_at_loopback(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "LINES", tmp_path)
    make_key_pair(tmp_path / "line.key")
    file = tmp_path / "line1.toml"
    # The bundle and the pictures are gone: the command needs only the address.
    content = 'bundle = "gone"\ncameras = [{kind = "folder", name = "top", path = "gone"}]\nevents = {bind = "%s"}\n'
    file.write_text(content % address)
    with StatusOnlyLine(address, a_status()):
        assert ask(file).returncode == ask("line1").returncode == 17
    for bound, reached in (
        ("tcp://*:5556", "tcp://127.0.0.1:5556"),
        ("tcp://0.0.0.0:5556", "tcp://127.0.0.1:5556"),
        ("tcp://192.168.0.4:5556", "tcp://192.168.0.4:5556"),
        ("ipc:///run/heatline/line1/events", "ipc:///run/heatline/line1/events"),
    ):
        file.write_text(f'{content % bound}[security]\nkey = "line.key"\n')
        assert endpoint_of("line1", "events", KeyFiles())[0] == reached


@contextlib.contextmanager
def on_sighup(then: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Receive SIGHUP in this process and call a function then. Return the received signals."""
    came: list[int] = []

    def handle(number: int, _frame: object) -> None:
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


def failed(kind: type[HeatlineError], *arguments: str | Path) -> str:
    """Return the sentence with which a reload fails."""
    return refused(kind.exit_code, "reload", "--timeout", "20", *arguments)


def test_a_reload_prints_what_is_active_or_the_lines_reason_with_exit_code_15(address: str) -> None:
    def say() -> None:
        line.send(a_change(change="select", product="1"))  # not mistaken for the reload
        line.send(a_change(change="reload"))

    with StatusOnlyLine(address, an_own_status()) as line, on_sighup(say) as came:
        result = heatline("reload", "--timeout", "20", address)
    assert (result.returncode, result.stderr, came) == (0, "", [signal.SIGHUP])
    assert result.stdout == "line1: product 4711, bundle boards 2026.11 (abababababab) is active\n"
    refused = a_change(change="reload", applied=False, detail="events.bind was changed; that needs a restart")
    with StatusOnlyLine(address, an_own_status()) as line, on_sighup(lambda: line.send(refused)):
        sentence = failed(CommandRefusedError, address)
    assert sentence == "heatline: the line refuses: events.bind was changed; that needs a restart"
    assert CommandRefusedError.exit_code == 15


def test_a_reload_without_a_result_is_an_error_and_signals_no_process_of_an_unusable_line(
    tmp_path: Path, address: str
) -> None:
    for last in ({"state": "STOPPED"}, {"boot_id": "the next one"}):
        with StatusOnlyLine(address, an_own_status()) as line, on_sighup(lambda: line.send(an_own_status(**last))):  # noqa: B023
            assert "stopped before it reported the result of the reload" in failed(DeliveryError, address)
    with StatusOnlyLine(address, an_own_status()), on_sighup():
        assert "and may still apply it" in failed(DeliveryError, address, "--timeout", "0.3")
    with StatusOnlyLine(address, a_status(pid=4194304)):  # above Linux's largest pid
        assert "No such process" in failed(DeliveryError, address)
    (tmp_path / "line1.toml").write_text("nonsense")
    with on_sighup() as came:
        assert "is not valid TOML" in failed(ConfigError, tmp_path / "line1.toml")
        assert "nothing came from" in failed(DeliveryError, address, "--timeout", "0.05")
        with StatusOnlyLine(address, an_own_status(schema_version=1)):
            assert "update the line" in failed(MessageError, address)
    assert came == []
