"""Bundles: written whole or not at all; whatever is wrong with one is said in one sentence, and it is not used."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.bundle import SCHEMA, Bundle, GoldenTiles, Manifest, check_golden, open_bundle, write_bundle
from edge.bundle.manifest import decode_manifest
from edge.bundle.store import GOLDEN, MANIFEST, REQUIRED
from edge.errors import BundleError, EngineError, HeatlineError
from edge.inference import EngineKind, open_engine
from edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS
from export.openvino_ir import to_openvino
from tests.small_bundle import CELLS, TILE, answer, golden_tiles, graph, manifest

ENGINES: tuple[EngineKind, ...] = ("openvino", "onnxruntime")


def parts_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}


def copy_of(bundle: Bundle, folder: Path) -> Path:
    folder.mkdir()
    for path in bundle.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def with_manifest(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy whose manifest was changed by hand."""
    path = copy_of(bundle, folder) / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def with_files(bundle: Bundle, folder: Path, files: dict[str, bytes]) -> Path:
    """A copy with other files whose sha256 the manifest gives: wrong, but not damaged."""
    copy_of(bundle, folder)
    content = json.loads((folder / MANIFEST).read_text())
    for name, data in files.items():
        (folder / name).write_bytes(data)
        content["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# What is right.


def test_what_was_written_is_what_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "b", manifest(), parts_of(bundle))
    opened = open_bundle(tmp_path / "deep" / "b")
    assert opened == written
    assert opened.path == tmp_path / "deep" / "b"
    assert opened.digest == hashlib.sha256((opened.path / MANIFEST).read_bytes()).hexdigest()
    assert msgspec.structs.replace(opened.manifest, files={}) == manifest()
    for name, data in parts_of(bundle).items():
        assert (opened.path / name).read_bytes() == data
        assert opened.manifest.files[name] == hashlib.sha256(data).hexdigest()


def test_the_same_content_has_the_same_digest(bundle: Bundle, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "b", manifest(), parts_of(bundle)).digest == bundle.digest


def test_golden_tiles_come_back_as_they_were(bundle: Bundle) -> None:
    came, known = bundle.golden(), golden_tiles()
    for field in dataclasses.fields(GoldenTiles):
        np.testing.assert_array_equal(getattr(came, field.name), getattr(known, field.name))


@pytest.mark.parametrize("kind", ENGINES)
def test_right_golden_tiles_pass(bundle: Bundle, kind: EngineKind) -> None:
    off = check_golden(bundle.golden(), open_engine(kind, bundle.path, TILE), bundle.manifest)
    assert set(off) == {"logit", "map"}
    assert all(0 <= share <= 1e-4 for share in off.values())


# What is damaged.


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_a_missing_file_is_named(bundle: Bundle, tmp_path: Path, name: str) -> None:
    folder = copy_of(bundle, tmp_path / "b")
    (folder / name).unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert "cannot be read (No such file or directory)" in sentence


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_cut_off_by_a_byte_is_named(bundle: Bundle, tmp_path: Path, name: str) -> None:
    folder = copy_of(bundle, tmp_path / "b")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    sentence = refusal(folder)
    assert name in sentence
    assert "changed or damaged" in sentence


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_changed_byte_anywhere_is_noticed(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*REQUIRED, MANIFEST]))
    content = bytearray((bundle.path / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    folder = copy_of(bundle, tmp_path_factory.mktemp("changed") / "b")
    (folder / name).write_bytes(content)
    if name != MANIFEST:
        assert name in refusal(folder)
        return
    # A manifest has no checksum of its own: what it says now is refused, or it is another bundle by its digest.
    try:
        assert open_bundle(folder).digest != bundle.digest
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either way is right)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no bundle manifest"),  # empty
        (b"hello", "no bundle manifest"),  # not JSON
        (b"\xff\xfe{}", "no bundle manifest"),  # not UTF-8
        (b'{"schema": 1, "name": "\xff"}', "no bundle manifest"),  # not UTF-8 where it hurts
        (b"[]", "Expected `object`"),  # not an object
        (b"{}", "missing required field `schema`"),  # an object of something else
        (b'{"schema": 1}', "missing required field `name`"),
        (b'{"schema": "1"}', "Expected `int`"),
        (b'{"schema": 1, "provenance": ' + b"[" * 100_000, "no bundle manifest"),  # deeper than any reader goes
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, tmp_path: Path, content: bytes, words: str) -> None:
    folder = copy_of(bundle, tmp_path / "b")
    (folder / MANIFEST).write_bytes(content)
    assert words in refusal(folder)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_a_manifest_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_manifest(data, "here")


