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

import cv2
import msgspec
import numpy as np
import pytest
import zmq

import heatline.edge.cli.check as check_module
from heatline.edge import __version__
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import fingerprint, make_key_pair
from heatline.edge.delivery.journal import Journal
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.errors import Faults
from heatline.edge.images import read_rgb
from heatline.edge.service.line import bound_addresses
from heatline.edge.wire.events import BundleName, Event, Message, StatusEvent, VerdictEvent, WebState
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline, heatline_process, process_env
from tests.edge.lines import small_frames, started, write_line, write_pictures
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import CHANGE, DEFECT, GOOD, HANDSHAKE, LIVE_ONLY, NO_VERDICT, REFUSED_CHANGE, STATUS
from tests.small_bundle import GAIN, copy_of, dark_square, graph, put, to_openvino, white_frame

OWN = [
    "archive", "bridge", "bundle", "cameras", "calibrate", "check", "evidence", "follow", "inspect", "journal", "keys",
    "reload", "run", "select", "status", "trigger", "view", "watch",
]  # fmt: skip
JOINED = ["bench", "data", "evaluate", "export", "models", "retrain", "search", "study", "train"]
WIDE = {"COLUMNS": "200"}
Run = subprocess.CompletedProcess[str]


def one_object(text: str) -> dict[str, Any]:
    """Return the only JSON object in `text`, which is one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, f"more than one line: {text}"
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    write_pictures(tmp_path / "frames", small_frames(3))
    return write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})


# The command line.


def test_help_lists_every_command_and_the_version_is_the_packages() -> None:
    result = heatline("--help")
    assert result.returncode == 0
    listed = re.findall(r"^  ([a-z]+) ", result.stdout.partition("Train a model:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(OWN + JOINED)
    assert "Other commands" not in result.stdout, "every command has its section"
    assert heatline("--version").stdout.strip() == f"heatline, version {__version__}"


@pytest.mark.parametrize("group", ["", "bench", "bundle", "cameras", "data", "evidence", "journal", "keys"])
def test_help_has_a_complete_sentence_per_command_on_a_narrow_terminal(group: str) -> None:
    text = heatline(*([group] if group else []), "--help", env={"COLUMNS": "80"}).stdout
    assert "..." not in text.partition("[ARGS]...")[2]
    assert max(map(len, text.splitlines())) <= 80
    commands = text.partition("--help ")[2].partition("Example:")[0]
    rows = re.split(r"^  (?=[a-z])", commands, flags=re.MULTILINE)[1:]
    assert all(" ".join(row.split("\n\n")[0].split()).endswith(".") for row in rows)
    assert rows


def test_a_wrong_command_line_is_exit_code_2_and_a_wrong_address_7_without_a_traceback() -> None:
    for arguments in (["paint"], ["run"], ["watch", "--speed", "3", "tcp://x:1"], ["check", "a", "b"]):
        result = heatline(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Error:" in result.stderr
        assert "Traceback" not in result.stderr
    for typed, suggested in (
        ("tran", "Did you mean one of: 'retrain', 'train'?"),
        ("qqq", ""),
        ("bundle shw", "Did you mean 'show'?"),
    ):
        message = heatline(*typed.split()).stderr
        assert suggested in message
        assert ("Did you mean" in message) == bool(suggested)
    result = heatline("watch", "smoke://signals")
    assert (result.returncode, "is not an address to connect to" in complaint(result)) == (7, True)


# check


def test_check_reports_what_the_line_will_use_as_json_and_text(line: Path, bundle: Bundle, address: str) -> None:
    result = heatline("check", line, "--json")
    assert result.returncode == 0, result.stderr
    report = one_object(result.stdout)
    assert report["bundle"] == {"name": "darkness", "version": "1", "digest": bundle.digest}
    assert (report["line"], report["engine"], report["precision"]) == ("line", "openvino", "f32")
    assert (report["score_threshold"], report["evidence_threshold"]) == (-1.0, 20.0)
    assert report["plausible"] is None, "the bundle does not know"
    assert report["events"] == address
    top = report["cameras"]["top"]
    assert (top["tiles"], top["width"], top["height"]) == (4, 300, 230)
    assert set(report["golden_tiles_off_by"]) == {"logit", "map"}
    with line.open("a") as file:
        file.write("\n[thresholds]\nscore = 3.3264486789703374\n")
    shown = heatline("check", line, env=WIDE)  # a second time, as check starts no line
    assert shown.returncode == 0, shown.stderr
    facts = ("can be run", "darkness 1", "openvino", "300x230 px BGR8, 4 tiles", address, "score threshold 3.33 logits")
    for fact in facts:
        assert fact in " ".join(shown.stdout.split())
    assert not re.search(r"^\w*_|\d\.\d{5}", shown.stdout, re.MULTILINE), "neither keys nor raw numbers"


def test_check_reports_what_would_make_run_fail(tmp_path: Path, line: Path) -> None:
    key, taken, top = tmp_path / "line.key", f"ipc://{tmp_path}/taken", 'path = "frames"'
    make_key_pair(key)
    (write_pictures(tmp_path / "bad", small_frames(1)) / "001.png").write_bytes(b"")
    before = line.read_text()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as holder:
        holder.bind(taken)
        for old, new, code, words in (
            (top, f"{top}\nsize = [640, 480]", 5, "300x230 px came, 640x480 px expected"),
            (top, f'{top}\npixel_format = "Mono8"', 5, "BGR8 came, Mono8 expected"),
            (top, 'path = "bad"', 5, "001.png"),
            ("[events]", f'[commands]\nbind = "{taken}"\n[events]', 7, "set commands.bind"),
            ("[events]", f'[journal]\nbind = "{taken}"\n[events]', 7, "set journal.bind"),
            ("[events]", '[security]\nkey = "line.key"\n[events]', 21, "heatline keys allow"),
        ):
            line.write_text(before.replace(old, new))
            result = heatline("check", line)
            assert (result.returncode, words in complaint(result)) == (code, True), result.stderr
    key.chmod(0o640)
    sentences = {complaint(heatline(command, line)) for command in ("check", "run")}
    assert (len(sentences), f"chmod 600 {key}" in sentences.pop()) == (1, True)


def test_check_and_run_spare_a_file_at_an_ipc_address_and_check_leaves_no_socket(
    tmp_path: Path, line: Path, address: str
) -> None:
    precious, before = tmp_path / "precious.txt", line.read_text()
    precious.write_text("mine")
    for path, words in (
        (precious, "(File exists)"),
        (tmp_path / "frames", "(File exists)"),
        (tmp_path / "none" / "socket", "(No such file or directory"),
        (tmp_path / ("x" * 108), "(ipc path "),
    ):
        line.write_text(before.replace(address, f"ipc://{path}"))
        words = f"ipc://{path} cannot be bound {words}"
        results = [heatline(command, line) for command in ("check", "run")]
        assert [(each.returncode, words in complaint(each)) for each in results] == [(7, True)] * 2, results
    assert precious.read_text() == "mine"
    line.write_text(before.replace(address, f"ipc://{tmp_path}/events"))
    assert heatline("check", line).returncode == 0
    assert not (tmp_path / "events").exists()


def test_check_and_run_tell_of_a_folder_of_pictures_that_cannot_be_read(tmp_path: Path, line: Path) -> None:
    (tmp_path / "frames").chmod(0)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    for command in ("check", "run"):
        ended = subprocess.run(
            [*without, HEATLINE, command, line],
            env=process_env({}), text=True, capture_output=True, timeout=WITHIN_SECONDS, check=False,
        )  # fmt: skip
        words = f"camera top: {tmp_path}/frames cannot be read (Permission denied); give the user who runs heatline"
        assert (ended.returncode, words in complaint(ended)) == (5, True), ended.stderr


def test_check_refuses_two_names_of_one_address_and_pictures_without_a_folder(line: Path, address: str) -> None:
    before, port = line.read_text(), address.rpartition(":")[2]
    for table, code, words in (
        (f'[commands]\nbind = "tcp://localhost:{port}"', 7, "set commands.bind"),
        (f'[commands]\nbind = "{address}"', 7, "set commands.bind"),
        ('[commands]\nbind = "ipc://./one"\n[journal]\nbind = "ipc://one"', 7, "set journal.bind"),
        (f'[web]\nlisten = "127.0.0.1:{port}"', 7, "web.listen"),
        ("[evidence]", 3, "names no folder for the pictures"),
    ):
        line.write_text(f"{before}\n{table}")
        result = heatline("check", line)
        assert (result.returncode, words in complaint(result)) == (code, True), result.stderr


def test_check_refuses_a_page_without_pictures(tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = line.read_text()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "heatline").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    line.write_text(f'{before}\n[evidence]\nfolder = "kept"')
    result = heatline("check", line)
    assert (result.returncode, f"{tmp_path}/run/heatline" in complaint(result)) == (7, True), result.stderr


def test_every_contradiction_in_a_lines_file_is_reported(line: Path) -> None:
    line.write_text(f'{line.read_text()}\n[web]\nkey = "tls.key"\n[opcua]\nname = "plant"\n[mqtt]\nname = "plant"\n')
    line.write_text(f'{line.read_text()}broker = "mqtts://b:8883"\nkey = "mqtt.key"\n')
    sentences = heatline("check", line).stderr.splitlines()
    for words, sentence in zip(("web.key is set", "both 'plant'"), sentences, strict=True):
        assert words in sentence
        assert sentence.startswith(f"heatline: {line}: ")


def test_addresses_are_bound_together_whatever_their_names_and_families(address: str) -> None:
    faults, port = Faults(), address.rpartition(":")[2]
    hosts = {"events.bind": "lo", "commands.bind": "127.0.0.1", "journal.bind": "[::1]"}
    with bound_addresses({key: f"tcp://{host}:{port}" for key, host in hosts.items()}, faults):
        pass
    (error,) = faults.found
    assert str(error).endswith("set commands.bind")


def test_check_reports_every_fault_it_finds_with_the_code_of_the_first(tmp_path: Path, line: Path) -> None:
    taken = f"ipc://{tmp_path}/taken"
    tables = f'[commands]\nbind = "{taken}"\n[journal]\nfolder = "/proc/heatline"\n[security]\nkey = "none.key"'
    line.write_text(
        line.read_text().replace('path = "frames"', 'path = "nowhere"', 1)
        + f'\n{tables}\n[[cameras]]\nkind = "folder"\nname = "side"\npath = "frames"\npixel_format = "Mono8"'
    )
    with zmq.Context() as context, context.socket(zmq.ROUTER) as holder:
        holder.bind(taken)
        result = heatline("check", line)
    sentences = [each for each in result.stderr.splitlines() if each.startswith("heatline: ")]
    wanted = "none.key", "set commands.bind", "check journal.folder", "camera top: ", "BGR8 came, Mono8 expected"
    assert [words in sentence for words, sentence in zip(wanted, sentences, strict=True)] == [True] * 5, result.stderr
    assert (result.returncode, result.stdout) == (21, "")


def test_check_knows_the_state_folder_of_a_service(tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "LINES", tmp_path)
    monkeypatch.setattr(check_module, "STATE_FOLDERS", tmp_path / "state")
    line.write_text(f"{line.read_text()}\n[evidence]")
    shown = " ".join(heatline("check", line, env=WIDE).stdout.split())
    assert f"are stored in {tmp_path}/state/line/evidence" in shown
    Journal.open(tmp_path / "state" / "line", "line2").close()
    assert "is the journal of line line2" in complaint(heatline("check", line))


def test_check_tests_the_journals_folder_without_writing(tmp_path: Path, line: Path) -> None:
    before = line.read_text()
    (tmp_path / "file").write_text("")
    Journal.open(tmp_path / "other", "line2").close()
    with contextlib.closing(Journal.open(tmp_path / "held", "line")):
        for folder, code, words in (
            ("file", 19, "cannot be used (Not a directory); check journal.folder"),
            ("file/below", 19, "cannot be used (Not a directory); check journal.folder"),
            ("other", 19, "is the journal of line line2, not of line"),
            ("held", 7, "is in use by another running line; give each line its own journal.folder"),
        ):
            line.write_text(f'{before}\n[journal]\nfolder = "{folder}"')
            result = heatline("check", line)
            assert (result.returncode, words in complaint(result)) == (code, True), result.stderr
            if folder in ("other", "held"):
                assert (heatline("run", line).returncode, folder) == (code, folder)
    files = sorted(tmp_path.rglob("*"))
    line.write_text(f'{before}\n[journal]\nfolder = "new/journal"')
    assert one_object(heatline("check", line, "--json").stdout)["warnings"] == []
    assert sorted(tmp_path.rglob("*")) == files


def test_check_warns_of_a_threshold_outside_all_golden_tiles(line: Path) -> None:
    before = line.read_text()
    for score, words in (("1e9", "would be GOOD, so that defects may pass"), ("-1e9", "would be DEFECT")):
        line.write_text(f"{before}\n[thresholds]\nscore = {score}")
        result = heatline("check", line)
        assert (result.returncode, words in result.stderr) == (0, True), result.stderr


def test_check_leaves_a_running_line_alone_and_says_what_it_did_not_check(line: Path, address: str) -> None:
    line.write_text(f"{line.read_text()}\n[evidence]\nfolder = 'kept'")
    for name, code in (("another", 7), ("line", 0)):
        with StatusOnlyLine(address, a_status(line=name, state="RUNNING")):
            result = heatline("check", line, "--json")
        assert result.returncode == code, result.stderr
    report = one_object(result.stdout)
    assert report["cameras"] == {}
    (warning,) = report["warnings"]
    assert warning.startswith("the line runs, and uses its addresses")


@pytest.mark.parametrize("wrong", ["file", "file/below"])
def test_check_requires_a_folder_for_pictures(tmp_path: Path, line: Path, wrong: str) -> None:
    (tmp_path / "file").write_text("")
    line.write_text(f"{line.read_text()}\n[evidence]\nfolder = '{wrong}'")
    result = heatline("check", line)
    assert (result.returncode, "(Not a directory); check the disk and the permissions" in complaint(result)) == (
        9,
        True,
    ), result.stderr


def test_check_reports_which_pictures_are_stored_and_the_address_of_the_page(tmp_path: Path, line: Path) -> None:
    line.write_text(f'{line.read_text()}\n[evidence]\nfolder = "kept"\ngood_every = 50\n[web]\nlisten = "[::1]:8421"')
    report = one_object(heatline("check", line, "--json").stdout)
    assert (report["evidence"], report["page"]) == ({"folder": str(tmp_path / "kept")}, "[::1]:8421")
    shown = " ".join(heatline("check", line, env=WIDE).stdout.split())
    assert f"and 1 of 50 GOOD frames are stored in {tmp_path}/kept" in shown


def test_check_prints_the_folder_of_pictures_beside_the_journal(tmp_path: Path, line: Path) -> None:
    line.write_text(f'{line.read_text()}\n[evidence]\n[journal]\nfolder = "journal"')
    shown = " ".join(heatline("check", line, env=WIDE).stdout.split())
    assert f"are stored in {tmp_path}/journal/evidence" in shown


def test_check_reports_the_journals_folder_and_the_lines_key(tmp_path: Path, line: Path) -> None:
    served, key = f"ipc://{tmp_path}/journal", make_key_pair(tmp_path / "line.key")
    (tmp_path / "allowed").mkdir()
    tables = f'[journal]\nbind = "{served}"\nfolder = "kept"\n\n[security]\nkey = "line.key"'
    line.write_text(f"{line.read_text()}\n{tables}")
    report = one_object(heatline("check", line, "--json").stdout)
    assert report["journal"] == {"address": served, "folder": str(tmp_path / "kept"), "kept": True}
    assert report["line_key"] == fingerprint(key.public)
    shown = " ".join(heatline("check", line).stdout.split())
    assert f"journal in {tmp_path}/kept, served at {served} line key {fingerprint(key.public)}" in shown
    assert not (tmp_path / "kept").exists(), "it starts nothing"


# bundle


def test_bundle_show_prints_the_manifest(bundle: Bundle) -> None:
    report = one_object(heatline("bundle", "show", bundle.path, "--json").stdout)
    assert report["digest"] == bundle.digest
    assert msgspec.convert(report["manifest"], type(bundle.manifest)) == bundle.manifest
    shown = heatline("bundle", "show", bundle.path, env=WIDE).stdout
    for fact in ("darkness 1", bundle.digest, "14x14 cells", "-1.00 logits", "golden.npz"):
        assert fact in shown


def test_bundle_verify_runs_the_golden_tiles(bundle: Bundle) -> None:
    for kind in ("openvino", "onnxruntime"):
        result = heatline("bundle", "verify", bundle.path, "--engine", kind, "--json")
        assert result.returncode == 0, result.stderr
        report = one_object(result.stdout)
        assert (report["engine"], report["golden_tiles"], report["digest"]) == (kind, 4, bundle.digest)
        assert all(share <= report["allowed"] for share in report["off_by"].values())
    shown = " ".join(heatline("bundle", "verify", bundle.path, env=WIDE).stdout.split())
    assert "works on this machine" in shown
    assert re.search(r" golden tiles 4, off by logit \S+, map \S+ of the scale, \S+ allowed", shown)


def test_bundle_verify_refuses_different_golden_tiles(bundle: Bundle, tmp_path: Path) -> None:
    edited = graph(GAIN * 1.01)
    folder = put(copy_of(bundle, tmp_path / "b"), {"model.onnx": edited, **to_openvino(edited)})
    result = heatline("bundle", "verify", folder, "--json")
    assert (result.returncode, result.stdout) == (4, "")
    assert "must not be used here" in complaint(result)


def test_a_bad_bundle_is_refused_wherever_it_is_used(tmp_path: Path, bundle: Bundle, address: str) -> None:
    folder = copy_of(bundle, tmp_path / "b")
    (folder / "model_f32.bin").write_bytes(b"")
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
        assert (result.returncode, result.stdout) == (4, ""), command
        assert "changed or damaged" in complaint(result)
    assert not (tmp_path / "out").exists()


# inspect


def inspected(bundle: Bundle, folder: Path, *more: str | Path, images: Path | None = None) -> Run:
    """Inspect `folder/frames` into `folder/out`."""
    wanted = [folder / "frames", *([images] if images else [])]
    shutil.rmtree(folder / "out", ignore_errors=True)
    return heatline("inspect", bundle.path, *wanted, "--out", folder / "out", *more)


def test_inspect_writes_a_picture_and_an_event_per_image(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    result = inspected(bundle, tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    events = [msgspec.json.decode(row, type=VerdictEvent) for row in result.stdout.splitlines()]
    assert [(event.frame_id, event.verdict) for event in events] == [(1, "GOOD"), (2, "GOOD"), (3, "DEFECT")]
    assert [event.source for event in events] == [str(frames / f"00{i}.png") for i in (1, 2, 3)]
    assert not any(event.acting for event in events), "no ejector may fire for an archive"
    out = tmp_path / "out"
    assert (out / "verdicts.jsonl").read_text() == result.stdout
    pictures = [out / f"0000{i}_00{i}.png" for i in (1, 2, 3)]
    assert sorted(out.iterdir()) == [*pictures, out / "verdicts.jsonl"]
    good, marked = read_rgb(pictures[0]), read_rgb(pictures[2])
    assert good.shape == (230, 300, 3)
    assert (good == 255).all(), "a frame without regions is unchanged"
    changed = np.argwhere((marked != read_rgb(frames / "003.png")).any(axis=2))
    assert len(changed) > 500
    assert (changed.min(axis=0) > (10, 30)).all(), "nothing is painted far from the defect at (40..88, 60..108)"
    assert (changed.max(axis=0) < (120, 140)).all()


def test_inspect_continues_after_a_bad_image_and_ends_with_its_exit_code(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(3))
    (frames / "002.png").write_bytes(b"\x89PNG")
    result = inspected(bundle, tmp_path, "--json", images=tmp_path / "missing.png")
    assert result.returncode == 9
    assert "2 of 4 images got no verdict" in complaint(result)
    events = [json.loads(row) for row in result.stdout.splitlines()]
    assert [event["verdict"] for event in events] == ["GOOD", "NO_VERDICT", "DEFECT", "NO_VERDICT"]
    assert [event["reason"] for event in events] == [None, "failed.unreadable", None, "failed.unreadable"]
    assert "missing.png" in events[3]["detail"]
    assert not list((tmp_path / "out").glob("00002*")), "no picture of what was not inspected"
    rows = inspected(bundle, tmp_path).stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["GOOD", "NO_VERDICT", "DEFECT"]
    assert "002.png" in rows[1]
    assert "regions at (" in rows[2]


def test_inspect_accepts_every_size_and_depth_and_both_engines_agree(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", {
        "a.png": white_frame((1, 1)), "b.png": white_frame((600, 30)), "c.png": np.full((50, 70), 255, np.uint8),
        "d.jpg": white_frame((300, 300)),
        "x.png": dark_square(dark_square(white_frame((400, 500)), 10, 10), 200, 222),
    })  # fmt: skip
    cv2.imwrite(str(frames / "e.png"), np.full((40, 40), 65535, np.uint16))
    results = [inspected(bundle, tmp_path, "--json", "--engine", kind) for kind in ("openvino", "onnxruntime")]
    ours, theirs = ([json.loads(row) for row in result.stdout.splitlines()] for result in results)
    assert [event["verdict"] for event in ours] == ["GOOD"] * 5 + ["DEFECT"]
    for first, second in zip(ours, theirs, strict=True):
        assert first["verdict"] == second["verdict"]
        assert first["frame_score"] == pytest.approx(second["frame_score"], abs=1e-3)
        assert [each["box_xyxy"] for each in first["regions"]] == [each["box_xyxy"] for each in second["regions"]]


def test_inspect_without_images_or_into_an_unusable_folder_is_an_error(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "frames").mkdir()
    nothing = inspected(bundle, tmp_path)
    assert (nothing.returncode, "holds no picture" in complaint(nothing)) == (9, True)
    write_pictures(tmp_path / "frames", small_frames(1))
    (tmp_path / "file").write_text("in the way")
    for out, words in (("file", "cannot be written"), ("frames", "is not empty")):
        nowhere = heatline("inspect", bundle.path, tmp_path / "frames", "--out", tmp_path / out)
        assert (nowhere.returncode, words in complaint(nowhere)) == (9, True)
    assert [file.name for file in (tmp_path / "frames").iterdir()] == ["001.png"]


def test_a_picture_on_a_full_disk_leaves_no_partial_file(tmp_path: Path, bundle: Bundle) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = inspected(bundle, tmp_path)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "out").glob("*.png")}
    assert (whole.returncode, len(sizes)) == (0, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes.values()) - 1, before[1]))
    try:
        full = inspected(bundle, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (full.returncode, "cannot be written (File too large)" in complaint(full)) == (9, True)
    for file in (tmp_path / "out").glob("*.png"):
        assert file.stat().st_size == sizes[file.name]


# watch


@pytest.fixture
def publisher(address: str) -> Iterator[Publisher]:
    made = Publisher(address)
    made.start()
    yield made
    made.close()


def watched(publisher: Publisher, address: str, *events: Message | Event, options: tuple[str, ...] = ()) -> str:
    """Return what `watch` prints for these events, in this process. Check that it ends in order."""

    def say() -> None:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        for event in events:
            publisher.send(event if isinstance(event, Message) else Message(event))

    saying = threading.Thread(target=say)
    saying.start()
    try:
        result = heatline("watch", address, *options, "--timeout", str(WITHIN_SECONDS), env={"COLUMNS": "200"})
    finally:
        saying.join()
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def good(**what: Any) -> VerdictEvent:
    assert isinstance(GOOD.event, VerdictEvent)
    return msgspec.structs.replace(GOOD.event, **what)


def test_watch_prints_every_header_one_per_line_until_the_line_has_stopped(address: str, publisher: Publisher) -> None:
    sent = [GOOD, DEFECT, NO_VERDICT, STATUS]  # the last has the state STOPPED
    rows = watched(publisher, address, *sent, options=("--json",)).splitlines()
    came = [msgspec.json.decode(row, type=type(message.event)) for row, message in zip(rows, sent, strict=True)]
    assert came == [message.event for message in sent]


def test_watch_saves_only_into_a_new_folder(address: str, publisher: Publisher, tmp_path: Path) -> None:
    saving = ("--save", str(tmp_path / "saved"))
    watched(publisher, address, DEFECT, STATUS, options=saving)
    saved = (tmp_path / "saved" / "events.jsonl").read_bytes()
    assert saved.count(b"\n") == 2
    refused = heatline("watch", address, *saving)
    assert "saved is not empty" in complaint(refused)
    assert (tmp_path / "saved" / "events.jsonl").read_bytes() == saved


def test_watch_prints_each_event_on_one_line(address: str, publisher: Publisher) -> None:
    odd: list[dict[str, Any]] = [
        {"source": "[/nothing] [bold]brackets"},
        {"source": "\x1b[2Jclear the screen"},
        {"bundle": BundleName(name="", version="", digest="")},
        {"times": msgspec.structs.replace(good().times, captured_at_ns=10**30)},  # in no calendar
    ]
    goods = [good(seq=1, previous_seq=0), good(seq=7, previous_seq=5), *(good(seq=9, **what) for what in odd)]
    dark = good(
        seq=10, previous_seq=9, verdict="NO_VERDICT", reason="failed.implausible",
        detail="it does not look like the product: brightness 3, expected 60 to 140",
    )  # fmt: skip
    others = [dark, DEFECT, NO_VERDICT, LIVE_ONLY, CHANGE, REFUSED_CHANGE]
    assert isinstance(HANDSHAKE.event, StatusEvent)
    last = msgspec.structs.replace(HANDSHAKE.event, state="STOPPED", web=WebState(fault="its process was killed"))
    out = watched(publisher, address, *goods, *others, last)
    assert out.count("GOOD") == len(goods) + 1, "the topic of what was missed, too"
    for fact in (
        *("DEFECT", r"board-é\.png", "14,30", "NO_VERDICT", r"failed\.unreadable", "live_only", "the disk is full"),
        r"after 1 up to 5 +\S+ +missed +verdict\.top\.GOOD",
        "failed.implausible: it does not look",
        "brightness 3,",
        r"\[/nothing\] \[bold\]brackets",
        r"13 .*select applied +product 4711, bundle boards 2026\.11 \(abababababab\)",
        r"14 .*reload refused +boards\.bundle: model\.onnx was changed or damaged",
        r"line1: STOPPED, DEGRADED \(camera_dead\), product 4711",
        r"camera side is dead: it is not there",
        r"side DEAD \(open\); captured 0 = inspected 0",
        "the page is not served: its process was killed",
    ):
        assert re.search(fact, out), f"{fact}\n{out}"


def test_watch_ends_after_the_given_verdicts_or_a_silence(address: str, publisher: Publisher) -> None:
    out = watched(publisher, address, CHANGE, GOOD, DEFECT, NO_VERDICT, options=("--json", "--count", "2"))
    assert [json.loads(row).get("verdict") for row in out.splitlines()] == [None, "GOOD", "DEFECT"]
    result = heatline("watch", address, "--json", "--timeout", "0.1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# Processes and pipes.


def test_a_closed_pipe_ends_watch_silently(address: str, publisher: Publisher) -> None:
    """`heatline watch --json ADDRESS | head -1`"""
    with started(HEATLINE, "watch", address, "--json") as watching:
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(GOOD)
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline())["verdict"] == "GOOD"
        watching.stdout.close()
        publisher.send(DEFECT)  # writing this event fails
        assert watching.wait(WITHIN_SECONDS) == 0
        assert watching.stderr.read() == ""


def test_a_closed_pipe_ends_inspect_silently(tmp_path: Path, bundle: Bundle) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(12))
    with started(HEATLINE, "inspect", bundle.path, frames, "--out", tmp_path / "out") as inspecting:
        assert inspecting.stdout is not None
        assert inspecting.stderr is not None
        inspecting.stdout.close()
        assert inspecting.wait(WITHIN_SECONDS) == 0
        assert inspecting.stderr.read() == ""


def redirected(*command: str | Path, unbuffered: str = "", **streams: Any) -> Run:
    """Run a process and read its other streams."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([HEATLINE, *command], **pipes, text=True, env=env, timeout=WITHIN_SECONDS, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_sentence_and_a_full_standard_error_is_ignored(
    tmp_path: Path, bundle: Bundle, unbuffered: str
) -> None:
    (write_pictures(tmp_path / "frames", small_frames(2)) / "002.png").write_bytes(b"")  # which causes a warning
    inspect = ["inspect", bundle.path, tmp_path / "frames", "--out", tmp_path / "out", "--json"]
    with open("/dev/full", "wb") as full:
        result = redirected("bundle", "show", bundle.path, stdout=full, unbuffered=unbuffered)
        inspected = redirected(*inspect, stderr=full, unbuffered=unbuffered)
    assert result.returncode == 9, result.stderr
    assert re.fullmatch(r"heatline: standard output cannot be written \(.*\); .* redirect it\n", result.stderr)
    assert (inspected.returncode, len(inspected.stdout.splitlines())) == (9, 2)


def test_a_closed_pipe_ends_a_report_silently(bundle: Bundle) -> None:
    for options in (["--json"], []):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            result = redirected("bundle", "show", bundle.path, *options, stdout=gone)
        assert (result.returncode, result.stderr) == (0, "")


def test_a_closed_standard_output_is_no_fault(bundle: Bundle) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", HEATLINE, "bundle", "show", bundle.path], stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_fails_leaves_no_temporary_folder(tmp_path: Path) -> None:
    """Libraries make temporary folders when they are imported, and remove them at the end."""
    fails = (
        "import sys, tempfile; from heatline.edge.cli.main import main; made = tempfile.TemporaryDirectory(); main()"
    )
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", fails, "check", "none.toml"], env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    )
    assert (done.returncode, list((tmp_path / "tmp").iterdir())) == (3, [])


def test_no_use_is_recorded_or_sent(bundle: Bundle, tmp_path: Path) -> None:
    """Without heatline's settings, OpenVINO writes an id and statistics to the home folder and sends them."""
    home = tmp_path / "home"
    home.mkdir()
    assert heatline_process("bundle", "verify", bundle.path, env={"HOME": str(home)}).returncode == 0
    assert list(home.rglob("*")) == []
