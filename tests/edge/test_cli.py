"""The `heatline` command as people and programs use it: real processes, real pipes."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq

from edge import __version__
from edge.bundle import Bundle
from edge.delivery.messages import BundleName, Message, StatusEvent, VerdictEvent
from edge.delivery.publisher import Publisher
from edge.delivery.security.curve import fingerprint, make_key_pair
from edge.images import read_rgb
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import small_frames, started, write_line, write_pictures
from tests.edge.wire_examples import CHANGE, DEFECT, GOOD, HANDSHAKE, LIVE_ONLY, NO_VERDICT, REFUSED_CHANGE, STATUS
from tests.small_bundle import dark_square, small_bundle, white_frame

OWN = [
    "bundle", "cameras", "calibrate", "check", "follow", "inspect", "journal", "keys", "reload", "run", "select",
    "status", "trigger", "watch",
]  # fmt: skip
JOINED = ["bench", "data", "evaluate", "export", "models", "search", "study", "train"]


def one_object(text: str) -> dict[str, Any]:
    """The one JSON object on one line that is all of `text`."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, f"more than one line: {text}"
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    write_pictures(tmp_path / "frames", small_frames(3))
    return write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})


# help


def test_help_lists_every_command() -> None:
    result = heatline("--help")
    assert result.returncode == 0
    listed = re.findall(r"^  ([a-z]+) ", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == sorted(OWN + JOINED)
    assert "Example:" in result.stdout


@pytest.mark.parametrize("command", [*([name] for name in OWN), ["bundle", "show"], ["bundle", "verify"]], ids=" ".join)
def test_every_help_has_an_example(command: list[str]) -> None:
    result = heatline(*command, "--help")
    assert result.returncode == 0
    assert f"Example: heatline {command[0]}" in result.stdout


def test_the_version_is_the_packages() -> None:
    assert heatline("--version").stdout.strip() == f"heatline, version {__version__}"


@pytest.mark.parametrize("arguments", [["paint"], ["run"], ["watch", "--speed", "3", "tcp://x:1"], ["check", "a", "b"]])
def test_a_wrong_command_line_is_exit_code_2_without_a_traceback(arguments: list[str]) -> None:
    result = heatline(*arguments)
    assert result.returncode == 2
    assert "Error:" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


# check


def test_check_says_what_will_be_used(line: Path, bundle: Bundle, address: str) -> None:
    result = heatline("check", line, "--json")
    assert result.returncode == 0, result.stderr
    report = one_object(result.stdout)
    assert report["line"] == "line"
    assert report["bundle"] == {"name": "darkness", "version": "1", "digest": bundle.digest}
    assert (report["engine"], report["precision"]) == ("openvino", "f32")
    assert (report["score_threshold"], report["evidence_threshold"]) == (-1.0, 20.0)
    assert report["events"] == address
    assert report["cameras"]["top"]["tiles"] == 4
    assert (report["cameras"]["top"]["width"], report["cameras"]["top"]["height"]) == (300, 230)
    assert set(report["golden_tiles_off_by"]) == {"logit", "map"}


def test_check_tells_people_the_same(line: Path, address: str) -> None:
    result = heatline("check", line, env={"COLUMNS": "200"})
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for fact in ("can be run", "darkness 1", "openvino", "300x230 px BGR8, 4 tiles", address):
        assert fact in shown
    assert "{" not in result.stdout


def test_check_starts_nothing_and_can_be_repeated(line: Path) -> None:
    first, second = heatline("check", line, "--json"), heatline("check", line, "--json")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("size = [640, 480]", "300x230 px came, 640x480 px expected"),
        ('pixel_format = "Mono8"', "BGR8 came, Mono8 expected"),
    ],
)
def test_check_holds_the_first_frame_to_what_the_line_demands(
    tmp_path: Path, bundle: Bundle, address: str, keys: str, words: str
) -> None:
    """Else it would pass a line that fails on every frame."""
    write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, bundle.path, address, {"top": f'path = "frames"\n{keys}'})
    result = heatline("check", line)
    assert result.returncode == 5
    assert words in complaint(result)


