"""The differences of two bundles: every key, and every verdict on the second bundle's golden tiles."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle, GoldenTiles, Manifest, open_bundle, sign_bundle, write_bundle
from heatline.edge.bundle.difference import SECTIONS, Answers, answers_difference, manifest_changes
from heatline.edge.bundle.keys import make_key, read_private_key
from heatline.edge.bundle.manifest import Grid, Tensor
from heatline.edge.inference.engine import ONNX_GRAPH
from heatline.export.openvino_ir import to_openvino
from tests.command import complaint, heatline
from tests.small_bundle import BIAS, GAIN, GOLDEN, TILE, answer, copy_of, golden_tiles, graph, manifest

changed = msgspec.structs.replace


# Manifests.


def test_every_change_is_in_its_section_with_both_values() -> None:
    a = manifest()
    assert manifest_changes(a, manifest()) == {}
    b = changed(
        a,
        version="2",
        model=changed(a.model, parameters=770),
        tensors=changed(a.tensors, map=Tensor("map", "float32", [None, 7, 7])),
        grid=Grid(overlap_px=32),
        calibration=changed(a.calibration, score_threshold=3.5, rejected=0),
        gate=changed(a.gate, largest_difference={"logit": 0.5, "map": 0.0}),
        tolerances={"f32": 1e-4, "int8": 0.1},
        provenance={"data": {"data": "boards"}, "calibrations": [{"frames": 3}, {"frames": 4}]},
        files={"model.onnx": "1" * 64},
    )
    found = manifest_changes(a, b)
    values = {change.key: (change.a, change.b) for changes in found.values() for change in changes}
    assert values == {
        "version": ("1", "2"),
        "model.parameters": (769, 770),
        "tensors.map.shape": ([None, 14, 14], [None, 7, 7]),  # a list counts as one value
        "grid.overlap_px": (2, 32),
        "files.model.onnx": (msgspec.UNSET, "1" * 64),
        "calibration.score_threshold": (-1.0, 3.5),
        "calibration.rejected": (None, 0),
        "gate.largest_difference.logit": (0.0, 0.5),
        "tolerances.int8": (msgspec.UNSET, 0.1),
        "provenance.data.data": (msgspec.UNSET, "boards"),
        "provenance.calibrations.0.frames": (msgspec.UNSET, 3),
        "provenance.calibrations.1.frames": (msgspec.UNSET, 4),
    }
    sections = {section: len(changes) for section, changes in found.items()}
    assert sections == {"bundle": 1, "model": 4, "calibration": 2, "gate": 2, "provenance": 3}


def test_deeply_nested_keys_count_as_one_value() -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"a": deep}
    (change,) = manifest_changes(manifest(), changed(manifest(), provenance=deep))["provenance"]
    assert change.key.count(".") < 40


def test_every_key_of_a_manifest_has_a_section() -> None:
    """A key without a section would be listed in the first one, where no reader expects it."""
    assert sorted(top for tops in SECTIONS.values() for top in tops) == sorted(Manifest.__struct_fields__)


# Answers.


def answers(logit: list[float], threshold: float = 0.0, gain: float = 1.0) -> Answers:
    maps = np.random.default_rng(1).normal(size=(len(logit), 3, 3)).astype(np.float32) * gain
    return Answers(np.array(logit, np.float32), maps, threshold)


def test_a_verdict_flips_if_only_one_threshold_is_reached() -> None:
    found = answers_difference(answers([-1.0, 0.0, 2.0, 3.0]), answers([-1.5, 0.5, 1.0, 3.0], threshold=1.0))
    verdicts = [(each.a, each.b) for each in found.answers]
    assert verdicts == [("GOOD", "GOOD"), ("DEFECT", "GOOD"), ("DEFECT", "DEFECT"), ("DEFECT", "DEFECT")]
    assert (found.flipped, found.largest_logit_difference) == ([1], 1.0)
    found = answers_difference(answers([np.nan, np.inf]), answers([1.0, 1.0]))
    assert ([each.a for each in found.answers], found.flipped) == (["NO_VERDICT", "NO_VERDICT"], [0, 1])


def test_maps_of_any_scale_correlate_unless_they_cannot_be_compared() -> None:
    a = answers([1.0, 1.0])
    upside_down = Answers(a.logit, a.map[:, ::-1], 0.0)
    expected = np.corrcoef(a.map.ravel(), upside_down.map.ravel())[0, 1]
    for b, known in ((answers([1.0, 1.0], gain=7.0), 1), (answers([1.0, 1.0], gain=-1.0), -1), (upside_down, expected)):
        assert answers_difference(a, b).map_correlation == pytest.approx(known)
    for maps in (np.zeros((2, 3, 3), "f4"), np.zeros((2, 7, 7), "f4"), np.full((2, 3, 3), np.nan, "f4")):
        found = answers_difference(a, Answers(a.logit, maps, 0.0))
        assert found.map_correlation is None
        assert found.answers[0].map_correlation is None


# The command.


def compared(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    """The output for programs, and the output for people."""
    as_json = heatline("bundle", "diff", *arguments, "--json")
    shown = heatline("bundle", "diff", *arguments)
    assert as_json.returncode == shown.returncode == 0, as_json.stderr
    report = json.loads(as_json.stdout)
    assert isinstance(report, dict)
    return report, shown.stdout


@pytest.fixture
def other(tmp_path: Path) -> Bundle:
    """A bundle with another gain and threshold: its golden tiles have half the evidence, and one has none."""
    onnx_graph = graph(GAIN / 2)
    tiles = golden_tiles().tiles.copy()
    tiles[2] = 250
    logit, maps = ((values + np.float32(BIAS)) / 2 - np.float32(BIAS) for values in answer(tiles))
    files = {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph), GOLDEN: GoldenTiles(tiles, logit, maps).to_bytes()}
    calibration = changed(manifest().calibration, score_threshold=22.5)
    return write_bundle(tmp_path / "other", changed(manifest(), version="2", calibration=calibration), files)


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_diff_lists_changes_and_flipped_verdicts(bundle: Bundle, other: Bundle, kind: str) -> None:
    report, text = compared(bundle.path, other.path, "--engine", kind)
    assert (report["a"]["digest"], report["b"]["digest"], report["same"]) == (bundle.digest, other.digest, False)
    assert {"key": "version", "a": "1", "b": "2"} in report["changes"]["bundle"]
    assert {"key": "calibration.score_threshold", "a": -1.0, "b": 22.5} in report["changes"]["calibration"]
    assert {change["key"] for change in report["changes"]["model"]} >= {"files.model.onnx", "files.golden.npz"}
    came, of_b = report["golden_tiles_of_b"], other.golden().logit
    assert came["tiles"] == 4
    of_a = (of_b + BIAS) * 2 - BIAS
    assert [each["a_logit"] for each in came["answers"]] == pytest.approx(of_a.tolist(), abs=1e-2)
    assert [each["b_logit"] for each in came["answers"]] == pytest.approx(of_b.tolist(), abs=1e-2)
    assert came["flipped"] == [tile for tile in range(4) if (of_a[tile] >= -1) != (of_b[tile] >= 22.5)]
    assert 2 in came["flipped"]
    assert came["largest_logit_difference"] == pytest.approx(abs(of_a - of_b).max(), abs=1e-2)
    assert came["map_correlation"] == pytest.approx(1, abs=1e-6)
    for pattern in ("calibration.score_threshold", "-1.0", "22.5", "verdicts that flip", "of 4 tiles", "DEFECT ("):
        assert pattern in text
    for section in ("bundle", "model", "calibration", "golden tiles of B"):
        assert f"\n{section}" in f"\n{text}"
    for pattern in ("provenance", "tolerances", "grid", "signature"):
        assert pattern not in text, "only what changed"


def test_equal_bundles_and_a_new_signature_are_reported(bundle: Bundle, tmp_path: Path) -> None:
    report, text = compared(bundle.path, bundle.path)
    assert (report["same"], report["changes"]) == (True, {})
    assert report["golden_tiles_of_b"]["flipped"] == []
    assert report["golden_tiles_of_b"]["largest_logit_difference"] == 0
    assert "are the same bundle" in text
    make_key(tmp_path / "k")
    signed = sign_bundle(open_bundle(copy_of(bundle, tmp_path / "b")), read_private_key(tmp_path / "k"))
    report, text = compared(bundle.path, signed.path)
    assert report["b"]["signed_by"] is not None
    for pattern in ("are the same bundle", "signed_by", "nobody"):
        assert pattern in text


def test_bundles_with_different_tile_sizes_are_compared_by_manifest(bundle: Bundle, tmp_path: Path) -> None:
    half, was, golden, onnx_graph = TILE // 2, manifest(), golden_tiles(), graph()
    tensors = changed(was.tensors, tiles=Tensor("tiles", "uint8", [None, half, half, 3]))
    tiles = GoldenTiles(golden.tiles[:, :half, :half], golden.logit, golden.map)
    files = {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph), GOLDEN: tiles.to_bytes()}
    written = write_bundle(tmp_path / "small", changed(was, grid=Grid(tile_px=half), tensors=tensors), files)
    report, text = compared(bundle.path, written.path)
    assert report["golden_tiles_of_b"] is None
    assert "A takes tiles of 224 px and these are 112 px" in report["not_compared_because"]
    assert "A takes tiles of 224 px and these are 112 px" in " ".join(text.split())


def test_diff_verifies_both_bundles(bundle: Bundle, tmp_path: Path) -> None:
    damaged = copy_of(bundle, tmp_path / "b")
    (damaged / ONNX_GRAPH).write_bytes(b"")
    for pair in ((bundle.path, damaged), (damaged, bundle.path)):
        result = heatline("bundle", "diff", *pair)
        assert (result.returncode, result.stdout) == (4, "")
        assert "changed or damaged" in complaint(result)
