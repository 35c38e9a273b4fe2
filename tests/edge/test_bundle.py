"""Bundles are written whole, and what is damaged, hostile or of another version is refused in one sentence."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle, open_bundle, write_bundle
from heatline.edge.bundle.manifest import SCHEMA, Manifest, decode_manifest
from heatline.edge.bundle.store import GOLDEN, MANIFEST, REQUIRED
from heatline.edge.errors import BundleError
from heatline.edge.reference.reference import Reference
from tests.command import complaint, heatline, refused
from tests.edge.lines import small_frames, write_line, write_pictures
from tests.golden import assert_golden
from tests.small_bundle import comparing_bundle, copy_of, edit_manifest, golden_tiles, manifest, parts_of, put, refusal

Change = Callable[[dict[str, Any]], Any]
RIGHT = golden_tiles()


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    rng = np.random.default_rng(1)
    return {
        "": Reference(rng.integers(0, 256, (90, 120, 3), np.uint8), 12, "12 good frames of board a"),
        "left": Reference(rng.integers(0, 256, (70, 80, 3), np.uint8)),
    }


@pytest.fixture(scope="module")
def comparing(references: dict[str, Reference], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return comparing_bundle(tmp_path_factory.mktemp("comparing") / "b", references)


def test_an_opened_bundle_equals_the_written_one(bundle: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "b", manifest(), parts_of(bundle))
    (tmp_path / "current").symlink_to("deep/b")
    assert open_bundle(written.path) == written
    opened = open_bundle(tmp_path / "current")
    text = (opened.path / MANIFEST).read_bytes()
    assert opened.digest == hashlib.sha256(text).hexdigest() == bundle.digest, "the same content has the same digest"
    assert msgspec.structs.replace(opened.manifest, files={}) == manifest()
    for name, data in parts_of(bundle).items():
        assert (opened.path / name).read_bytes() == data
        assert opened.manifest.files[name] == hashlib.sha256(data).hexdigest()
    assert os.stat(opened.path).st_mode & 0o777 == 0o755, "everybody may read it"
    assert text.count(b"\n") > 30, "people can read it too"


def test_show_and_diff_print_the_manifest_and_the_references(
    comparing: Bundle, references: dict[str, Reference], bundle: Bundle, tmp_path: Path
) -> None:
    found = open_bundle(comparing.path).references()
    assert found.keys() == references.keys()
    for camera, reference in references.items():
        np.testing.assert_array_equal(found[camera].rgb, reference.rgb)
        assert (found[camera].frames, found[camera].made_of) == (reference.frames, reference.made_of)
    report = msgspec.json.decode(heatline("bundle", "show", bundle.path, "--json").stdout)
    assert report["digest"] == bundle.digest
    assert msgspec.convert(report["manifest"], Manifest) == bundle.manifest
    without = comparing_bundle(tmp_path / "b", {})
    texts = [heatline("bundle", "show", each.path, env={"COLUMNS": "400"}).stdout for each in (comparing, without)]
    assert_golden("bundle_show", "\n".join(texts))
    assert "references..frames" in heatline("bundle", "diff", comparing.path, without.path).stdout


def test_a_file_that_is_missing_or_cut_off_by_a_byte_is_named(comparing: Bundle, tmp_path: Path) -> None:
    folder = copy_of(comparing, tmp_path / "b")
    for name in (*REQUIRED, MANIFEST, "product.png"):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        sentence = refusal(folder)
        assert name in sentence
        assert "cannot be read (No such file or directory)" in sentence
        (folder / name).write_bytes(whole[:-2])
        assert ("not a bundle manifest" if name == MANIFEST else "changed or damaged") in refusal(folder)
        (folder / name).write_bytes(whole)
    (tmp_path / "odd" / MANIFEST).mkdir(parents=True)
    for place in ("nowhere", "b/golden.npz", "odd"):
        assert "is not a bundle" in refusal(tmp_path / place)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **({"tiles": RIGHT.tiles, "logit": RIGHT.logit, "map": RIGHT.map} | arrays))
    return buffer.getvalue()


def test_golden_tiles_are_read_and_refused_with_wrong_claims(folder: Path, comparing: Bundle, tmp_path: Path) -> None:
    rounding = np.array([0, 0.5, 0, 1.5], np.float32)
    came = open_bundle(put(folder, {GOLDEN: npz(map_rounding=rounding)})).golden()
    np.testing.assert_array_equal(came.tiles, RIGHT.tiles)
    np.testing.assert_array_equal(came.map_rounding, rounding)
    assert came.rounding == pytest.approx(1.5 / np.abs(RIGHT.map).max())
    array = io.BytesIO()
    np.save(array, RIGHT.tiles)
    for data, message in (
        (b"", "holds no golden tiles"),
        (array.getvalue(), "holds no golden tiles"),  # an array, not an archive
        (npz(map=np.array([{}])), "holds no golden tiles"),  # a pickle
        (RIGHT.to_bytes()[:-100], "holds no golden tiles"),
        (npz(tiles=RIGHT.tiles[:, :7]), "has tiles of shape"),
        (npz(map=RIGHT.map[:, :7, :7]), "has map of shape"),
    ):
        sentence = refusal(put(folder, {GOLDEN: data}))
        assert message in sentence
        assert GOLDEN in sentence
    compares = copy_of(comparing, tmp_path / "compares")
    few_channels = dataclasses.replace(RIGHT, difference=np.zeros((4, 28, 28, 4), np.uint8))
    for golden in (RIGHT, few_channels):  # without what they are compared with
        assert GOLDEN in refusal(put(compares, {GOLDEN: golden.to_bytes()}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a bundle manifest"),
        (f'{{"schema": {SCHEMA}, "name": "\xff"}}'.encode("latin-1"), "not a bundle manifest"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `schema`"),
        (f'{{"schema": {SCHEMA + 1}, "new": 1}}'.encode(), f"reads {SCHEMA}; install a newer heatline"),
        (f'{{"schema": {SCHEMA - 1}}}'.encode(), f"reads {SCHEMA}; export the bundle again"),
        (f'{{"schema": {SCHEMA}, "provenance": {"[" * 100_000}'.encode(), "not a bundle manifest"),
    ],
    ids=["no JSON", "not UTF-8", "no object", "empty", "newer", "older", "too deep"],
)
def test_an_invalid_manifest_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        decode_manifest(content, "here")


IN_TABLE: dict[str, list[Any]] = {
    "map.hw": [[0, 0], [10**9, 1]],
    "map.identity": ["max(map) == logit"],
    "grid.tile_px": [0, 10**9, 224.5],
    "grid.overlap_px": [-1, 10**9],
    "grid.stride": [3],  # unknown
    "tolerances.f32": [0, 2],  # 2 would allow any answer
    "calibration.score_threshold": [None, 1e300, "1"],  # null is JSON's NaN
    "calibration.evidence_threshold": [-1e300],
    "calibration.false_reject_per_frame": [1, -0.1],
    "calibration.missed": [[{"kind": "\x1b[2J", "missed": 1, "frames": 1}]],
    **{f"files.{name}": ["0" * 64] for name in ("../m", "/etc/passwd", "~", "a\n", "a\0b", "x" * 101)},
    "files.a": ["0" * 63, "0" * 64 + "\n"],
}
AT_TOP: list[tuple[Change, str]] = [
    (lambda m: m.update(new_key=1), "unknown field `new_key`"),
    (lambda m: m.update(colour="rgb16-9"), "at `$.colour`"),
    (lambda m: m["files"].pop(GOLDEN), f"lists no {GOLDEN}"),
    *((lambda m, text=text: m.update(name=text), "at `$.name`") for text in ("\x1b[2Jboards", "a\nERROR", "\x9b2J")),
    (lambda m: m.update(version="\x1b[2J"), "at `$.version`"),  # what would write to a terminal
]


def test_a_value_out_of_range_or_that_contradicts_is_refused_with_its_key(folder: Path) -> None:
    right = (folder / MANIFEST).read_text()
    changes = [
        (lambda m, table=table, key=key, value=value: m[table].update({key: value}), f"at `$.{table}")
        for table, _, key, values in ((*place.partition("."), values) for place, values in IN_TABLE.items())
        for value in values
    ]
    for change, message in [*changes, *AT_TOP]:
        sentence = refusal(edit_manifest(folder, change))
        assert message.replace("at `$.files", "`$.files") in sentence, sentence
        assert sentence.isprintable()
        (folder / MANIFEST).write_text(right)
    for number in ("NaN", "-Infinity", "1e999", "9" * 30):  # a threshold that no logit could ever reach
        text = right.replace('"score_threshold": -1.0', f'"score_threshold": {number}')
        assert text != right
        (folder / MANIFEST).write_text(text)
        refusal(folder)


def test_a_manifest_whose_references_cannot_be_used_is_refused(comparing: Bundle, tmp_path: Path) -> None:
    folder = copy_of(comparing, tmp_path / "b")
    right, picture = (folder / MANIFEST).read_text(), (folder / "product.png").read_bytes()
    changes: list[tuple[Change, str]] = [
        (lambda m: m["references"][""].update(frame_hw=[91, 120]), "120x90 px, the manifest says 120x91"),
        (lambda m: m["references"][""].update(frame_hw=[0, 120]), "at `$.references"),
        (lambda m: m["references"][""].update(file="../product.png"), "at `$.references"),
        (lambda m: m["references"].update({"a camera": m["references"][""]}), "at `key` in `$.references"),
        (lambda m: m["tensors"]["difference"].update(shape=[None, 28, 28, 4]), "has difference of shape"),
        (lambda m: m["grid"].update(tile_px=220), "has tiles of shape"),
    ]
    for change, message in changes:
        assert message in refusal(edit_manifest(folder, change))
        (folder / MANIFEST).write_text(right)
    for data in (b"", b"\x89PNG but not a picture", picture[:-20]):
        assert "product.png holds no reference" in refusal(put(folder, {"product.png": data}))


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(bundle: Bundle, folder: Path) -> None:
    edit_manifest(folder, lambda m: m.update(provenance={"\x1b[1A": "\x1b]0;title\x07"}))
    assert "\x1b" not in heatline("bundle", "show", folder).stdout
    text = heatline("bundle", "diff", bundle.path, folder).stdout
    assert "\x1b" not in text
    assert r"\x1b[1A" in text
    edit_manifest(folder, lambda m: m.update({"\x1b[2J": 1}))
    assert r"\x1b[2J" in complaint(heatline("bundle", "show", folder))


def test_every_command_refuses_a_damaged_bundle_in_one_sentence(folder: Path, tmp_path: Path, address: str) -> None:
    assert heatline("bundle", "keygen", tmp_path / "k").returncode == 0
    (folder / "model_f32.bin").write_bytes(b"")
    frames = write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, folder, address, {"top": 'path = "frames"'})
    for command in (
        ["bundle", "verify", folder, "--json"],
        ["bundle", "sign", folder, "--key", tmp_path / "k"],
        ["bundle", "diff", folder, folder],
        ["inspect", folder, frames, "--out", tmp_path / "out", "--json"],
        ["check", line, "--json"],
        ["run", line],
    ):
        assert "it was changed or damaged" in refused(4, *command), command
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_never_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    copy_of(bundle, tmp_path / "bundle")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    other, never = msgspec.structs.replace(manifest(), name="other"), "never overwritten"
    for taken, message in (("bundle", never), ("file", never), ("folder", never), ("file/b", "cannot be written")):
        with pytest.raises(BundleError, match=message):
            write_bundle(tmp_path / taken, other, parts_of(bundle))
    assert open_bundle(tmp_path / "bundle").digest == bundle.digest
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "file", "folder"}


def test_a_bundle_that_could_not_be_opened_is_never_written(bundle: Bundle, tmp_path: Path) -> None:
    right, files = manifest(), parts_of(bundle)
    nan = msgspec.structs.replace(right.calibration, score_threshold=float("nan"))  # JSON has no NaN
    for described, parts in (
        (right, {name: data for name, data in files.items() if name != GOLDEN}),
        (right, {**files, GOLDEN: b"none"}),
        (right, {**files, MANIFEST: b"{}"}),
        (msgspec.structs.replace(right, calibration=nan), files),
    ):
        with pytest.raises(BundleError):
            write_bundle(tmp_path / "b", described, parts)
    assert list(tmp_path.iterdir()) == []


WRITE = """
import os, resource, sys
from pathlib import Path
from heatline.edge.bundle import open_bundle, write_bundle
from heatline.edge.errors import BundleError
source, target, limit, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
bundle = open_bundle(source)
files = {name: (source / name).read_bytes() for name in bundle.manifest.files}
synced = 0
def power_cut(descriptor):
    global synced
    synced += 1
    if synced == number:
        os.kill(os.getpid(), 9)
if limit == "room":
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))  # no file may grow beyond it, as on a full disk
else:
    os.fsync = power_cut
try:
    write_bundle(target, bundle.manifest, files)
except BundleError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "number"),
    [("room", 1000), ("synced", 3)]
    + [pytest.param(*case, marks=pytest.mark.long) for case in [("room", 0), ("room", 100_000), ("synced", 5)]],
)
def test_a_writer_that_is_killed_or_has_no_room_leaves_no_bundle(
    bundle: Bundle, tmp_path: Path, limit: str, number: int
) -> None:
    command: list[str | Path] = [sys.executable, "-c", WRITE, bundle.path, tmp_path / "b", limit, str(number)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if limit == "room":
        assert "cannot be written (File too large)" in result.stdout, result.stderr
        assert list(tmp_path.iterdir()) == []
    else:
        assert result.returncode == -9
        assert not (tmp_path / "b").exists()
    assert write_bundle(tmp_path / "b", manifest(), parts_of(bundle)).digest == bundle.digest, "the place is free"
