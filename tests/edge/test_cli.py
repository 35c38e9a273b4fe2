"""The `heatline` command, in the test's process, or in a real one for pipes, signals and exits."""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from heatline.edge import __version__
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import fingerprint, make_key_pair
from heatline.edge.delivery.journal import Journal
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.images import read_rgb
from heatline.edge.wire.events import BundleName, Event, Message, VerdictEvent, WebState
from tests.command import HEATLINE, WIDE, WITHIN_SECONDS, complaint, heatline, heatline_process, refused
from tests.edge.lines import small_frames, started, write_line, write_pictures
from tests.edge.secured import begun
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import CHANGE, DEFECT, GOOD, HANDSHAKE, LIVE_ONLY, NO_VERDICT, REFUSED_CHANGE, STATUS
from tests.golden import assert_golden

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    write_pictures(tmp_path / "frames", small_frames(3))
    return write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})


def test_help_has_every_command_in_a_section_with_a_complete_sentence_on_a_narrow_terminal() -> None:
    for group in ("", "bench", "bundle", "cameras", "data", "evidence", "journal", "keys"):
        text = heatline(*([group] if group else []), "--help", env={"COLUMNS": "80"}).stdout
        assert "..." not in text.partition("[ARGS]...")[2]
        assert max(map(len, text.splitlines())) <= 80
        commands = text.partition("--help ")[2].partition("Example:")[0]
        rows = re.split(r"^  (?=[a-z])", commands, flags=re.MULTILINE)[1:]
        assert rows
        assert all(" ".join(row.split("\n\n")[0].split()).endswith(".") for row in rows)
    assert heatline("--version").stdout.strip() == f"heatline, version {__version__}"
    assert_golden("help", heatline("--help", env={"COLUMNS": "80"}).stdout)