def test_a_folder_that_is_none_is_no_bundle(tmp_path: Path) -> None:
    assert "is no bundle" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is no bundle" in refusal(tmp_path / "file")
    (tmp_path / "odd" / MANIFEST).mkdir(parents=True)
    assert "is no bundle" in refusal(tmp_path / "odd")


# What a manifest may not say.

MANIFEST_CASES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m.update(schema=SCHEMA + 1), "install a newer heatline"),  # from the future
    (lambda m: m.update(schema=SCHEMA + 1, new_key=1), "install a newer heatline"),  # and it says something new
    (lambda m: m.update(new_key=1), "unknown field `new_key`"),
    (lambda m: m["grid"].update(stride=3), "unknown field `stride` - at `$.grid`"),  # further down
    (lambda m: m.update(colour="rgb16-9"), "was made for colour 'rgb16-9'"),
    (lambda m: m["tensors"]["tiles"].update(shape=[None, 3, TILE, TILE]), "declares tiles"),  # NCHW
    (lambda m: m["tensors"]["tiles"].update(shape=[1, TILE, TILE, 3]), "declares tiles"),  # a fixed batch
    (lambda m: m["tensors"]["tiles"].update(dtype="float32"), "declares tiles"),
    (lambda m: m["tensors"]["logit"].update(shape=[None, 2]), "declares logit"),  # two classes
    (lambda m: m["tensors"]["logit"].update(name="output"), "declares logit"),
    (lambda m: m["tensors"]["map"].update(shape=[None, 7, 7]), "declares map"),
    (lambda m: m["map"].update(hw=[7, 7]), "declares map"),  # map and tensor disagree
    (lambda m: m["map"].update(hw=[0, 0]), "Expected `int` >= 1"),
    (lambda m: m["files"].pop(GOLDEN), f"lists no {GOLDEN}"),
    (lambda m: m["files"].pop(ONNX_GRAPH), f"lists no {ONNX_GRAPH}"),
    (lambda m: m["files"].update({"../x": "0" * 64}), "matching regex"),  # out of the folder
    (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "matching regex"),
    (lambda m: m["files"].update({"..": "0" * 64}), "matching regex"),
    (lambda m: m["files"].update({"a\n": "0" * 64}), "matching regex"),
    (lambda m: m["files"].update({"a/b": "0" * 64}), "matching regex"),
    (lambda m: m["files"].update({"a": "0" * 63}), "matching regex"),  # no sha256
    (lambda m: m["files"].update({"a": "0" * 64 + "\n"}), "matching regex"),
    (lambda m: m["grid"].update(overlap_px=TILE), "expected less than a tile"),  # no step between tiles
    (lambda m: m["grid"].update(overlap_px=-1), "Expected `int` >= 0"),
    (lambda m: m["grid"].update(heatmap_cell_px=0), "Expected `int` >= 1"),
    (lambda m: m["grid"].update(heatmap_cell_px=TILE + 1), "expected at most a tile"),  # tiles without a cell
    (lambda m: m["grid"].update(tile_px=0), "Expected `int` >= 16"),
    (lambda m: m["tolerances"].pop("f32"), "no tolerance for f32"),
    (lambda m: m["tolerances"].update(f32=0), "Expected `float` > 0"),
    (lambda m: m["tolerances"].update(f32=2), "Expected `float` <= 0.5"),  # allows anything
    (lambda m: m["calibration"].update(score_threshold=None), "Expected `float`, got `null`"),  # JSON's NaN
    (lambda m: m["calibration"].update(score_threshold=1e300), "Expected `float` <= 1000000000.0"),
    (lambda m: m["calibration"].update(evidence_threshold=-1e300), "Expected `float` >= -1000000000.0"),
    (lambda m: m["calibration"].update(false_reject_per_frame=1), "Expected `float` < 1"),
    (lambda m: m["calibration"].update(frames=0), "Expected `int` >= 1"),
]


@pytest.mark.parametrize(("change", "words"), MANIFEST_CASES)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    bundle: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    assert words in refusal(with_manifest(bundle, tmp_path / "b", change))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_threshold_that_no_logit_could_ever_reach_is_refused(bundle: Bundle, tmp_path: Path, number: str) -> None:
    folder = copy_of(bundle, tmp_path / "b")
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"score_threshold": -1.0', f'"score_threshold": {number}'))
    assert (folder / MANIFEST).read_text() != text
    assert "no bundle manifest" in refusal(folder)


