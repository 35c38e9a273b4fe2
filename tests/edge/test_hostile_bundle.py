"""Bundles that somebody made to do harm: refused in one sentence, at once, without taking memory for their claims."""

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.bundle import Bundle, GoldenTiles, check_golden, open_bundle
from edge.bundle.golden import MOST_TILES
from edge.bundle.signature import LARGEST_SIGNATURE, SIGNATURE
from edge.bundle.store import GOLDEN, LARGEST_MANIFEST, MANIFEST, REQUIRED
from edge.errors import BundleError, EngineError
from edge.inference import EngineKind, open_engine
from edge.inference.devices import the_core
from edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS
from export.openvino_ir import Ir, to_openvino
from tests.command import complaint, heatline
from tests.small_bundle import CELLS, GAIN, TILE, golden_tiles, graph, manifest


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, to be spoilt."""
    shutil.copytree(bundle.path, tmp_path / "b")
    return tmp_path / "b"


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and edit the manifest to match."""
    (folder / name).write_bytes(data)
    edit_manifest(folder, lambda content: content["files"].update({name: hashlib.sha256(data).hexdigest()}))


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# Manifests.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["map"].update(hw=[10**9, 1]), "Expected `int` <= 4096"),
        (lambda m: m["map"].update(hw=[10**30, 10**30]), "no bundle manifest"),
        (lambda m: m["map"].update(hw=[-1, 14]), "Expected `int` >= 1"),
        (lambda m: m["map"].update(hw=[14]), "Expected `array` of length 2"),
        (lambda m: m["grid"].update(tile_px=10**9), "Expected `int` <= 4096"),
        (lambda m: m["grid"].update(tile_px=-224), "Expected `int` >= 16"),
        (lambda m: m["grid"].update(tile_px=224.5), "Expected `int`, got `float`"),
        (lambda m: m["grid"].update(overlap_px=10**9), "Expected `int` <= 4095"),
        (lambda m: m["grid"].update(heatmap_cell_px=10**9), "Expected `int` <= 256"),
        (lambda m: m["grid"].update(smoothing_px=1e9), "Expected `float` <= 256"),
        (lambda m: m["files"].update({"a\0b": "0" * 64}), "matching regex"),
        (lambda m: m["files"].update({"../model.onnx": "0" * 64}), "matching regex"),
        (lambda m: m["files"].update({"~": "0" * 64}), "matching regex"),
        (lambda m: m["files"].update({"x" * 101: "0" * 64}), "of length <= 100"),
        (lambda m: m["files"].update({MANIFEST: "0" * 64}), "lists manifest.json"),
        (lambda m: m["files"].update({SIGNATURE: "0" * 64}), "lists manifest.sig"),
    ],
)
def test_a_manifest_with_an_absurd_claim_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    edit_manifest(folder, change)
    assert words in refusal(folder)


def test_a_map_of_more_cells_than_the_tile_has_pixels_is_refused(folder: Path) -> None:
    def finer(content: dict[str, Any]) -> None:
        content["map"]["hw"] = [TILE + 1, TILE]
        content["tensors"]["map"]["shape"] = [None, TILE + 1, TILE]

    edit_manifest(folder, finer)
    assert "maps of 225x224 cells for tiles of 224 px; expected at most a cell per px" in refusal(folder)


def test_a_manifest_as_large_as_a_disk_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(2 * 1024**3)  # sparse: it takes no room
    assert f"it is larger than {LARGEST_MANIFEST:,} bytes" in refusal(folder)


def test_a_signature_as_large_as_a_disk_is_not_read(folder: Path) -> None:
    with (folder / SIGNATURE).open("wb") as file:
        file.truncate(2 * 1024**3)
    assert f"it is larger than {LARGEST_SIGNATURE:,} bytes" in refusal(folder)


# Files that are none.


def be_a_pipe(path: Path) -> None:
    os.mkfifo(path)


