"""Bundles are written atomically, and every fault is refused in one sentence."""

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle, check_golden, open_bundle, open_verified_engine, write_bundle
from heatline.edge.bundle.manifest import SCHEMA, Manifest, decode_manifest
from heatline.edge.bundle.store import GOLDEN, MANIFEST, REQUIRED
from heatline.edge.calibration.recalibration import recalibrated_manifest, write_recalibrated
from heatline.edge.errors import BundleError
from heatline.edge.inference import EngineKind
from heatline.edge.reference.reference import Reference
from tests.command import heatline
from tests.small_bundle import comparing_bundle, copy_of, edit_manifest, golden_tiles, manifest, put, refusal

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, which the test damages."""
    return copy_of(bundle, tmp_path / "b")


def parts_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}


def test_an_opened_bundle_equals_the_written_one(bundle: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "b", manifest(), parts_of(bundle))
    opened = open_bundle(tmp_path / "deep" / "b")
    assert opened == written
    assert opened.path == tmp_path / "deep" / "b"
    text = (opened.path / MANIFEST).read_bytes()
    assert opened.digest == hashlib.sha256(text).hexdigest() == bundle.digest, "the same content has the same digest"
    assert msgspec.structs.replace(opened.manifest, files={}) == manifest()
    for name, data in parts_of(bundle).items():
        assert (opened.path / name).read_bytes() == data
        assert opened.manifest.files[name] == hashlib.sha256(data).hexdigest()
    assert os.stat(opened.path).st_mode & 0o777 == 0o755, "everybody may read it"
    assert text.count(b"\n") > 30, "people can read it too"
    assert msgspec.json.decode(text, type=Manifest) == opened.manifest


def test_a_bundle_can_be_opened_through_a_symbolic_link(folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    assert open_bundle(folder.parent / "current").digest == open_bundle(folder).digest


# Damage.


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_a_file_that_is_missing_or_cut_off_by_a_byte_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert "cannot be read (No such file or directory)" in sentence
    (folder / name).write_bytes(whole[:-2])
    assert ("not a bundle manifest" if name == MANIFEST else "changed or damaged") in refusal(folder)


@given(data=st.data())
def test_a_changed_byte_in_any_file_is_noticed(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*REQUIRED, MANIFEST]))
    content = bytearray((bundle.path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = copy_of(bundle, tmp_path_factory.mktemp("changed") / "b")
    (folder / name).write_bytes(content)
    if name != MANIFEST:
        assert name in refusal(folder)
        return
    # A manifest has no checksum of its own: a change is refused, or gives another digest.
    try:
        assert open_bundle(folder).digest != bundle.digest
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either way is right)


def test_a_path_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / MANIFEST).mkdir(parents=True)
    for place in ("nowhere", "file", "odd"):
        assert "is not a bundle" in refusal(tmp_path / place)


# Invalid manifests.


def test_an_invalid_manifest_is_refused() -> None:
    for content, message in (
        (b"hello", "not a bundle manifest"),
        (b'{"schema": 13, "name": "\xff"}', "not a bundle manifest"),  # not UTF-8
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `schema`"),
        (b'{"schema": 1}', "has bundle schema 1"),
        (
            b'{"schema": 13, "provenance": ' + b"[" * 100_000,
            "not a bundle manifest",
        ),  # deeper than the reader's limit
    ):
        with pytest.raises(BundleError, match=message):
            decode_manifest(content, "here")


@given(st.binary(max_size=200))
def test_random_bytes_as_a_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_manifest(data, "here")


OUT_OF_RANGE: dict[str, list[Any]] = {
    "map.hw": [[0, 0], [-1, 14], [10**9, 1], [14]],
    "grid.tile_px": [0, 10**9, 224.5],
    "grid.overlap_px": [-1, 10**9],
    "grid.heatmap_cell_px": [0, 10**9],
    "grid.smoothing_px": [-1, 1e9],
    "tolerances.f32": [0, 2],  # 2 would allow any answer
    "calibration.score_threshold": [None, 1e300, "1"],  # null is JSON's NaN
    "calibration.evidence_threshold": [-1e300],
    "calibration.false_reject_per_frame": [1, -0.1],
    "calibration.frames": [0],
}


def test_a_value_out_of_range_is_refused_with_its_key(folder: Path) -> None:
    right = (folder / MANIFEST).read_text()
    for place, values in OUT_OF_RANGE.items():
        table, key = place.split(".")
        for value in values:
            sentence = refusal(edit_manifest(folder, lambda m: m[table].update({key: value})))  # noqa: B023
            assert f"at `$.{table}" in sentence, f"{place} = {value}: {sentence}"
            (folder / MANIFEST).write_text(right)
    for number in ("NaN", "-Infinity", "1e999", "9" * 30):  # a threshold that no logit could ever reach
        text = right.replace('"score_threshold": -1.0', f'"score_threshold": {number}')
        assert text != right
        (folder / MANIFEST).write_text(text)
        refusal(folder)


def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(folder: Path) -> None:
    right = (folder / MANIFEST).read_text()
    names = ["../model.onnx", "/etc/passwd", "..", "~", "a/b", "a\n", "a\0b", "x" * 101]
    for files in [*({name: "0" * 64} for name in names), {"a": "0" * 63}, {"a": "0" * 64 + "\n"}]:
        assert "`$.files" in refusal(edit_manifest(folder, lambda m: m["files"].update(files)))  # noqa: B023
        (folder / MANIFEST).write_text(right)


def test_a_text_that_would_write_to_a_terminal_is_refused(folder: Path) -> None:
    right = (folder / MANIFEST).read_text()
    for text in ("\x1b[2Jboards", "boards\nERROR all is lost", "\x9b2J"):
        missed = {"missed": [{"kind": text, "missed": 1, "frames": 1}]}
        for change in (
            lambda m: m.update(name=text),  # noqa: B023
            lambda m: m.update(version=text),  # noqa: B023
            lambda m: m["calibration"].update(missed),  # noqa: B023
        ):
            sentence = refusal(edit_manifest(folder, change))
            assert "at `$." in sentence
            assert sentence.isprintable()
            (folder / MANIFEST).write_text(right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=SCHEMA + 1, new_key=1), "install a newer heatline"),  # from the future
        (lambda m: m.update(schema=SCHEMA - 1), f"reads {SCHEMA}; export the bundle again"),
        (lambda m: m.update(new_key=1), "unknown field `new_key`"),
        (lambda m: m["grid"].update(stride=3), "unknown field `stride` - at `$.grid`"),
        (lambda m: m.update(colour="rgb16-9"), "at `$.colour`"),
        (lambda m: m["map"].update(identity="top-mean(map, 0) == logit"), "at `$.map.identity`"),
        (lambda m: m["map"].update(identity="max(map) == logit"), "at `$.map.identity`"),
        (lambda m: m["files"].pop(GOLDEN), f"lists no {GOLDEN}"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, change: Change, message: str) -> None:
    assert message in refusal(edit_manifest(folder, change))


# References.


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


def test_a_bundle_returns_its_references(comparing: Bundle, references: dict[str, Reference]) -> None:
    opened = open_bundle(comparing.path)
    assert opened.manifest.schema == SCHEMA
    assert {"product.png", "product.left.png"} <= set(opened.manifest.files)
    found = opened.references()
    assert list(found) == list(references)
    for camera, reference in references.items():
        np.testing.assert_array_equal(found[camera].rgb, reference.rgb)
        assert (found[camera].frames, found[camera].made_of) == (reference.frames, reference.made_of)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["references"][""].update(frame_hw=[91, 120]), "120x90 px, the manifest says 120x91"),
        (lambda m: m["references"][""].update(frame_hw=[0, 120]), "at `$.references"),
        (lambda m: m["references"][""].update(file="../product.png"), "at `$.references"),
        (lambda m: m["references"].update({"a camera": m["references"][""]}), "at `key` in `$.references"),
        (lambda m: m["tensors"]["difference"].update(shape=[None, 28, 28, 4]), "has difference of shape"),
        (lambda m: m["grid"].update(tile_px=220), "has tiles of shape"),
    ],
)
def test_a_manifest_whose_references_cannot_be_used_is_refused(
    comparing: Bundle, tmp_path: Path, change: Change, message: str
) -> None:
    assert message in refusal(edit_manifest(copy_of(comparing, tmp_path / "b"), change))


@pytest.mark.parametrize("data", [b"", b"\x89PNG but not a picture", b"cut off"])
def test_a_damaged_reference_is_refused(comparing: Bundle, tmp_path: Path, data: bytes) -> None:
    folder = copy_of(comparing, tmp_path / "b")
    if data == b"cut off":
        data = (folder / "product.png").read_bytes()[:-20]
    assert "product.png holds no reference" in refusal(put(folder, {"product.png": data}))
    (folder / "product.png").unlink()
    assert "product.png is listed in the manifest and cannot be read" in refusal(folder)


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_the_golden_tiles_of_a_bundle_are_compared_with_their_references(comparing: Bundle, kind: EngineKind) -> None:
    with contextlib.closing(open_verified_engine(comparing, kind).engine) as engine:
        golden = comparing.golden()
        assert golden.difference is not None
        other = dataclasses.replace(golden, difference=golden.difference[::-1])
        with pytest.raises(BundleError, match="must not be used here"):
            check_golden(other, engine, comparing.manifest)
        with pytest.raises(BundleError, match="has an input difference, and the manifest says the opposite"):
            check_golden(dataclasses.replace(golden, difference=None), engine, comparing.manifest)


def test_golden_tiles_without_their_differences_are_refused(comparing: Bundle, tmp_path: Path) -> None:
    for number, golden in enumerate(
        (golden_tiles(), dataclasses.replace(golden_tiles(), difference=np.zeros((4, 28, 28, 4), np.uint8)))
    ):
        folder = put(copy_of(comparing, tmp_path / str(number)), {GOLDEN: golden.to_bytes()})
        assert GOLDEN in refusal(folder)


def test_a_new_calibration_keeps_the_references(comparing: Bundle, tmp_path: Path) -> None:
    with contextlib.closing(open_verified_engine(comparing).engine) as engine:
        new = recalibrated_manifest(comparing, comparing.manifest.calibration, "1+cal1", engine, {})
    written = write_recalibrated(tmp_path / "b", comparing, new, {})
    assert (written.manifest.schema, written.manifest.references) == (SCHEMA, comparing.manifest.references)
    assert written.references().keys() == comparing.references().keys()


def test_show_and_diff_name_the_references(comparing: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    shown = heatline("bundle", "show", comparing.path).stdout
    assert "12 good frames of board a, 120 x 90 px, product.png" in shown
    assert "frames of camera left are compared with" in shown
    assert "compared with" not in heatline("bundle", "show", bundle.path).stdout
    without = comparing_bundle(tmp_path / "b", {})
    assert "heatline bundle set-reference" in heatline("bundle", "show", without.path).stdout
    assert "references..frames" in heatline("bundle", "diff", comparing.path, without.path).stdout


# Writing.


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_an_existing_folder_is_never_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    copy_of(bundle, tmp_path / "bundle")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    for taken in ("bundle", "file", "folder"):
        with pytest.raises(BundleError, match="never overwritten"):
            write_bundle(tmp_path / taken, msgspec.structs.replace(manifest(), name="other"), parts_of(bundle))
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", manifest(), parts_of(bundle))
    assert contents(tmp_path) == before


def test_a_bundle_that_could_not_be_opened_is_never_written(bundle: Bundle, tmp_path: Path) -> None:
    right, files = manifest(), parts_of(bundle)
    nan = msgspec.structs.replace(right.calibration, score_threshold=float("nan"))  # JSON has no NaN
    without = {name: data for name, data in files.items() if name != GOLDEN}
    for described, parts in (
        (right, without),
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