# What golden tiles must be.


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


RIGHT = golden_tiles()


def rounding(map_rounding: np.ndarray[Any, Any]) -> bytes:
    return npz(tiles=RIGHT.tiles, logit=RIGHT.logit, map=RIGHT.map, map_rounding=map_rounding)


def test_what_rounding_may_move_maps_by_comes_back_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    known = np.array([0, 0.5, 0, 1.5], np.float32)
    came = open_bundle(with_files(bundle, tmp_path / "b", {GOLDEN: rounding(known)})).golden()
    assert came.map_rounding is not None
    np.testing.assert_array_equal(came.map_rounding, known)
    assert came.rounding == pytest.approx(1.5 / np.abs(RIGHT.map).max())
    assert bundle.golden().map_rounding is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no golden tiles"),  # empty
        (b"golden", "holds no golden tiles"),  # no archive
        (npy(RIGHT.tiles), "holds no golden tiles"),  # one array, no archive
        (npz(tiles=RIGHT.tiles, logit=RIGHT.logit), "holds no golden tiles"),  # an array is missing
        (npz(tiles=RIGHT.tiles, logit=RIGHT.logit, map=np.array([{}])), "holds no golden tiles"),  # a pickle
        (npz(tiles=RIGHT.tiles[:0], logit=RIGHT.logit[:0], map=RIGHT.map[:0]), "has tiles of shape"),  # none at all
        (npz(tiles=RIGHT.tiles[:, :7], logit=RIGHT.logit, map=RIGHT.map), "has tiles of shape"),  # cut tiles
        (npz(tiles=RIGHT.tiles.astype(np.float32), logit=RIGHT.logit, map=RIGHT.map), "type float32"),
        (npz(tiles=RIGHT.tiles, logit=RIGHT.logit[:3], map=RIGHT.map), "has logit of shape"),  # one answer too few
        (npz(tiles=RIGHT.tiles, logit=RIGHT.logit.astype(np.float64), map=RIGHT.map), "type float64"),
        (npz(tiles=RIGHT.tiles, logit=RIGHT.logit, map=RIGHT.map[:, :7, :7]), "has map of shape"),  # coarser maps
        (npz(tiles=np.array(1), logit=RIGHT.logit, map=RIGHT.map), "tiles"),  # no list of tiles
        (rounding(np.zeros(3, np.float32)), "has map_rounding of shape (3,)"),  # one tile's is missing
        (rounding(np.zeros(4)), "type float64"),
        (rounding(np.full(4, 1e6, np.float32)), "1.0e+06 logits, expected 0 to 0.5 of"),  # any map would do
        (rounding(np.array([0, -1, 0, 0], np.float32)), "of -1.0e+00 to 0.0e+00 logits"),
        (rounding(np.array([0, 0, np.nan, 0], np.float32)), "map_rounding of nan to nan logits"),
    ],
)
def test_golden_tiles_that_do_not_fit_the_manifest_are_refused(
    bundle: Bundle, tmp_path: Path, data: bytes, words: str
) -> None:
    sentence = refusal(with_files(bundle, tmp_path / "b", {GOLDEN: data}))
    assert words in sentence
    assert GOLDEN in sentence


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 10**9), value=st.integers(1, 255), length=st.integers(1, 40))
def test_golden_tiles_damaged_before_the_manifest_was_made_are_refused_or_whole(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, length: int
) -> None:
    few = GoldenTiles(RIGHT.tiles[:1], RIGHT.logit[:1], RIGHT.map[:1])
    data = bytearray(few.to_bytes())
    first = place % len(data)
    data[first : first + length] = bytes(byte ^ value for byte in data[first : first + length])
    path = tmp_path_factory.mktemp("golden") / GOLDEN
    path.write_bytes(data)
    try:
        came = GoldenTiles.load(path, manifest())
    except BundleError:
        return
    np.testing.assert_array_equal(came.tiles, few.tiles)
    np.testing.assert_array_equal(came.logit, few.logit)
    np.testing.assert_array_equal(came.map, few.map)


