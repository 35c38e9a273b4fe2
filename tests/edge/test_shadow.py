"""A shadow bundle beside a line: what it finds, that it is never in the way, and its exchange with the line's."""

import json
import os
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from heatline.edge.bundle import Bundle
from heatline.edge.monitor.marks import mark_of
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.pictures import add_mark, picture_socket
from heatline.edge.monitor.shadow import compare, read_findings
from heatline.edge.wire.events import ShadowState, StatusEvent, VerdictEvent
from tests.command import complaint, heatline
from tests.edge.lines import (
    ReceivedEvents,
    RunningLine,
    running,
    small_frames,
    write_line,
    write_pictures,
)
from tests.edge.view_pages import page
from tests.small_bundle import lenient_bundle

COUNTS = {"DEFECT GOOD", "GOOD GOOD"}


@pytest.fixture(scope="module")
def lenient(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return lenient_bundle(tmp_path_factory.mktemp("lenient") / "lenient.bundle", bundle)


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, lenient: Bundle, address: str) -> Path:
    """A line with a shadow, whose camera shows a black square in every third frame."""
    camera = f'path = "{write_pictures(tmp_path / "pictures", small_frames(6))}"\nloop = true\nrate_fps = 10.0'
    trust = f'allow_unsigned = true\nshadow = "{lenient.path}"'
    return write_line(tmp_path, bundle.path, address, {"top": camera}, '[journal]\nfolder = "state"', trust=trust)


@pytest.fixture
def run(line: Path, address: str) -> Iterator[RunningLine]:
    (line.parent / "state").mkdir()
    with running(line, address) as run:
        yield run


def until_shadow(run: RunningLine, wanted: Any) -> ShadowState:
    """Wait for a status whose shadow is as wanted."""
    found = run.next_of(StatusEvent, lambda status: status.shadow is not None and wanted(status.shadow)).shadow
    assert found is not None
    return found


def assert_every_frame_has_its_verdict(run: RunningLine) -> ReceivedEvents:
    """End the line, and return its events."""
    received = run.end()
    assert [event.frame_number for event in received.verdicts] == list(range(1, len(received.verdicts) + 1))
    assert received.refusals() == []
    return received


def test_it_judges_the_same_frames_and_what_it_found_outlives_both_processes(
    line: Path, run: RunningLine, address: str
) -> None:
    until_shadow(run, lambda shadow: shadow.judged >= 6)
    os.kill(run.child("service.shadow"), signal.SIGKILL)
    assert until_shadow(run, lambda shadow: shadow.fault).fault == "the shadow bundle's process was ended by SIGKILL"
    assert until_shadow(run, lambda shadow: shadow.bundle and not shadow.fault).bundle.name == "lenient"
    run.process.kill()
    before = compare(line, lambda _: None)
    assert (before["frames"] >= 6, set(before["counts"]), before["rows"][0]["verdict"]) == (True, COUNTS, "DEFECT")
    squares = {(row["source"], row["verdict"], row["shadow"]["verdict"]) for row in before["rows"]}
    assert squares <= {(f"00{n}.png", "GOOD" if n % 3 else "DEFECT", "GOOD") for n in range(1, 7)}
    with running(line, address) as again:
        until_shadow(again, lambda shadow: shadow.judged > 0)
        again.end()
    (file,) = (line.parent / "state" / "shadow").glob("*.json")
    assert sum(read_findings(file).counts.values()) > before["frames"]


def test_a_shadow_that_is_too_slow_leaves_out_its_own_frames_and_one_that_cannot_be_used_is_a_sentence(
    line: Path, run: RunningLine, lenient: Bundle
) -> None:
    until_shadow(run, lambda shadow: shadow.judged)
    stopped = run.child("service.shadow")
    os.kill(stopped, signal.SIGSTOP)
    run.until_inspected_frames(20)
    os.kill(stopped, signal.SIGCONT)
    until_shadow(run, lambda shadow: shadow.dropped >= 9)
    good = line.read_text()
    line.write_text(good.replace(str(lenient.path), "/nowhere"))
    assert run.reload().applied, "what is wrong with a shadow is no reason to refuse the file"
    fault = until_shadow(run, lambda shadow: shadow.fault).fault
    assert "/nowhere" in str(fault)
    run.until_handshake("READY")
    memory = Memory()
    memory.add_status(run.received.last)
    with page(memory, file=line) as web:
        assert f"The shadow bundle judges no frames: {fault}" in str(web.get("/api/state").json["words"])
        assert "/nowhere" in web.get("/api/shadow").json["error"]
    assert heatline("shadow", line, "--stop").returncode == 0
    assert line.read_text() == good.replace(f'shadow = "{lenient.path}"\n', "")
    run.until(lambda event: isinstance(event, StatusEvent) and event.shadow is None)
    assert "names no shadow bundle; set one with heatline shadow" in complaint(heatline("shadow", line))
    assert_every_frame_has_its_verdict(run)