def be_a_link_out(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.write_bytes(b"not in the bundle")
    path.symlink_to(outside)


def be_a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST, SIGNATURE])
@pytest.mark.parametrize(
    ("become", "words"),
    [
        (be_a_pipe, "it is a pipe, expected a plain file"),
        (be_a_link_out, "it is a symbolic link, expected a plain file"),
        (be_a_link_to_a_device, "it is a symbolic link, expected a plain file"),
        (Path.mkdir, "it is a folder, expected a plain file"),
    ],
    ids=["pipe", "link", "device", "folder"],
)
def test_a_file_of_another_kind_is_refused_at_once(
    folder: Path, name: str, become: Callable[[Path], None], words: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    become(folder / name)
    sentence = refusal(folder)
    assert name in sentence
    assert words in sentence


def test_a_link_to_the_right_file_is_refused_too(folder: Path, bundle: Bundle) -> None:
    """Who can change what it points to can change it after it was verified."""
    (folder / ONNX_GRAPH).unlink()
    (folder / ONNX_GRAPH).symlink_to(bundle.path / ONNX_GRAPH)
    assert "it is a symbolic link" in refusal(folder)


def test_a_bundle_may_be_named_by_a_link(folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    assert open_bundle(folder.parent / "current").manifest == manifest_of(folder)


def manifest_of(folder: Path) -> object:
    return open_bundle(folder).manifest


# Golden tiles that claim too much.


def header(shape: tuple[int, ...], descr: str, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """The beginning of an .npy file, whatever follows it."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text


Member = bytes | tuple[bytes, int]
"""Bytes, and so many zeros behind them: made when they are packed, for those of all tests would be gigabytes."""


def archive(members: Mapping[str, Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, member in members.items():
            data, zeros = (member, 0) if isinstance(member, bytes) else member
            with packed.open(f"{name}.npy", "w") as file:
                file.write(data)
                for _ in range(0, zeros, MEGABYTE):
                    file.write(bytes(MEGABYTE))
    return buffer.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


RIGHT = golden_tiles()
LOGIT, MAP, TILES = npy(RIGHT.logit), npy(RIGHT.map), npy(RIGHT.tiles)
MEGABYTE = 2**20
TWO_GB = 2**31 // (TILE * TILE * 3) + 1
"""So many tiles are more than 2 GB."""


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"tiles": header((TWO_GB, TILE, TILE, 3), "|u1"), "logit": LOGIT, "map": MAP}, "claims 14,267 tiles"),
        ({"tiles": header((2**62, TILE, TILE, 3), "|u1"), "logit": LOGIT, "map": MAP}, "claims 4,611,686,"),
        ({"tiles": header((4, 2**31), "|u1"), "logit": LOGIT, "map": MAP}, "has tiles of shape (4, 2147483648)"),
        ({"tiles": TILES, "logit": header((2**29,), "<f4"), "map": MAP}, "has logit of shape (536870912,)"),
        ({"tiles": TILES, "logit": LOGIT, "map": header((4, 2**15, 2**14), "<f4")}, "has map of shape"),
        ({"tiles": header((-4, TILE, TILE, 3), "|u1"), "logit": LOGIT, "map": MAP}, "holds no golden tiles"),
        ({"tiles": TILES, "logit": LOGIT, "map": header((4, CELLS, CELLS), "<f4")}, "has not the 3,136 bytes"),  # none
        ({"tiles": TILES, "logit": LOGIT, "map": MAP + bytes(10**6)}, "has not the 3,136 bytes"),  # and more
        ({"tiles": TILES, "logit": (LOGIT, 2**28), "map": MAP}, "has not the 16 bytes"),  # a bomb
        ({"tiles": TILES, "logit": LOGIT, "map": header((4, CELLS, CELLS), "|O")}, "holds no golden tiles"),  # a pickle
        ({"tiles": TILES, "logit": LOGIT, "map": header((4, CELLS, CELLS), ">f4")}, "type >f4"),
        (
            {"tiles": (header((4,), "|u1", b"\x02\x00", 2**31), 2**28), "logit": LOGIT, "map": MAP},
            "version 2.0 of the array format",
        ),
        ({"tiles": b"\x93NUMPY\x09\x09" + bytes(99), "logit": LOGIT, "map": MAP}, "holds no golden tiles"),
    ],
    ids=range(13),
)
def test_golden_tiles_that_claim_what_is_not_so_are_refused(
    folder: Path, members: Mapping[str, Member], words: str
) -> None:
    put(folder, GOLDEN, archive(members))
    sentence = refusal(folder)
    assert words in sentence
    assert GOLDEN in sentence


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_golden_tiles_packed_in_another_way_are_refused(folder: Path, method: int) -> None:
    put(folder, GOLDEN, archive({"tiles": TILES, "logit": LOGIT, "map": MAP}, method))
    assert "expected stored or deflated" in refusal(folder)


def test_more_golden_tiles_than_any_bundle_needs_are_refused(tmp_path: Path) -> None:
    count = MOST_TILES + 1
    many = GoldenTiles(
        np.zeros((count, TILE, TILE, 3), np.uint8),
        np.zeros(count, np.float32),
        np.zeros((count, CELLS, CELLS), np.float32),
    )
    (tmp_path / GOLDEN).write_bytes(many.to_bytes())
    with pytest.raises(BundleError, match="claims 257 tiles, expected at most 256"):
        GoldenTiles.load(tmp_path / GOLDEN, manifest())


def test_an_archive_far_larger_than_its_tiles_could_be_is_refused(folder: Path) -> None:
    with (folder / GOLDEN).open("r+b") as file:
        file.truncate(60_000_000)
    put(folder, GOLDEN, (folder / GOLDEN).read_bytes())
    assert "bytes large, expected at most" in refusal(folder)


@pytest.mark.parametrize("order", ["C", "F"])
def test_right_golden_tiles_are_read_however_numpy_wrote_them(folder: Path, order: Any) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer, tiles=np.asarray(RIGHT.tiles, order=order), logit=RIGHT.logit, map=np.asarray(RIGHT.map, order=order)
    )
    put(folder, GOLDEN, buffer.getvalue())
    came = open_bundle(folder).golden()
    for name in ("tiles", "logit", "map"):
        np.testing.assert_array_equal(getattr(came, name), getattr(RIGHT, name))


# Graphs that were edited by hand.


def test_an_edited_graph_is_told_by_its_sum_and_with_an_edited_manifest_by_its_golden_tiles(folder: Path) -> None:
    edited = graph(GAIN * 1.01)
    (folder / ONNX_GRAPH).write_bytes(edited)
    assert "it was changed or damaged" in refusal(folder)
    for name, data in {ONNX_GRAPH: edited, **to_openvino(edited)}.items():
        put(folder, name, data)
    opened = open_bundle(folder)
    kinds: tuple[EngineKind, ...] = ("openvino", "onnxruntime")
    for kind in kinds:
        with pytest.raises(BundleError, match="this bundle must not be used here"):
            check_golden(opened.golden(), open_engine(kind, folder, TILE), opened.manifest)


def with_weight(change: Callable[[TensorProto], None]) -> bytes:
    """The ONNX graph, its largest constant changed."""
    model = onnx.load_from_string(graph())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    change(weight)
    return bytes(model.SerializeToString())


def claim_two_gb(weight: TensorProto) -> None:
    weight.dims[:] = [2, 1, 2**14, 2**14]


def claim_more_than_there_is(weight: TensorProto) -> None:
    weight.dims[:] = [2**40, 2**40]


def lie_in(location: str) -> Callable[[TensorProto], None]:
    def change(weight: TensorProto) -> None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "3072"}.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return change


@pytest.mark.parametrize(
    "data",
    [
        with_weight(claim_two_gb),
        with_weight(claim_more_than_there_is),
        b"\x08\x09\x3a\xff\xff\xff\xff\x07" + graph(),  # a message of 2 GB follows, says the protobuf
        with_weight(lie_in("../outside")),
        with_weight(lie_in("/etc/hostname")),
    ],
    ids=["2-gb", "exabytes", "protobuf", "climbs-out", "absolute"],
)
def test_onnx_runtime_refuses_a_graph_that_claims_too_much(folder: Path, data: bytes) -> None:
    (folder.parent / "outside").write_bytes(bytes(3072))
    put(folder, ONNX_GRAPH, data)
    assert open_bundle(folder)
    with pytest.raises(EngineError, match=ONNX_GRAPH):
        open_engine("onnxruntime", folder, TILE)
    result = heatline("bundle", "verify", folder, "--engine", "onnxruntime")
    assert result.returncode == 6
    assert ONNX_GRAPH in complaint(result)


def computed_constant(side: int) -> dict[str, bytes]:
    """The IR of a graph that adds up a constant of side * side zeros, made by the graph itself."""
    model = onnx.load_from_string(graph())
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([17, 17], np.int64), "sides"))
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    conv.input[2] = "sum"
    for node in (
        helper.make_node("Add", ["bias", "zero"], ["sum"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
    ):
        model.graph.node.insert(0, node)
    # As the importer leaves it: an export folds what is constant.
    files = Ir.of(the_core().read_model(bytes(model.SerializeToString()))).files(OPENVINO_GRAPH)
    small = np.array([17, 17], np.int64).tobytes()
    assert files[OPENVINO_WEIGHTS].count(small) == 1
    return files | {
        OPENVINO_WEIGHTS: files[OPENVINO_WEIGHTS].replace(small, np.array([side, side], np.int64).tobytes())
    }


def constant(shape: str, offset: int, size: int) -> dict[str, bytes]:
    """The IR, its largest constant said to be of another shape, elsewhere, of another size."""
    files = to_openvino(graph())
    before = b'shape="1, 3, 16, 16" offset="32" size="3072"'
    assert files[OPENVINO_GRAPH].count(before) == 1
    after = f'shape="{shape}" offset="{offset}" size="{size}"'.encode()
    return files | {OPENVINO_GRAPH: files[OPENVINO_GRAPH].replace(before, after)}


@pytest.mark.long
@pytest.mark.parametrize(
    "files",
    [
        constant("1, 3, 16384, 16384", 32, 3 * 2**30),
        constant("1, 3, 16384, 16384", 32, 3072),
        constant("4294967296, 4294967296, 16, 16", 32, 3072),
        constant("1, 3, 16, 16", 2**40, 3072),
        constant("1, 3, 16, 16", 2**64 - 1, 3072),
        computed_constant(3 * 10**9),
    ],
    ids=["3-gb", "shape-only", "overflow", "beyond-the-end", "beyond-all-numbers", "computed"],
)
def test_openvino_refuses_a_graph_that_claims_too_much(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        put(folder, name, data)
    assert open_bundle(folder)
    with pytest.raises(EngineError, match=OPENVINO_GRAPH):
        open_engine("openvino", folder, TILE)
    result = heatline("bundle", "verify", folder)
    assert result.returncode == 6
    assert OPENVINO_GRAPH in complaint(result)


# The commands.


@pytest.mark.long
@pytest.mark.parametrize("command", ["show", "verify", "sign", "diff"])
def test_every_command_refuses_in_one_sentence_and_does_not_hang(folder: Path, tmp_path: Path, command: str) -> None:
    heatline("bundle", "keygen", tmp_path / "k")
    (folder / ONNX_GRAPH).unlink()
    os.mkfifo(folder / ONNX_GRAPH)
    more = {"sign": ["--key", tmp_path / "k"], "diff": [folder]}.get(command, [])
    result = heatline("bundle", command, folder, *more)
    assert (result.returncode, result.stdout) == (4, "")
    assert "it is a pipe" in complaint(result)


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(folder: Path) -> None:
    edit_manifest(folder, lambda content: content.update(name="\x1b[2Jevil"))
    text = heatline("bundle", "show", folder).stdout
    assert "\x1b" not in text
    assert r"\x1b[2Jevil" in text
    edit_manifest(folder, lambda content: content.update({"\x1b[2J": 1}))
    assert r"\x1b[2J" in complaint(heatline("bundle", "show", folder))


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from edge.bundle import open_bundle
from edge.errors import BundleError
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, taken + 200_000_000))
try:
    open_bundle(Path(sys.argv[1]))
except BundleError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"tiles": (header((TWO_GB, TILE, TILE, 3), "|u1"), 2**28)}, "claims 14,267 tiles"),
        ({"tiles": TILES, "logit": (LOGIT, 2**28), "map": MAP}, "has not the 16 bytes"),
        ({"tiles": (header((4,), "|u1", b"\x02\x00", 2**28), 2**28)}, "version 2.0 of the array format"),
    ],
    ids=["claim", "bomb", "bomb-in-a-header"],
)
def test_a_claim_of_gigabytes_is_refused_where_there_is_no_such_memory(
    folder: Path, members: Mapping[str, Member], words: str
) -> None:
    put(folder, GOLDEN, archive(members))
    result = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, folder], capture_output=True, text=True, check=False, timeout=60
    )
    assert words in result.stdout, result.stderr