def wrong(change: Callable[[GoldenTiles], GoldenTiles]) -> GoldenTiles:
    return change(golden_tiles())


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: dataclasses.replace(g, logit=g.logit * np.float32(1.01)), "in logit"),
        (lambda g: dataclasses.replace(g, map=g.map + np.float32(0.5)), "in map"),
        (lambda g: dataclasses.replace(g, map=g.map[:, ::-1]), "in map"),  # upside down
        (lambda g: dataclasses.replace(g, map=g.map.swapaxes(1, 2)), "in map"),  # on its side
        (lambda g: dataclasses.replace(g, tiles=g.tiles[::-1]), "in logit"),  # answers of other tiles
        (lambda g: dataclasses.replace(g, tiles=g.tiles // 2), "in logit"),  # tiles of another exposure
        (lambda g: dataclasses.replace(g, logit=np.full_like(g.logit, np.nan)), "in logit"),
        (lambda g: dataclasses.replace(g, map=np.zeros_like(g.map)), "in map"),
    ],
)
def test_a_bundle_that_answers_otherwise_on_this_machine_is_refused(
    bundle: Bundle,
    request: pytest.FixtureRequest,
    kind: EngineKind,
    change: Callable[[GoldenTiles], GoldenTiles],
    words: str,
) -> None:
    with pytest.raises(BundleError, match="must not be used here") as caught:
        check_golden(wrong(change), request.getfixturevalue(kind), bundle.manifest)
    assert words in str(caught.value)
    assert kind in str(caught.value)


def test_a_difference_that_the_manifest_allows_passes(bundle: Bundle, request: pytest.FixtureRequest) -> None:
    generous = msgspec.structs.replace(bundle.manifest, tolerances={"f32": 0.05})
    golden = wrong(lambda g: dataclasses.replace(g, logit=g.logit * np.float32(1.01)))
    off = check_golden(golden, request.getfixturevalue("openvino"), generous)
    assert 0.005 < off["logit"] < 0.02


# Graphs that are not what the manifest says.


def graph_with(
    *, map_cells: int = CELLS, tile: int = TILE, map_name: str = "map", tiles_type: int = TensorProto.UINT8
) -> bytes:
    """A graph of the same kind but for one thing: size of map or tiles, an output's name, type of the input."""
    side = tile // map_cells
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["cells"], kernel_shape=[side, side], strides=[side, side]),
        helper.make_node("ReduceMean", ["cells", "channel"], [map_name], keepdims=0),
        helper.make_node("ReduceMean", [map_name, "axes"], ["logit"], keepdims=0),
    ]
    constants = {"axes": np.array([1, 2], np.int64), "channel": np.array([1], np.int64)}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "other",
            [helper.make_tensor_value_info("tiles", tiles_type, ["n", tile, tile, 3])],
            [
                helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"]),
                helper.make_tensor_value_info(map_name, TensorProto.FLOAT, ["n", map_cells, map_cells]),
            ],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    "onnx_graph",
    [
        graph_with(map_cells=7),  # coarser maps than the manifest says
        graph_with(map_cells=1),  # one that numpy would spread over all cells
        graph_with(tile=112, map_cells=14),  # smaller tiles
        graph_with(map_name="cam"),  # an output of another name
        graph_with(tiles_type=TensorProto.FLOAT),  # tiles of another type
    ],
    ids=["coarse-map", "one-cell", "small-tiles", "other-name", "float-tiles"],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused_in_one_sentence(
    bundle: Bundle, tmp_path: Path, kind: EngineKind, onnx_graph: bytes
) -> None:
    files = {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}
    opened = open_bundle(with_files(bundle, tmp_path / "b", files))
    with pytest.raises((BundleError, EngineError)):
        check_golden(opened.golden(), open_engine(kind, opened.path, TILE), opened.manifest)


@pytest.mark.parametrize(("kind", "name"), [("openvino", OPENVINO_GRAPH), ("onnxruntime", ONNX_GRAPH)])
@pytest.mark.parametrize("data", [b"", b"no graph", b"<?xml version='1.0'?><net/>"])
def test_a_graph_that_is_none_is_an_engine_error(
    bundle: Bundle, tmp_path: Path, kind: EngineKind, name: str, data: bytes
) -> None:
    folder = with_files(bundle, tmp_path / "b", {name: data})
    with pytest.raises(EngineError, match=name):
        open_engine(kind, open_bundle(folder).path, TILE)


def test_weights_that_are_too_short_are_an_engine_error(bundle: Bundle, tmp_path: Path) -> None:
    folder = with_files(bundle, tmp_path / "b", {OPENVINO_WEIGHTS: b"\x00\x00"})
    with pytest.raises(EngineError, match=OPENVINO_GRAPH):
        open_engine("openvino", open_bundle(folder).path, TILE)


# Writing.


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_bundle_is_never_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(), parts_of(bundle))
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    other = msgspec.structs.replace(manifest(), name="other")
    with pytest.raises(BundleError, match="never overwritten"):
        write_bundle(tmp_path / "b", other, parts_of(bundle))
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


