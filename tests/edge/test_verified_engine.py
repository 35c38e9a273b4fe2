"""What a graph must show before it is used: golden tiles by every engine and precision, the fallback, and the cache."""

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from heatline.edge.bundle import Bundle, GoldenTiles, VerifiedEngine, check_golden, open_bundle, open_verified_engine
from heatline.edge.bundle.store import MOST_CACHED
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.inference import Engine, EngineKind, Precision, infer, open_engine
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS
from heatline.edge.reference.reference import Reference
from tests.command import heatline, refused
from tests.edge.lines import running, small_frames, write_line, write_pictures
from tests.golden import assert_golden
from tests.small_bundle import (
    GAIN,
    INT8_GRAPH,
    LEFT_OUT,
    TILE,
    TOLERANCES,
    bundle_in,
    comparing_bundle,
    copy_of,
    edit_manifest,
    golden_tiles,
    graph,
    graph_with,
    put,
    to_openvino,
)  # fmt: skip

RIGHT = golden_tiles()
ENGINES: tuple[EngineKind, ...] = ("openvino", "onnxruntime")
FRAMES = {"top": 'path = "frames"'}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


def test_correct_golden_tiles_pass_also_off_by_what_the_manifest_allows(bundle: Bundle, engine: Engine) -> None:
    off = check_golden(bundle.golden(), engine, bundle.manifest)
    assert set(off) == {"logit", "map"}
    assert all(0 <= share <= 1e-4 for share in off.values())
    generous = msgspec.structs.replace(bundle.manifest, tolerances={"f32": 0.05})
    golden = dataclasses.replace(RIGHT, logit=RIGHT.logit * np.float32(1.01))
    assert 0.005 < check_golden(golden, engine, generous)["logit"] < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: dataclasses.replace(g, logit=g.logit * np.float32(1.01)), "in logit"),
        (lambda g: dataclasses.replace(g, map=g.map + np.float32(0.5)), "in map"),
        (lambda g: dataclasses.replace(g, map=g.map[:, ::-1]), "in map"),  # upside down
        (lambda g: dataclasses.replace(g, tiles=np.roll(g.tiles, 1, axis=0)), "in logit"),  # of the previous tile
        (lambda g: dataclasses.replace(g, logit=np.full_like(g.logit, np.nan)), "in logit"),
        (lambda g: dataclasses.replace(g, logit=np.append(g.logit[:3], 0).astype(np.float32)), "in logit"),  # the last
    ],
)
def test_a_bundle_with_other_answers_on_this_machine_is_refused(
    bundle: Bundle, engine: Engine, change: Callable[[GoldenTiles], GoldenTiles], message: str
) -> None:
    with pytest.raises(BundleError, match=f"{engine.name}.* {message} .*must not be used here"):
        check_golden(change(golden_tiles()), engine, bundle.manifest)


def test_a_logit_that_contradicts_the_manifests_pooling_is_refused(bundle: Bundle, engine: Engine) -> None:
    other = msgspec.structs.replace(bundle.manifest.map, identity="top-mean(map, 16) == logit")
    with pytest.raises(BundleError, match=r"in top-mean\(map, 16\) - logit on the golden tiles, .* must not be used"):
        check_golden(bundle.golden(), engine, msgspec.structs.replace(bundle.manifest, map=other))


@pytest.mark.parametrize("kind", ENGINES)
def test_golden_tiles_are_compared_with_their_references(tmp_path: Path, kind: EngineKind) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    comparing = comparing_bundle(tmp_path / "b", {"": Reference(noise)})
    with contextlib.closing(open_verified_engine(comparing, kind).engine) as engine:
        golden = comparing.golden()
        for difference, message in ((golden.difference[::-1], "must not be used here"), (None, "says the opposite")):
            with pytest.raises(BundleError, match=message):
                check_golden(dataclasses.replace(golden, difference=difference), engine, comparing.manifest)


def test_verify_runs_the_golden_tiles_and_refuses_an_edited_graph(bundle: Bundle, folder: Path) -> None:
    edited = graph(GAIN * 1.01)
    put(folder, {ONNX_GRAPH: edited, **to_openvino(edited)})
    for kind in ENGINES:
        report = json.loads(heatline("bundle", "verify", bundle.path, "--engine", kind, "--json").stdout)
        assert (report["engine"], report["golden_tiles"], report["digest"]) == (kind, 4, bundle.digest)
        assert all(share <= report["allowed"] for share in report["off_by"].values())
        assert "must not be used here" in refused(4, "bundle", "verify", folder, "--engine", kind, "--json")


@pytest.mark.parametrize(
    "onnx_graph",
    [
        graph_with(map_cells=7),  # coarser maps than the manifest states
        graph_with(map_cells=1),  # one cell, which numpy would broadcast to all cells
        graph_with(tiles_type=TensorProto.FLOAT),
    ],
    ids=["coarse-map", "one-cell", "float-tiles"],
)
def test_a_graph_that_contradicts_the_manifest_is_refused(folder: Path, onnx_graph: bytes) -> None:
    opened = open_bundle(put(folder, {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}))
    for kind in ENGINES:
        with pytest.raises((BundleError, EngineError)):
            check_golden(opened.golden(), open_engine(kind, opened.path, TILE), opened.manifest)