def test_it_becomes_the_lines_bundle_between_two_frames_and_the_former_one_returns(
    line: Path, run: RunningLine, bundle: Bundle, lenient: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    until_shadow(run, lambda shadow: shadow.judged >= 3)
    run.until(lambda event: isinstance(event, VerdictEvent) and event.verdict == "DEFECT")
    with page(file=line) as web:

        def post(what: str, digest: str) -> tuple[int, str]:
            answer = web.request("POST", f"/api/{what}", json.dumps({"bundle": digest, "by": "Grace"}), {})
            return answer.status, answer.json.get("error", "")

        for what, digest in (("activate", bundle.digest), ("back", lenient.digest)):
            assert post(what, digest) == (409, "another bundle was activated or set meanwhile; look at the page again")
        assert post("activate", lenient.digest) == (200, "")
        run.until(lambda event: isinstance(event, VerdictEvent) and event.bundle.digest == lenient.digest)
        assert post("activate", bundle.digest)[0] == 409, "a second click does not return"
    active = tomllib.loads(line.read_text())
    assert [active[key] for key in ("bundle", "shadow", "former")] == [str(lenient.path), *[str(bundle.path)] * 2]
    until_shadow(run, lambda shadow: shadow.bundle and shadow.bundle.digest == bundle.digest)
    assert "return to it with heatline shadow" in complaint(heatline("shadow", line, "--activate"))
    assert heatline("shadow", line, "--back").returncode == 0
    run.until(lambda event: isinstance(event, VerdictEvent) and event.bundle.digest == bundle.digest)
    swapped = {**active, "bundle": active["shadow"], "shadow": active["bundle"]}
    assert tomllib.loads(line.read_text()) == {key: value for key, value in swapped.items() if key != "former"}
    assert "no former bundle to return to" in complaint(heatline("shadow", line, "--back"))
    received = assert_every_frame_has_its_verdict(run)
    assert [(event.by, event.bundle.name) for event in received.changes] == [("Grace", "lenient"), ("ada", "darkness")]
    assert "by Grace" in heatline("journal", "show", line.parent / "state", "--topic", "change").stdout
    assert "nothing came from" in complaint(heatline("shadow", line, "--activate"))


def test_the_command_says_what_reviewers_said_of_frames_on_which_they_differ(line: Path, run: RunningLine) -> None:
    until_shadow(run, lambda shadow: shadow.judged >= 3)
    defect = run.until(lambda event: isinstance(event, VerdictEvent) and event.verdict == "DEFECT")
    rows: list[dict[str, Any]] = []
    while not rows:
        run.next()
        rows = [row for row in compare(line, lambda _: None)["rows"] if row["verdict"] == "DEFECT"]
    event = replace(defect, picture=rows[0]["id"])
    add_mark(picture_socket(line), line.parent / "state" / "journal.db", mark_of(event, "false_alarm", "Ada"))
    run.end()
    found = json.loads(heatline("shadow", line, "--json").stdout)
    assert (found["reviewed"], found["line"]["right"], found["shadow"]["right"]) == (1, 0, 1)
    assert found["line"]["rejected"]["count"] == found["differ"] == found["counts"]["DEFECT GOOD"]
    assert (found["shadow"]["rejected"]["count"], found["shadow"]["rejected"]["of"]) == (0, found["frames"])
    with page(file=line) as web:
        assert web.get(f"/api/pictures/{rows[0]['id']}").json["event"]["verdict"] == "DEFECT", "its picture is stored"
    shown = heatline("shadow", line).stdout
    assert f"{found['frames']} frames judged by both" in shown
    assert "right of 1 reviewed" in shown