@pytest.mark.parametrize("kind", ["file", "empty folder"])
def test_whatever_is_there_already_is_left_alone(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "b"
    target.write_text("mine") if kind == "file" else target.mkdir()
    with pytest.raises(BundleError, match="never overwritten"):
        write_bundle(target, manifest(), parts_of(bundle))
    assert leftovers(tmp_path) == ["b"]
    assert target.read_text() == "mine" if kind == "file" else not any(target.iterdir())


def test_a_place_that_cannot_be_is_an_error_of_one_sentence(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", manifest(), parts_of(bundle))
    assert leftovers(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files: files.pop(GOLDEN),
        lambda files: files.update({GOLDEN: b"none"}),
        lambda files: files.update({"manifest.json": b"{}"}),
    ],
    ids=["no-golden-tiles", "broken-golden-tiles", "manifest-among-the-files"],
)
def test_what_could_not_be_opened_is_never_written(
    bundle: Bundle, tmp_path: Path, spoil: Callable[[dict[str, bytes]], Any]
) -> None:
    files = parts_of(bundle)
    spoil(files)
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", manifest(), files)
    assert leftovers(tmp_path) == []


def test_a_threshold_that_json_cannot_hold_is_never_written(bundle: Bundle, tmp_path: Path) -> None:
    nan = msgspec.structs.replace(manifest().calibration, score_threshold=float("nan"))
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", msgspec.structs.replace(manifest(), calibration=nan), parts_of(bundle))
    assert leftovers(tmp_path) == []


WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from edge.bundle import open_bundle, write_bundle
from edge.errors import BundleError
source, target, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
bundle = open_bundle(source)
files = {name: (source / name).read_bytes() for name in bundle.manifest.files}
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # no file may grow beyond it: writing fails as on a full disk
try:
    write_bundle(target, bundle.manifest, files)
except BundleError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 1000, 100_000])
def test_a_bundle_that_runs_out_of_room_does_not_appear(bundle: Bundle, tmp_path: Path, room: int) -> None:
    assert room < max((bundle.path / name).stat().st_size for name in bundle.manifest.files)
    result = subprocess.run(
        [sys.executable, "-c", WRITE_ON_A_FULL_DISK, bundle.path, tmp_path / "b", str(room)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "cannot be written (File too large)" in result.stdout, result.stderr
    assert leftovers(tmp_path) == []


WRITE_AND_DIE = """
import os, sys
from pathlib import Path
import edge.bundle.store as store
source, target, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
bundle = store.open_bundle(source)
files = {name: (source / name).read_bytes() for name in bundle.manifest.files}
synced = 0
def power_cut(descriptor):
    global synced
    synced += 1
    if synced == number:
        os.kill(os.getpid(), 9)
os.fsync = power_cut
store.write_bundle(target, bundle.manifest, files)
"""


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_writer_killed_half_way_leaves_no_bundle_of_that_name(bundle: Bundle, tmp_path: Path, number: int) -> None:
    command: list[str | Path] = [sys.executable, "-c", WRITE_AND_DIE, bundle.path, tmp_path / "b", str(number)]
    killed = subprocess.run(command, check=False, timeout=60)
    assert killed.returncode == -9
    assert not (tmp_path / "b").exists()
    assert write_bundle(tmp_path / "b", manifest(), parts_of(bundle)).digest == bundle.digest, "the place is free"


def test_every_refusal_belongs_to_the_error_family() -> None:
    assert issubclass(BundleError, HeatlineError)
    assert BundleError.exit_code == 4


def test_a_written_manifest_is_readable_by_people(bundle: Bundle) -> None:
    text = (bundle.path / MANIFEST).read_text()
    assert text.endswith("}\n")
    assert text.count("\n") > 30
    assert msgspec.json.decode(text, type=Manifest) == bundle.manifest


def test_everybody_may_read_a_written_bundle(bundle: Bundle) -> None:
    assert os.stat(bundle.path).st_mode & 0o777 == 0o755


def test_the_small_bundle_does_what_it_says() -> None:
    """The oracle that other tests lean on: white is -BIAS everywhere, the logit is the map's mean."""
    tiles = np.stack([np.full((TILE, TILE, 3), 255, np.uint8), np.zeros((TILE, TILE, 3), np.uint8)])
    logit, maps = answer(tiles)
    assert logit.tolist() == [-2.0, 98.0]
    assert maps.shape == (2, CELLS, CELLS)
    assert len(graph()) < 10_000