def test_check_refuses_a_camera_whose_first_picture_cannot_be_read(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    (write_pictures(tmp_path / "frames", small_frames(1)) / "000.png").write_bytes(b"")
    result = heatline("check", write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}))
    assert result.returncode == 5
    assert "000.png" in complaint(result)


def test_check_says_where_events_are_kept_and_by_which_key_it_is_known(tmp_path: Path, line: Path) -> None:
    served, key = f"ipc://{tmp_path}/journal", make_key_pair(tmp_path / "line.key")
    (tmp_path / "allowed").mkdir()
    tables = f'[journal]\nbind = "{served}"\nfolder = "kept"\n\n[security]\nkey = "line.key"'
    line.write_text(f"{line.read_text()}\n{tables}")
    report = one_object(heatline("check", line, "--json").stdout)
    assert report["journal"] == {"address": served, "folder": str(tmp_path / "kept"), "kept": True}
    assert report["line_key"] == fingerprint(key.public)
    shown = " ".join(heatline("check", line).stdout.split())
    assert f"journal in {tmp_path}/kept, had at {served} line_key {fingerprint(key.public)}" in shown
    assert not (tmp_path / "kept").exists(), "it starts nothing"


@pytest.mark.parametrize("table", ["commands", "journal"])
def test_check_says_of_every_address_that_it_is_taken(tmp_path: Path, line: Path, table: str) -> None:
    taken = f"ipc://{tmp_path}/taken"
    line.write_text(f'{line.read_text()}\n[{table}]\nbind = "{taken}"')
    with zmq.Context() as context, context.socket(zmq.ROUTER) as holder:
        holder.bind(taken)
        result = heatline("check", line)
    assert result.returncode == 7
    assert f"Set {table}.bind" in complaint(result)


def test_check_says_beforehand_what_run_would_say_of_the_keys(tmp_path: Path, line: Path) -> None:
    key = tmp_path / "line.key"
    make_key_pair(key)
    line.write_text(line.read_text() + '\n[security]\nkey = "line.key"')
    nobody = heatline("check", line)
    assert (nobody.returncode, "heatline keys allow" in complaint(nobody)) == (21, True)
    key.chmod(0o640)
    loose = heatline("check", line)
    assert (loose.returncode, f"chmod 600 {key}" in complaint(loose)) == (21, True)
    assert complaint(heatline("run", line)) == complaint(loose)


# bundle


def test_bundle_show_prints_the_manifest(bundle: Bundle) -> None:
    report = one_object(heatline("bundle", "show", bundle.path, "--json").stdout)
    assert report["digest"] == bundle.digest
    assert msgspec.convert(report["manifest"], type(bundle.manifest)) == bundle.manifest


def test_bundle_show_tells_people(bundle: Bundle) -> None:
    result = heatline("bundle", "show", bundle.path, env={"COLUMNS": "200"})
    assert result.returncode == 0
    for fact in ("darkness 1", bundle.digest, "14x14 cells", "-1.000 logits", "golden.npz"):
        assert fact in result.stdout


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_bundle_verify_runs_the_golden_tiles(bundle: Bundle, kind: str) -> None:
    result = heatline("bundle", "verify", bundle.path, "--engine", kind, "--json")
    assert result.returncode == 0, result.stderr
    report = one_object(result.stdout)
    assert (report["engine"], report["golden_tiles"], report["digest"]) == (kind, 4, bundle.digest)
    assert all(share <= report["allowed"] for share in report["off_by"].values())
    shown = heatline("bundle", "verify", bundle.path, "--engine", kind, env={"COLUMNS": "200"}).stdout
    assert "works on this machine" in " ".join(shown.split())