def with_weight_in(location: str) -> dict[str, bytes]:
    """The ONNX graph whose largest constant claims to lie in another file."""
    model = onnx.load_from_string(graph())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "3072"}.items():
        weight.external_data.add(key=key, value=value)
    return {ONNX_GRAPH: bytes(model.SerializeToString())}


@pytest.mark.parametrize(
    "files",
    [
        {ONNX_GRAPH: b"no graph"},
        {ONNX_GRAPH: b"\x08\x09\x3a\xff\xff\xff\xff\x07" + graph()},  # the protobuf claims a message of 2 GB
        with_weight_in("../outside"),
        {OPENVINO_GRAPH: b""},
        {OPENVINO_WEIGHTS: b"\x00\x00"},
    ],
    ids=range(5),
)
def test_a_graph_that_claims_too_much_is_refused_with_exit_code_6(folder: Path, files: dict[str, bytes]) -> None:
    (folder.parent / "outside").write_bytes(bytes(3072))
    kind, name = ("onnxruntime", ONNX_GRAPH) if ONNX_GRAPH in files else ("openvino", OPENVINO_GRAPH)
    assert name in refused(6, "bundle", "verify", put(folder, files), "--engine", kind)


@pytest.fixture(scope="module")
def all_three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with f32, bf16 and an int8 that differs by 1 % of the scale, which is allowed."""
    return bundle_in(tmp_path_factory.mktemp("precisions") / "all")


@pytest.fixture(scope="module")
def far_off(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose int8 answers with twice the evidence, and whose bf16 has the tolerance of f32."""
    path = tmp_path_factory.mktemp("precisions") / "far"
    return bundle_in(path, int8_gain=2 * GAIN, tolerances={**TOLERANCES, "bf16": 1e-6})


def open_precision(bundle: Bundle, precision: Precision) -> VerifiedEngine:
    return open_verified_engine(bundle, "openvino", precision, threads=1)


def test_a_bundle_states_its_precisions_and_why_others_are_missing(all_three: Bundle, tmp_path: Path) -> None:
    f32_alone = bundle_in(tmp_path / "f32", ["f32"])
    graphs = {each: all_three.manifest.graph_for(each) for each in all_three.manifest.precisions}
    assert graphs == {"f32": "model_f32.xml", "bf16": "model_f32.xml", "int8": INT8_GRAPH}
    assert f32_alone.manifest.precisions == ("f32",)
    with pytest.raises(BundleError, match=re.escape(f"has no bf16 ({LEFT_OUT}); choose f32, or export the bundle")):
        open_precision(f32_alone, "bf16")
    with pytest.raises(EngineError, match="onnxruntime cannot compute in int8, only in f32"):
        open_verified_engine(all_three, "onnxruntime", "int8")
    shown = [heatline("bundle", "show", each.path, env={"COLUMNS": "400"}).stdout for each in (all_three, f32_alone)]
    assert_golden("bundle_precisions", "\n".join(text[text.index("export gate") :] for text in shown))


def test_a_precision_that_passes_is_used_and_warns_only_if_it_fails_the_gate(
    all_three: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    f32, int8 = open_precision(all_three, "f32"), open_precision(all_three, "int8")
    for verified, precision in ((f32, "f32"), (int8, "int8")):
        assert (verified.engine.precision, verified.fell_back, verified.computes_in) == (precision, None, precision)
    assert max(f32.differences.values()) < 1e-5, "also on a processor that likes bf16"
    assert 0.005 < int8.differences["map"] <= all_three.manifest.tolerances["int8"], "int8 is its own graph"
    assert not caplog.records
    missed = "3 of 40 verdicts differ; at most 0.5 % may"
    folder = copy_of(all_three, tmp_path / "b")
    edit_manifest(folder, lambda m: m["map_gate"]["precisions"]["int8"].update(reason=missed))
    open_precision(open_bundle(folder), "int8")
    assert f"int8 is in {folder} although it fails the map gate: {missed}" in caplog.text


def test_bf16_is_really_bf16_or_refused(all_three: Bundle) -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat")))
    try:
        engine = open_engine("openvino", all_three.path, TILE, precision="bf16", threads=1)
    except EngineError as error:
        assert not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split())
        assert "this processor has no bf16" in str(error)  # noqa: PT017  (either way is right)
        return
    assert engine.precision == "bf16"
    assert 1e-4 < RIGHT.differences(*infer(engine, RIGHT.tiles))["map"] < 0.02, "numbers were rounded to 8 bits"


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_outside_its_tolerance_f32_is_used_with_a_warning(
    far_off: Bundle, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    verified = open_precision(far_off, precision)
    assert (verified.engine.precision, verified.requested) == ("f32", precision)
    assert max(verified.differences.values()) <= 1e-4, "they are f32's"
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, verified.fell_back)
    words = r"int8 is off by 1\.0e\+00 of the scale in logit.* allowed is 5\.0e-02; int8 must not be used here"
    assert re.match(
        f"f32 is used instead of {precision}: .*{words if precision == 'int8' else ''}", record.getMessage()
    )