def test_a_wrong_command_line_is_exit_code_2_and_a_wrong_address_7_without_a_traceback() -> None:
    for arguments, words in (
        (["paint"], ""),
        (["run"], ""),
        (["watch", "--speed", "3", "tcp://x:1"], ""),
        (["tran"], "Did you mean one of: 'retrain', 'train'?"),
        (["bundle", "shw"], "Did you mean 'show'?"),
    ):
        result = heatline(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Error:" in result.stderr and words in result.stderr and "Traceback" not in result.stderr  # noqa: PT018
    assert "is not an address to connect to" in refused(7, "watch", "smoke://signals")


def test_check_reports_what_the_line_will_use_and_starts_nothing(
    tmp_path: Path, line: Path, bundle: Bundle, address: str
) -> None:
    plain = json.loads(heatline("check", line, "--json").stdout)
    assert plain["bundle"] == {"name": "darkness", "version": "1", "digest": bundle.digest}
    assert (plain["score_threshold"], plain["evidence_threshold"]) == (-1.0, 20.0)
    served, key = f"ipc://{tmp_path}/journal", make_key_pair(tmp_path / "line.key")
    (tmp_path / "allowed").mkdir()
    tables = (
        '[evidence]\nfolder = "kept"\ngood_every = 50\n[web]\nlisten = "[::1]:8421"\n[thresholds]\nevidence = 3.32645\n'
        f'[journal]\nbind = "{served}"\nfolder = "new/journal"\n[security]\nkey = "line.key"'
    )
    line.write_text(f"{line.read_text()}\n{tables}")
    before = sorted(tmp_path.rglob("*"))
    result = heatline("check", line, "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, result.stderr, report["warnings"]) == (0, "", [])
    top = report["cameras"]["top"]
    assert (report["line"], top["tiles"], top["width"], top["height"]) == ("line", 4, 300, 230)
    assert (report["events"], report["evidence_threshold"], report["plausible"]) == (address, 3.32645, None)
    assert report["journal"] == {"address": served, "folder": str(tmp_path / "new" / "journal"), "kept": True}
    shown = heatline("check", line, env={"COLUMNS": "400"}).stdout
    assert sorted(tmp_path.rglob("*")) == before, "neither folder nor socket is left"
    varying = {"folder": tmp_path, "bundle": bundle.path, "address": address, "key": fingerprint(key.public)}
    assert_golden("check", re.sub(r"off by .*", "off by LITTLE", shown), **varying)


def test_check_reports_every_fault_with_the_code_of_the_first_and_run_ends_with_that(
    tmp_path: Path, line: Path, bundle: Bundle, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.cli.check.STATUS_WITHIN_SECONDS", 0.1)  # no line runs at the taken addresses
    taken, port, before = f"ipc://{tmp_path}/taken", address.rpartition(":")[2], line.read_text()
    local = f"tcp://localhost:{port}"
    (write_pictures(tmp_path / "bad", small_frames(1)) / "001.png").write_bytes(b"")
    for name in ("line.key", "open.key"):
        make_key_pair(tmp_path / name)
    (tmp_path / "open.key").chmod(0o640)
    (tmp_path / "file").write_text("mine")
    Journal(tmp_path / "other", "line2").close()
    side, rear = (f'[[cameras]]\nkind = "folder"\nname = "{name}"\n' for name in ("side", "rear"))
    top, event_address = 'path = "frames"', f'"{address}"'
    cases: tuple[tuple[str, str, str, int, list[str]], ...] = (
        (f'"{bundle.path}"', '"none"', "", 4, ["is not a bundle"]),
        (top, 'path = "nowhere"', "", 5, ["not a folder"]),
        (top, f'{top}\nsize = [640, 480]\n{side}{top}\npixel_format = "Mono8"\n{rear}path = "bad"', "", 5,
         ["300x230 px came, 640x480 px expected", "BGR8 came, Mono8 expected", "001.png"]),
        (event_address, f'"ipc://{tmp_path}/file"',
         f'[commands]\nbind = "{taken}"\n[journal]\nbind = "{local}"\n[web]\nlisten = "127.0.0.1:{port}"', 7,
         ["/file cannot be bound (File exists)", "set commands.bind", "web.listen"]),
        (event_address, f'"ipc://{tmp_path}/none/socket"',
         '[commands]\nbind = "ipc://./one"\n[journal]\nbind = "ipc://one"\nfolder = "other"\n'
         '[security]\nkey = "open.key"', 21,
         [f"chmod 600 {tmp_path}/open.key", "cannot be bound (No such file or directory", "set journal.bind",
          "is the journal of line line2, not of line"]),
        (top, 'path = "nowhere"',
         f'[commands]\nbind = "{local}"\n[evidence]\nfolder = "file/below"\n[journal]\nfolder = "file"\n'
         '[security]\nkey = "line.key"', 9,
         ["(Not a directory); check the disk and the permissions", "heatline keys allow", "set commands.bind",
          "cannot be used (Not a directory); check journal.folder", "camera top: "]),
        (event_address, f'"ipc://{tmp_path}/{"x" * 108}"',
         '[evidence]\n[tiles]\noverlap_px = 224\n[security]\nkey = "none.key"', 3,
         ["names no folder for the pictures", "expected less", "none.key", "cannot be bound (ipc path "]),
        ("", "", '[journal]\nfolder = "held"', 7,
         ["is in use by another running line; give each line its own journal.fold"]),
    )  # fmt: skip
    with (
        contextlib.closing(Journal(tmp_path / "held", "line")),
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as holder,
    ):
        holder.bind(taken)
        for old, new, tables, code, wanted in cases:
            line.write_text(f"{before.replace(old, new)}\n{tables}")
            result = heatline("check", line)
            found = [each for each in result.stderr.splitlines() if each.startswith("heatline: ")]
            assert len(found) == len(wanted), result.stderr
            assert [words for words, each in zip(wanted, found, strict=True) if words not in each] == [], result.stderr
            assert (result.returncode, result.stdout) == (code, "")
            if code != 9 and len(found) != 3:  # a line runs with wrong frames of a camera, and without evidence
                ended = heatline("run", line)
                assert (ended.returncode, complaint(ended)) == (code, found[0])
    assert (tmp_path / "file").read_text() == "mine"
    line.write_text(f'{before}\n[web]\nkey = "tls.key"\n[opcua]\nname = "p"\n[modbus]\nname = "p"\n')
    found = heatline("check", line).stderr.splitlines()
    assert [each.startswith(f"heatline: {line}: ") for each in found] == [True, True], "contradictions in the file"


def test_check_warns_of_useless_thresholds_and_leaves_a_running_line_alone(line: Path, address: str) -> None:
    before = line.read_text()
    for score, words in (("1e9", "would be GOOD, so that defects may pass"), ("-1e9", "would be DEFECT")):
        line.write_text(f"{before}\n[thresholds]\nscore = {score}")
        result = heatline("check", line)
        assert (result.returncode, words in result.stderr) == (0, True), result.stderr
    line.write_text(before)
    for name, code in (("another", 7), ("line", 0)):
        with StatusOnlyLine(address, a_status(line=name, state="RUNNING")):
            result = heatline("check", line, "--json")
        assert result.returncode == code, result.stderr
    report = json.loads(result.stdout)
    assert (report["cameras"], len(report["warnings"])) == ({}, 1)
    assert report["warnings"][0].startswith("the line runs, and uses its addresses")


def inspected(bundle: Bundle, folder: Path, *more: str | Path) -> Run:
    """Inspect `folder/frames` into `folder/out`."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    return heatline("inspect", bundle.path, folder / "frames", "--out", folder / "out", *more)


def test_inspect_writes_a_picture_and_an_event_per_image_and_continues_after_a_bad_one(
    tmp_path: Path, bundle: Bundle
) -> None:
    frames, out = write_pictures(tmp_path / "frames", small_frames(3)), tmp_path / "out"
    (frames / "002.png").write_bytes(b"\x89PNG")
    result = inspected(bundle, tmp_path, "--json", tmp_path / "missing.png")
    assert (result.returncode, "2 of 4 images got no verdict" in complaint(result)) == (9, True)
    events = [msgspec.json.decode(row, type=VerdictEvent) for row in result.stdout.splitlines()]
    assert [event.reason or event.verdict for event in events] == [
        "GOOD", "failed.unreadable", "DEFECT", "failed.unreadable"
    ]  # fmt: skip
    assert [event.source for event in events[:3]] == [str(frames / f"00{i}.png") for i in (1, 2, 3)]
    assert not any(event.acting for event in events), "no ejector may fire for an archive"
    assert (out / "verdicts.jsonl").read_text() == result.stdout
    pictures = [out / f"0000{i}_00{i}.png" for i in (1, 3)]
    assert sorted(out.iterdir()) == [*pictures, out / "verdicts.jsonl"], "no picture of what was not inspected"
    good, marked = read_rgb(pictures[0]), read_rgb(pictures[1])
    assert (good == 255).all(), "a frame without regions is unchanged"
    changed = np.argwhere((marked != read_rgb(frames / "003.png")).any(axis=2))
    assert len(changed) > 500
    assert (changed.min(axis=0) > (10, 30)).all(), "nothing is painted far from the defect at (40..88, 60..108)"
    assert (changed.max(axis=0) < (120, 140)).all()
    rows = inspected(bundle, tmp_path).stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["GOOD", "NO_VERDICT", "DEFECT"]
    assert "regions at (" in rows[2]


def test_inspect_without_images_or_into_an_unusable_folder_or_full_disk_is_an_error(
    tmp_path: Path, bundle: Bundle
) -> None:
    (tmp_path / "frames").mkdir()
    command, out = ("inspect", bundle.path, tmp_path / "frames", "--out"), tmp_path / "out"
    assert "holds no picture" in refused(9, *command, out)
    write_pictures(tmp_path / "frames", small_frames(3))
    (tmp_path / "file").write_text("in the way")
    for place, words in (("file", "cannot be written"), ("frames", "is not empty")):
        assert words in refused(9, *command, tmp_path / place)
    assert inspected(bundle, tmp_path).returncode == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {file.name: file.stat().st_size for file in out.glob("*.png")}
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes.values()) - 1, before[1]))
    try:
        full = inspected(bundle, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (full.returncode, "cannot be written (File too large)" in complaint(full)) == (9, True)
    assert all(file.stat().st_size == sizes[file.name] for file in out.glob("*.png")), "none is partial"


@pytest.fixture
def publisher(address: str) -> Iterator[Publisher]:
    with begun(Publisher(address)) as made:
        yield made


def watched(publisher: Publisher, address: str, *events: Message | Event, options: tuple[str, ...] = ()) -> str:
    """Return what `watch` prints for these events, in this process. Check that it ends in order."""

    def say() -> None:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        for event in events:
            publisher.send(event if isinstance(event, Message) else Message(event))

    saying = threading.Thread(target=say)
    saying.start()
    try:
        result = heatline("watch", address, *options, "--timeout", str(WITHIN_SECONDS), env=WIDE)
    finally:
        saying.join()
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_watch_prints_every_header_one_per_line_until_the_line_has_stopped(
    address: str, publisher: Publisher, tmp_path: Path
) -> None:
    sent, saving = [GOOD, DEFECT, NO_VERDICT, STATUS], ("--save", str(tmp_path / "saved"))  # the last is STOPPED
    rows = watched(publisher, address, *sent, options=("--json", *saving)).splitlines()
    came = [msgspec.json.decode(row, type=type(message.event)) for row, message in zip(rows, sent, strict=True)]
    assert came == [message.event for message in sent]
    saved = (tmp_path / "saved" / "events.jsonl").read_bytes()
    assert saved.count(b"\n") == 4
    assert "saved is not empty" in complaint(heatline("watch", address, *saving))
    assert (tmp_path / "saved" / "events.jsonl").read_bytes() == saved


def test_watch_ends_after_the_given_verdicts_or_a_silence(address: str, publisher: Publisher) -> None:
    out = watched(publisher, address, CHANGE, GOOD, DEFECT, NO_VERDICT, options=("--json", "--count", "2"))
    assert [json.loads(row).get("verdict") for row in out.splitlines()] == [None, "GOOD", "DEFECT"]
    silent = heatline("watch", address, "--json", "--timeout", "0.1")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


def test_watch_prints_each_event_on_one_line(address: str, publisher: Publisher) -> None:
    good, handshake = GOOD.event, HANDSHAKE.event
    odd: list[dict[str, Any]] = [
        {"seq": 1, "previous_seq": 0},
        {"seq": 7, "previous_seq": 5},
        {"seq": 9, "source": "[/nothing] [bold]brackets"},
        {"seq": 9, "source": "\x1b[2Jclear the screen"},
        {"seq": 9, "bundle": BundleName(name="", version="", digest="")},
        {"seq": 9, "times": msgspec.structs.replace(good.times, captured_at_ns=10**30)},  # in no calendar
        {"seq": 10, "previous_seq": 9, "verdict": "NO_VERDICT", "reason": "failed.implausible",
         "detail": "it does not look like the product: brightness 3, expected 60 to 140"},
    ]  # fmt: skip
    others = [DEFECT, NO_VERDICT, LIVE_ONLY, CHANGE, REFUSED_CHANGE]
    last = msgspec.structs.replace(handshake, state="STOPPED", web=WebState(fault="its process was killed"))
    out = watched(publisher, address, *(msgspec.structs.replace(good, **what) for what in odd), *others, last)
    assert "\x1b" not in out
    assert_golden("watch", re.sub(r"\d\d:\d\d:\d\d", "CLOCK", out))


def redirected(*command: str | Path, unbuffered: str = "", **streams: Any) -> Run:
    """Run a process and read its other streams."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([HEATLINE, *command], **pipes, text=True, env=env, timeout=WITHIN_SECONDS, check=False)


def test_a_closed_pipe_or_standard_output_ends_a_command_silently(
    address: str, publisher: Publisher, bundle: Bundle
) -> None:
    """`heatline watch --json ADDRESS | head -1`"""
    with started(HEATLINE, "watch", address, "--json") as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(GOOD)
        assert json.loads(watching.stdout.readline())["verdict"] == "GOOD"
        watching.stdout.close()
        publisher.send(DEFECT)  # writing this event fails
        assert (watching.wait(WITHIN_SECONDS), watching.stderr.read()) == (0, "")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        result = redirected("bundle", "show", bundle.path, stdout=gone)
    assert (result.returncode, result.stderr) == (0, "")
    command = ["sh", "-c", '"$@" >&-', "sh", HEATLINE, "bundle", "show", bundle.path]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_standard_output_is_one_sentence_and_a_full_standard_error_is_ignored(
    tmp_path: Path, bundle: Bundle
) -> None:
    (write_pictures(tmp_path / "frames", small_frames(2)) / "002.png").write_bytes(b"")  # which causes a warning
    inspect = ["inspect", bundle.path, tmp_path / "frames", "--out", tmp_path / "out", "--json"]
    with open("/dev/full", "wb") as full:
        show = "bundle", "show", bundle.path
        results = [redirected(*show, stdout=full, unbuffered=unbuffered) for unbuffered in ("", "1")]
        inspected = redirected(*inspect, stderr=full)
    for result in results:
        assert result.returncode == 9, result.stderr
        assert re.fullmatch(r"heatline: standard output cannot be written \(.*\); .* redirect it\n", result.stderr)
    assert (inspected.returncode, len(inspected.stdout.splitlines())) == (9, 2)


def test_a_command_leaves_no_temporary_folder_and_records_or_sends_no_use(bundle: Bundle, tmp_path: Path) -> None:
    """Libraries make temporary folders when they are imported; OpenVINO writes an id to the home folder."""
    fails = (
        "import sys, tempfile; from heatline.edge.cli.main import main; made = tempfile.TemporaryDirectory(); main()"
    )
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", fails, "check", "none.toml"], env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    )
    assert (done.returncode, list((tmp_path / "tmp").iterdir())) == (3, [])
    verified = heatline_process("bundle", "verify", bundle.path, env={"HOME": str(tmp_path / "home")})
    assert (verified.returncode, list((tmp_path / "home").rglob("*"))) == (0, [])


@pytest.mark.parametrize(("given", "missing"), [("--key", "--line-key"), ("--line-key", "--key")])
def test_one_key_of_two_is_a_usage_error(tmp_path: Path, given: str, missing: str) -> None:
    (tmp_path / "key").write_text("a key")
    done = heatline("status", "tcp://127.0.0.1:9", given, tmp_path / "key")
    assert (done.returncode, f"{given} needs {missing}" in done.stderr) == (2, True)