def wrong_weights(folder: Path) -> None:
    path = folder / "model_f32.bin"
    path.write_bytes(path.read_bytes() + b"\x00")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "no bundle manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no bundle"),
    ],
)
def test_a_bad_bundle_is_one_sentence_and_exit_code_4(tmp_path: Path, spoil: Callable[[Path], Any], words: str) -> None:
    folder = small_bundle(tmp_path / "b").path
    spoil(folder)
    result = heatline("bundle", "verify", folder, "--json")
    assert (result.returncode, result.stdout) == (4, "")
    assert words in complaint(result)


def test_a_bad_bundle_is_refused_wherever_it_is_used(tmp_path: Path, address: str) -> None:
    folder = small_bundle(tmp_path / "b").path
    wrong_weights(folder)
    write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, folder, address, {"top": 'path = "frames"'})
    commands: list[list[str | Path]] = [
        ["bundle", "show", folder],
        ["bundle", "verify", folder, "--json"],
        ["inspect", folder, tmp_path / "frames", "--out", tmp_path / "out", "--json"],
        ["check", line, "--json"],
        ["run", line],
    ]
    for command in commands:
        result = heatline(*command)
        assert result.returncode == 4, command
        assert "changed or damaged" in complaint(result)
        assert result.stdout == "", "nothing looks like a result"
    assert not (tmp_path / "out").exists()


# inspect