def test_a_broken_graph_falls_back_and_one_of_another_shape_or_another_f32_is_refused(
    all_three: Bundle, far_off: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of(all_three, tmp_path / "b")
    assert open_precision(open_bundle(put(folder, {INT8_GRAPH: b"no graph"})), "int8").engine.precision == "f32"
    assert f"OpenVINO cannot use {folder / INT8_GRAPH}" in caplog.text
    coarse = {name.replace("f32", "int8"): data for name, data in to_openvino(graph_with(map_cells=7)).items()}
    with pytest.raises(BundleError, match=r"maps of shape \(4, 7, 7\)"):
        open_precision(open_bundle(put(folder, coarse)), "int8")
    wrong = to_openvino(graph(3 * GAIN))
    with pytest.raises(BundleError, match=r"in f32 is off by .*; this bundle must not be used here"):
        open_precision(open_bundle(put(copy_of(far_off, tmp_path / "c"), wrong)), "int8")


def test_every_command_reports_its_precision(far_off: Bundle, tmp_path: Path, address: str) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(1))
    line = write_line(tmp_path, far_off.path, address, FRAMES, '[engine]\nprecision = "int8"\nthreads = 1')
    for command in (
        ["check", line],
        ["bundle", "verify", far_off.path, "--precision", "int8"],
        ["inspect", far_off.path, frames, "--precision", "int8", "--out", tmp_path / "out"],
        ["calibrate", far_off.path, frames, "--precision", "int8", "--to", tmp_path / "calibrated"],
    ):
        result = heatline(*command, "--json")
        assert (result.returncode, json.loads(result.stdout)["precision"]) == (0, "f32")
        assert "f32 is used instead of int8: " in result.stderr
    new, old = open_bundle(tmp_path / "calibrated").manifest, far_off.manifest
    assert (new.map_gate, new.tolerances, new.files) == (old.map_gate, old.tolerances, old.files)
    assert new.provenance["calibrations"][0]["precision"] == "f32"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


def open_cached(bundle: Bundle, cache: Path | None, **settings: Any) -> VerifiedEngine:
    opened = open_verified_engine(bundle, cache=cache, **{"threads": 1, **settings})
    opened.engine.close()
    assert opened.fell_back is None
    return opened


def stored(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_each_bundle_precision_and_batch_is_compiled_once_and_answers_the_same_from_then_on(
    tmp_path: Path, all_three: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=99.0)  # the same graph, another weight
    graphs, known = dict[str, int](), list[dict[str, float]]()
    for again in (False, True):
        for bundle, options in ((all_three, {}), (all_three, {"precision": "int8"}), (other, {"precision": "int8"}),
                                (all_three, {"batch": 2})):  # fmt: skip
            opened = open_cached(bundle, cache, **options)
            assert opened.differences == open_cached(bundle, None, **options).differences
            known.append(dict(opened.differences))
            assert len(stored(cache)) == len(graphs) + (not again)
            assert (stored(cache) == graphs) == again, "it is stored once"
            graphs = stored(cache)
    assert caplog.records == []
    for number in range(MOST_CACHED):
        (cache / f"{number}.blob").touch()
    open_cached(all_three, cache, batch=3)
    assert len(stored(cache)) == MOST_CACHED, "the oldest graphs are deleted"


@pytest.mark.parametrize("damage", ["empty", "half-zero", "bit"])
def test_a_damaged_graph_does_not_keep_a_line_from_starting(bundle: Bundle, cache: Path, damage: str) -> None:
    """A power cut leaves such files."""
    open_cached(bundle, cache)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if damage == "bit":
        data[middle] ^= 1
    else:
        data[middle:] = bytes(len(data) - middle)
    file.unlink()
    file.write_bytes(b"" if damage == "empty" else data)
    for folder in (cache, cache, file, cache / "nowhere"):
        assert max(open_cached(bundle, folder).differences.values()) < 1e-4


def test_a_graph_whose_golden_tiles_fail_is_compiled_again_without_the_cache(
    tmp_path: Path, bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    open_cached(bundle, cache)
    open_cached(bundle_in(tmp_path / "other", ("f32", "int8"), int8_gain=99.0), other, precision="int8")
    (file,) = cache.iterdir()
    file.unlink()
    max(other.iterdir(), key=lambda path: path.stat().st_mtime_ns).rename(file)
    assert max(open_cached(bundle, cache).differences.values()) < 1e-4
    assert "which is emptied: on this machine openvino in f32 is off by" in caplog.text
    assert list(cache.iterdir()) == []


def test_the_service_caches_its_graph_for_systemd(tmp_path: Path, bundle: Bundle, cache: Path, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, FRAMES, "[engine]\nthreads = 1")
    with running(line, address, env={"CACHE_DIRECTORY": str(cache)}) as run:
        assert [event.verdict for event in run.until_stopped().verdicts] == ["GOOD", "GOOD", "DEFECT"]
        assert "WARNING" not in run.process.log()
    graphs = stored(cache)
    assert len(graphs) == 1
    open_cached(bundle, cache)
    assert stored(cache) == graphs, "the next start uses it"
