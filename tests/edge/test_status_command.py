"""`heatline status`: a line's status as text, as JSON and as an exit code."""

import json
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from heatline.edge import target
from heatline.edge.cli.line import EXIT_CODES
from heatline.edge.delivery.auth import make_key_pair
from heatline.edge.errors import MessageError
from heatline.edge.target import KeyFiles, endpoint_of, file_of, name_of
from heatline.edge.wire.events import Handshake, HandshakeState, StatusEvent
from tests.command import complaint, heatline
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import GOLDEN, JOURNAL_STATUS

ROOT = Path(__file__).parents[2]


def ask(*arguments: str | Path, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    return heatline("status", *arguments, "--timeout", str(timeout_s), env={"COLUMNS": "240"})


def handshake(state: HandshakeState, reason: str | None = None, detail: str | None = None) -> StatusEvent:
    return a_status(handshake=Handshake(state=state, reason=reason, detail=detail, heartbeat=7))


def configured(path: Path, bind: str) -> Path:
    """A line's file without its bundle: the command needs only the address."""
    path.write_text(
        f'bundle = "gone"\n[[cameras]]\nkind = "folder"\nname = "top"\npath = "gone"\n[events]\nbind = "{bind}"\n'
    )
    return path


@pytest.mark.parametrize("state", get_args(HandshakeState))
def test_the_exit_code_gives_the_state(address: str, state: HandshakeState) -> None:
    with StatusOnlyLine(address, handshake(state)):
        result = ask(address, "--json")
    assert result.returncode == EXIT_CODES[state] == {"READY": 0, "BUSY": 16, "DEGRADED": 17, "NOT_READY": 18}[state]
    assert json.loads(result.stdout)["state"] == state


def test_the_exit_codes_are_documented_beside_those_of_errors() -> None:
    document = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \| `heatline status`: (\w+)", document, flags=re.MULTILINE)
    assert {"READY": 0} | {state: int(code) for code, state in rows} == EXIT_CODES


def test_status_as_json_is_one_object(address: str) -> None:
    event = a_status()
    with StatusOnlyLine(address, event):
        result = ask(address, "--json")
    assert (result.returncode, result.stderr, result.stdout.count("\n")) == (17, "", 1)
    report = json.loads(result.stdout)
    assert report | msgspec.structs.asdict(event.handshake) == report
    assert report["address"] == address
    assert msgspec.convert(report["status"], StatusEvent) == event, "the rest is the event as docs/protocol.md has it"


OF_LINE = (
    *("line1: DEGRADED (camera_dead)", "camera side is dead: it is not there", "4711", "boards 2026.11 (abababababab)"),
    *("openvino in bf16", "131090", "LIVE; captured 131080 = inspected 131076 + dropped 4 + failed 0 + in flight 0"),
    *("DEAD (open); captured 0", "reload, refused at 20", "model.onnx was changed or damaged"),
)
OF_JOURNAL = (
    "00112233445566778899aabbccddeeff: events 17 to 1000002, 1024.0 MiB; NOT STORED NOW (the disk is full); 2 events "
    "of this run are not in it; 16 were deleted before all durable consumers had received them",
    *("consumer mes1", "away, last seen 20", "3 events behind", "3 events.auth"),
)


OF_EVIDENCE = (
    *("line1: DEGRADED (evidence_not_stored)", "480 pictures, 1024.0 MiB; the oldest of 2026-11-1"),
    *(
        "3 pictures of this run could not be stored; NOT STORED NOW (the disk is full)",
        "NOT SERVED NOW (its process was ended",
    ),
)


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (a_status(), OF_LINE),
        (JOURNAL_STATUS.event, OF_JOURNAL),
        (GOLDEN["status-evidence"].event, OF_EVIDENCE),
    ],
)
def test_status_as_text_has_all_facts(address: str, event: StatusEvent, facts: tuple[str, ...]) -> None:
    with StatusOnlyLine(address, event):
        shown = ask(address).stdout
    assert [fact for fact in facts if fact not in shown] == []


def test_a_missing_line_is_not_ready_and_another_version_is_an_error(address: str) -> None:
    result = ask(address, "--json", timeout_s=0.05)
    report = json.loads(result.stdout)
    assert (result.returncode, report["state"], report["reason"]) == (18, "NOT_READY", "unreachable")
    assert (report["heartbeat"], report["status"]) == (None, None)
    shown = ask(address, timeout_s=0.05).stdout
    assert shown.startswith(f"{address}: NOT_READY (unreachable)\n")
    assert "check that the line runs" in shown
    with StatusOnlyLine(address, a_status(schema_version=1)):
        result = ask(address, "--json")
    assert (result.returncode, result.stdout) == (MessageError.exit_code, "")
    assert "an event of schema version 1 came, this reader knows version 2; update the line" in complaint(result)


def test_a_line_that_hangs_is_unreachable_and_the_time_is_the_time_that_was_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # the kernel accepts, and nobody greets
        began_s = time.monotonic()
        result = ask(f"tcp://127.0.0.1:{hung.getsockname()[1]}", "--json", timeout_s=0.05)
        took_s = time.monotonic() - began_s
    report = json.loads(result.stdout)
    assert (result.returncode, report["reason"]) == (18, "unreachable")
    (said_s,) = re.findall(r"within ([0-9.]+) s", report["detail"])
    assert 1.0 <= float(said_s) <= took_s + 0.1


def test_control_characters_in_a_detail_are_escaped(address: str) -> None:
    with StatusOnlyLine(address, handshake("DEGRADED", "camera_dead", "\x1b[2J[bold]gone")):
        shown = ask(address).stdout
    assert "\x1b" not in shown
    assert "\\x1b[2J[bold]gone" in shown


# Resolving the LINE argument.


def test_a_line_is_found_by_its_file_and_by_its_name(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "LINES", tmp_path)
    file = configured(tmp_path / "line1.toml", address)
    with StatusOnlyLine(address, handshake("READY")):
        assert ask(file).returncode == ask("line1").returncode == 0


def test_a_line_is_named_by_name_file_or_address() -> None:
    for line, file, name in (
        ("line1", "/etc/heatline/line1.toml", "line1"),
        ("line1.toml", "line1.toml", "line1"),
        ("./line1", "line1", "line1"),
        ("/srv/lines/west.toml", "/srv/lines/west.toml", "west"),
    ):
        assert (file_of(line), name_of(line)) == (Path(file), name)
    for address in ("tcp://127.0.0.1:5556", "ipc:///run/heatline/line1/events"):
        assert (endpoint_of(address, "events", KeyFiles()), name_of(address)) == ((address, None), address)


def test_a_wildcard_address_is_reached_at_loopback(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "line.key")
    for bound, reached in (
        ("tcp://*:5556", "tcp://127.0.0.1:5556"),
        ("tcp://0.0.0.0:5556", "tcp://127.0.0.1:5556"),
        ("tcp://192.168.0.4:5556", "tcp://192.168.0.4:5556"),
        ("ipc:///run/heatline/line1/events", "ipc:///run/heatline/line1/events"),
    ):
        file = configured(tmp_path / "line1.toml", bound)
        file.write_text(f'{file.read_text()}[security]\nkey = "line.key"\n')
        assert endpoint_of(str(file), "events", KeyFiles())[0] == reached


def test_an_unusable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "line1.toml").write_text("nonsense")
    for name in ("line1.toml", "missing.toml"):
        result = ask(tmp_path / name)
        assert result.returncode == 3
        assert name in complaint(result)