def test_inspect_writes_a_picture_and_an_event_per_image(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    result = heatline("inspect", bundle.path, frames, "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    events = [msgspec.json.decode(row, type=VerdictEvent) for row in result.stdout.splitlines()]
    assert [(event.frame_id, event.verdict) for event in events] == [(1, "GOOD"), (2, "GOOD"), (3, "DEFECT")]
    assert [event.source for event in events] == [str(frames / f"00{i}.png") for i in (1, 2, 3)]
    assert not any(event.acting for event in events), "nobody's ejector fires on an archive"
    kept = (tmp_path / "out" / "verdicts.jsonl").read_text()
    assert kept == result.stdout
    for event in events:
        picture = read_rgb(tmp_path / "out" / f"{event.frame_id:05d}_{event.frame_id:03d}.png")
        assert picture.shape == (230, 300, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00001_001.png", "00002_002.png", "00003_003.png", "verdicts.jsonl",
    ]  # fmt: skip


def test_an_overlay_shows_a_good_frame_as_it_is_and_a_defect_marked(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    heatline("inspect", bundle.path, frames, "--out", tmp_path / "out")
    good = read_rgb(tmp_path / "out" / "00001_001.png")
    assert (good == 255).all(), "a cold frame keeps its own look"
    marked = read_rgb(tmp_path / "out" / "00003_003.png")
    plain = read_rgb(frames / "003.png")
    changed = np.argwhere((marked != plain).any(axis=2))
    assert len(changed) > 500
    assert (changed.min(axis=0) > (10, 30)).all(), "nothing is painted far from the defect at (40..88, 60..108)"
    assert (changed.max(axis=0) < (120, 140)).all()


def test_inspect_goes_on_after_a_bad_image_and_says_so_in_the_exit_code(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    (frames / "002.png").write_bytes(b"\x89PNG")
    wanted = [frames, tmp_path / "missing.png"]
    result = heatline("inspect", bundle.path, *wanted, "--out", tmp_path / "out", "--json")
    assert result.returncode == 9
    assert "2 of 4 images could not be inspected" in complaint(result)
    events = [json.loads(row) for row in result.stdout.splitlines()]
    assert [event["verdict"] for event in events] == ["GOOD", "NO_VERDICT", "DEFECT", "NO_VERDICT"]
    assert [event["reason"] for event in events] == [None, "failed.unreadable", None, "failed.unreadable"]
    assert "missing.png" in events[3]["detail"]
    assert not list((tmp_path / "out").glob("00002*")), "no picture of what was not inspected"


def test_inspect_tells_people_one_sentence_per_image(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    (frames / "002.png").write_bytes(b"")
    rows = heatline("inspect", bundle.path, frames, "--out", tmp_path / "out").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["GOOD", "NO_VERDICT", "DEFECT"]
    assert "regions at (" in rows[2]
    assert "002.png" in rows[1]


def test_inspect_takes_pictures_of_every_size_and_depth(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", {
        "a.png": white_frame((1, 1)), "b.png": white_frame((600, 30)), "c.png": np.full((50, 70), 255, np.uint8),
        "d.jpg": white_frame((300, 300)),
    })  # fmt: skip
    cv2.imwrite(str(frames / "e.png"), np.full((40, 40), 65535, np.uint16))
    result = heatline("inspect", bundle.path, frames, "--out", tmp_path / "out", "--engine", "onnxruntime", "--json")
    assert result.returncode == 0, result.stderr
    assert [json.loads(row)["verdict"] for row in result.stdout.splitlines()] == ["GOOD"] * 5


def test_inspect_without_a_single_picture_is_an_error(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "empty").mkdir()
    result = heatline("inspect", bundle.path, tmp_path / "empty", "--out", tmp_path / "out")
    assert result.returncode == 9
    assert "holds no picture" in complaint(result)


def test_inspect_into_a_place_that_cannot_be_is_an_error(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(1))
    (tmp_path / "file").write_text("in the way")
    result = heatline("inspect", bundle.path, frames, "--out", tmp_path / "file" / "out")
    assert result.returncode == 9
    assert "cannot be written" in complaint(result)


def test_both_engines_inspect_alike(tmp_path: Path, bundle: Bundle) -> None:
    pictures = small_frames(2) | {"x.png": dark_square(dark_square(white_frame((400, 500)), 10, 10), 200, 222)}
    frames = write_pictures(tmp_path / "frames", pictures)
    rows = [
        heatline(
            "inspect", bundle.path, frames, "--out", tmp_path / kind, "--engine", kind, "--json"
        ).stdout.splitlines()
        for kind in ("openvino", "onnxruntime")
    ]
    for ours, theirs in zip(*rows, strict=True):
        first, second = json.loads(ours), json.loads(theirs)
        assert first["verdict"] == second["verdict"]
        assert first["frame_score"] == pytest.approx(second["frame_score"], abs=1e-3)
        assert [region["box_xyxy"] for region in first["regions"]] == [
            region["box_xyxy"] for region in second["regions"]
        ]


# watch


@pytest.fixture
def publisher(address: str) -> Iterator[Publisher]:
    made = Publisher(address)
    made.start()
    yield made
    made.close()


def test_watch_prints_every_header_one_per_line_until_the_line_has_stopped(address: str, publisher: Publisher) -> None:
    with started(HEATLINE, "watch", address, "--json") as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        sent = [GOOD, DEFECT, NO_VERDICT, STATUS]  # the last says STOPPED
        for message in sent:
            publisher.send(message)
        out, log = watching.communicate(timeout=WITHIN_SECONDS)
    assert watching.returncode == 0
    assert log == ""
    rows = out.splitlines()
    assert [msgspec.json.decode(row, type=type(message.event)) for row, message in zip(rows, sent, strict=True)] == [
        message.event for message in sent
    ]


def test_watch_shows_people_a_table(address: str, publisher: Publisher) -> None:
    with started(HEATLINE, "watch", address, env={"COLUMNS": "160"}) as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        assert isinstance(GOOD.event, VerdictEvent)
        first, second = (
            Message(msgspec.structs.replace(GOOD.event, seq=seq, previous_seq=previous))
            for seq, previous in [(1, 0), (7, 5)]
        )
        for message in (first, second, DEFECT, NO_VERDICT, LIVE_ONLY, STATUS):
            publisher.send(message)
        out, log = watching.communicate(timeout=WITHIN_SECONDS)
    assert watching.returncode == 0, log
    assert "live_only" in out
    assert "the disk is full" in out
    for fact in ("GOOD", "DEFECT", "board-é.png", "14,30", "NO_VERDICT", "failed.unreadable", "line1: STOPPED"):
        assert fact in out
    assert re.search(r"after 1 up to 5 +missed", out), out


def test_watch_shows_what_is_in_force_and_whether_parts_may_come(address: str, publisher: Publisher) -> None:
    assert isinstance(HANDSHAKE.event, StatusEvent)
    last = msgspec.structs.replace(HANDSHAKE.event, state="STOPPED")
    with started(HEATLINE, "watch", address, "--topic", "verdict", env={"COLUMNS": "200"}) as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        for message in (CHANGE, REFUSED_CHANGE, Message(last)):
            publisher.send(message)
        out, log = watching.communicate(timeout=WITHIN_SECONDS)
    assert watching.returncode == 0, log
    for fact in (
        r"13 .*select +in force +product 4711, bundle boards 2026\.11 \(abababababab\)",
        r"14 .*reload +refused +boards\.bundle: model\.onnx was changed or damaged",
        r"line1: STOPPED, DEGRADED \(camera_dead\), product 4711",
        r"camera side is dead: it is not there",
        r"side DEAD \(open\): captured 0 = inspected 0",
    ):
        assert re.search(fact, out), out
    assert "missed" not in out, "change events count in seq"


def test_watch_stops_after_so_many_verdicts(address: str, publisher: Publisher) -> None:
    with started(HEATLINE, "watch", address, "--json", "--count", "2") as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        for message in (GOOD, DEFECT, NO_VERDICT):
            publisher.send(message)
        out, _ = watching.communicate(timeout=WITHIN_SECONDS)
    assert watching.returncode == 0
    assert [json.loads(row)["verdict"] for row in out.splitlines()] == ["GOOD", "DEFECT"]


def test_watch_stops_when_nothing_comes(address: str) -> None:
    result = heatline("watch", address, "--json", "--timeout", "0.1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_watch_refuses_an_address_that_is_none() -> None:
    result = heatline("watch", "smoke://signals")
    assert result.returncode == 7
    assert "is no address to connect to" in complaint(result)


ODD: list[dict[str, Any]] = [
    {"source": "[/nothing] [bold]brackets", "camera": "top"},
    {"source": "\x1b[2Jclear the screen"},
    {"bundle": BundleName(name="", version="", digest="")},
]


@pytest.mark.parametrize("odd", ODD, ids=["brackets", "escape", "empty"])
def test_watch_survives_odd_events(address: str, publisher: Publisher, odd: dict[str, Any]) -> None:
    assert isinstance(GOOD.event, VerdictEvent)
    with started(HEATLINE, "watch", address) as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(Message(msgspec.structs.replace(GOOD.event, **odd)))
        publisher.send(STATUS)
        _, log = watching.communicate(timeout=WITHIN_SECONDS)
    assert (watching.returncode, log) == (0, "")


def test_watch_survives_a_clock_beyond_all_calendars(address: str, publisher: Publisher) -> None:
    assert isinstance(GOOD.event, VerdictEvent)
    times = msgspec.structs.replace(GOOD.event.times, captured_at_ns=10**30)
    with started(HEATLINE, "watch", address) as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(Message(msgspec.structs.replace(GOOD.event, times=times)))
        publisher.send(STATUS)
        _, log = watching.communicate(timeout=WITHIN_SECONDS)
    assert (watching.returncode, log) == (0, "")


def test_watch_of_a_real_line_ends_with_it(line: Path, address: str) -> None:
    """The line waits for its first subscriber, so there must be no other."""
    with started(HEATLINE, "watch", address, "--json") as watching, started(HEATLINE, "run", line) as service:
        out, _ = watching.communicate(timeout=WITHIN_SECONDS)
        assert service.wait(WITHIN_SECONDS) == 0
    rows = [json.loads(row) for row in out.splitlines()]
    assert rows[-1]["state"] == "STOPPED"
    assert all(row["type"] in ("verdict", "status") for row in rows)


# pipes


def test_a_reader_that_has_seen_enough_ends_watch_without_a_word(address: str, publisher: Publisher) -> None:
    """`heatline watch --json ADDRESS | head -1`"""
    with started(HEATLINE, "watch", address, "--json") as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(GOOD)
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline())["verdict"] == "GOOD"
        watching.stdout.close()
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(0.01):
                publisher.send(DEFECT)

        sending = threading.Thread(target=go_on)
        sending.start()
        try:
            assert watching.wait(WITHIN_SECONDS) == 0
        finally:
            ended.set()
            sending.join()
        assert watching.stderr.read() == ""


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_has_seen_enough_ends_inspect_without_a_word(
    tmp_path: Path, bundle: Bundle, options: list[str]
) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(12))
    with started(HEATLINE, "inspect", bundle.path, frames, "--out", tmp_path / "out", *options) as inspecting:
        assert inspecting.stdout is not None
        assert inspecting.stderr is not None
        inspecting.stdout.close()
        assert inspecting.wait(WITHIN_SECONDS) == 0
        assert inspecting.stderr.read() == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", [["--json"], []])
def test_a_full_standard_output_is_one_sentence(bundle: Bundle, options: list[str], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [HEATLINE, "bundle", "show", bundle.path, *options],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert result.returncode == 9, result.stderr
    assert re.fullmatch(r"heatline: standard output cannot be written \(.*\); .* send it elsewhere\n", result.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_error_costs_no_result(tmp_path: Path, bundle: Bundle, unbuffered: str) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(2))
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [HEATLINE, "inspect", bundle.path, frames, "--out", tmp_path / "out", "--json"],
            stdout=subprocess.PIPE, stderr=full, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
        refused = subprocess.run([HEATLINE, "inspect", bundle.path, tmp_path / "none"], stderr=full)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 2
    assert refused.returncode in {2, 9}


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_reader_that_has_gone_ends_a_report_without_a_word(bundle: Bundle, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        result = subprocess.run(
            [HEATLINE, "bundle", "show", bundle.path, *options], stdout=gone, stderr=subprocess.PIPE
        )
    assert (result.returncode, result.stderr) == (0, b"")


# without extras

WITHOUT_TORCH = """
import sys

class Hides:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in ("torch", "timm", "lightning") else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hides(finder) for finder in sys.meta_path]
from edge.cli.main import main
main()
"""


def without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "extra"), [(["train", "data=boards"], "train"), (["export", "runs/boards", "--to", "b"], "export")]
)
def test_a_command_whose_extra_is_missing_says_in_one_line_what_to_install(arguments: list[str], extra: str) -> None:
    result = without_torch(*arguments)
    assert result.returncode == 10, result.stderr
    assert f"pip install -e '.[{extra}]'" in complaint(result)
    assert "torch" in complaint(result)
    assert result.stdout == ""


def test_without_extras_help_still_lists_every_command() -> None:
    result = without_torch("--help")
    assert result.returncode == 0, result.stderr
    assert all(f"\n  {name} " in result.stdout for name in OWN + JOINED)


def test_without_extras_a_line_can_be_checked(line: Path) -> None:
    assert without_torch("check", line).returncode == 0


def test_nothing_is_kept_of_who_used_it_and_so_nothing_can_be_told(bundle: Bundle, tmp_path: Path) -> None:
    """OpenVINO would write an id and statistics to the home folder, and send them to its maker."""
    home = tmp_path / "home"
    home.mkdir()
    assert heatline("bundle", "verify", bundle.path, env={"HOME": str(home)}).returncode == 0
    assert list(home.rglob("*")) == []
