"""The export of a trained run: the bundle answers as the model does."""

import contextlib
import copy
import dataclasses
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from heatline.edge.bundle import SCHEMA, Bundle, check_golden, open_bundle
from heatline.edge.bundle.manifest import Grid
from heatline.edge.bundle.pooling import pool
from heatline.edge.bundle.store import ONNX_GRAPH
from heatline.edge.drift import fit_reference
from heatline.edge.errors import BundleError, ExportError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.inspection.inspector import Inspector
from heatline.export.run_to_bundle import _find_reference, export_run, fit_product
from heatline.train.evaluation.evaluated import TorchEngine
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.readers import read_folder
from heatline.train.references import ReferenceSummary
from heatline.train.run import Split, TrainedRun, load_run
from heatline.train.validation_frames import RecordedEngine, graph_inputs, run_validation
from tests.toy_vit import ToyViT
from tests.train.blobs import draw_blobs

TILE = 64
ENGINES: tuple[EngineKind, ...] = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def run(trained_run: Path) -> TrainedRun:
    return load_run(trained_run)


@pytest.fixture(
    scope="module",
    params=["cnn", *(pytest.param(each, marks=pytest.mark.long) for each in ("vit", "top-mean"))],
)
def model(run: TrainedRun, request: pytest.FixtureRequest) -> ExplainedClassifier:
    if request.param == "cnn":
        return run.model
    if request.param == "top-mean":
        top_mean = copy.deepcopy(run.model)
        top_mean.top_cells = 3
        return top_mean
    torch.manual_seed(0)
    return ToyViT(tile_px=TILE).eval()


@pytest.fixture(scope="module")
def exported(
    run: TrainedRun,
    model: ExplainedClassifier,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """In all precisions; only f32 for the ViT, as its graph is slow to quantise, and for the second CNN."""
    if model is run.model:
        return open_bundle(request.getfixturevalue("trained_bundle"))
    target = tmp_path_factory.mktemp("bundles") / "blobs"
    of_model = dataclasses.replace(run, model=model)
    return export_run(of_model, target, name="blobs", version="3", false_reject=0.0, precisions=["f32"])


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_exported_graph_answers_as_the_model_on_new_tiles(
    exported: Bundle, model: ExplainedClassifier, kind: EngineKind, batch: int
) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (9, TILE, TILE, 3), np.uint8)
    with torch.inference_mode():
        logit, maps = (output.numpy() for output in model(torch.from_numpy(tiles)))
    came_logit, came_maps = infer(open_engine(kind, exported.path, TILE, batch=batch), tiles)
    assert came_maps.shape == (9, *model.map_hw)
    assert np.abs(came_logit - logit).max() <= 1e-4 * np.abs(logit).max()
    assert np.abs(came_maps - maps).max() <= 1e-4 * np.abs(maps).max()
    assert np.abs(pool(came_maps, model.top_cells) - came_logit).max() <= 1e-4 * np.abs(logit).max()


@pytest.mark.parametrize("kind", ENGINES)
def test_the_golden_tiles_pass_on_both_engines(exported: Bundle, kind: EngineKind) -> None:
    differences = check_golden(exported.golden(), open_engine(kind, exported.path, TILE), exported.manifest)
    assert max(differences.values()) <= exported.manifest.tolerances["f32"]


def test_the_manifest_states_model_and_provenance(
    exported: Bundle, model: ExplainedClassifier, run: TrainedRun
) -> None:
    manifest = exported.manifest
    assert (manifest.name, manifest.version, manifest.grid.tile_px) == ("blobs", "3", TILE)
    assert (manifest.map.method, manifest.map.hw, manifest.map.top_cells) == (
        model.method, model.map_hw, model.top_cells,
    )  # fmt: skip
    assert manifest.provenance["data"]["groups"] == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert manifest.provenance["weights"]["source"] == "random"
    assert manifest.provenance["training"]["steps"] == 6
    assert manifest.provenance["training"]["finished"] is True
    assert "reference" not in manifest.provenance["training"]["config"], "as before any model compared"
    assert manifest.calibration.frames == 1
    assert "good frames" in manifest.calibration.frames_are
    assert max(manifest.gate.largest_difference.values()) <= manifest.gate.tolerance


def test_the_manifest_states_that_twelve_good_tiles_are_too_few(exported: Bundle) -> None:
    checks = exported.manifest.map_checks
    assert checks is not None
    assert (checks.tiles, checks.stuck, checks.border) == (12, None, None)
    assert "12 good tiles count as" in checks.warnings[0]


def test_the_manifest_states_limits_and_results_of_each_precision(exported: Bundle, run: TrainedRun) -> None:
    manifest, frames = exported.manifest, run.split.images(run.data, "val")
    gate = manifest.map_gate
    assert gate is not None
    assert gate.tiles == 12 * len(frames)
    assert gate.tiles_are == f"tiles of {len(frames)} of the {len(frames)} frames of the validation groups"
    f32_only = "rollout" in manifest.map.method or manifest.map.top_cells
    assert set(gate.precisions) == ({"f32"} if f32_only else {"f32", "bf16", "int8"})
    assert gate.precisions["f32"].attempts[0].agreement[0].logit_difference < 1e-4
    for precision, one in gate.precisions.items():
        assert (one.graph is None) == bool(one.reason) == (precision not in manifest.tolerances) or precision == "f32"
        assert one.graph is None or (exported.path / one.graph).exists()


def test_with_false_reject_0_no_good_validation_frame_is_rejected(exported: Bundle, run: TrainedRun) -> None:
    inspector = Inspector(exported.manifest, open_engine("openvino", exported.path, TILE))
    good = [image for image in run.split.images(run.data, "val") if not image.defective]
    assert good
    for image in good:
        judgement = inspector.finish(inspector.start(Frame(Stamp("top", 1), image.pixels(), "RGB8")))
        assert judgement.verdict == "GOOD"
        if exported.manifest.map.top_cells is None:  # otherwise the cells of all good frames together set it
            assert float(judgement.heatmap.max()) < exported.manifest.calibration.evidence_threshold
        # ... and the threshold lies just above, as the frame's highest tile set it.
        assert judgement.score == pytest.approx(exported.manifest.calibration.score_threshold, abs=1e-4)


def test_the_onnx_graph_is_valid_and_takes_any_number_of_tiles(exported: Bundle) -> None:
    graph = onnx.load(exported.path / ONNX_GRAPH)
    onnx.checker.check_model(graph, full_check=True)
    assert str(Path(__file__).parents[2]).encode() not in graph.SerializeToString()  # no path of the exporting machine
    (tiles,) = graph.graph.input
    assert tiles.name == "tiles"
    assert tiles.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert tiles.type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in graph.graph.output] == ["logit", "map"]


def test_without_good_frames_the_clean_tiles_of_defective_frames_are_used(exported: Bundle, run: TrainedRun) -> None:
    manifest = exported.manifest
    engine = open_engine("openvino", exported.path, TILE)
    defective = [image for image in run.split.images(run.data, "val") if image.defective]
    found = run_validation(defective, engine, grid=manifest.grid, map_hw=manifest.map.hw)
    assert "without their defective tiles" in found.frames_are
    assert len(found.frames) == len(defective) == 2
    tiles = np.concatenate([clean_tiles(image.pixels(), image.mask((150, 200))) for image in defective])
    highest = infer(engine, tiles)[0].max()
    assert max(frame.highest_logit for frame in found.frames.values()) == pytest.approx(highest, abs=1e-5)


def clean_tiles(rgb: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The tiles of a picture of 150x200 px without a defective pixel, worked out by hand."""
    assert mask is not None
    corners = [(y, x) for y in (0, 62, 86) for x in (0, 62, 124, 136)]
    return np.stack([rgb[y : y + TILE, x : x + TILE] for y, x in corners if not mask[y : y + TILE, x : x + TILE].any()])


def test_entirely_defective_validation_frames_are_refused(exported: Bundle, run: TrainedRun, tmp_path: Path) -> None:
    data = draw_blobs(tmp_path / "blobs", frame_hw=(60, 60), per_group=1)
    images = [image for image in read_folder(data).images if image.defective]
    engine = open_engine("openvino", exported.path, TILE)
    with pytest.raises(InputError, match="no tile without a defect"):
        run_validation(images, engine, grid=exported.manifest.grid, map_hw=exported.manifest.map.hw)


# With a reference.


def draw_boards(folder: Path) -> Path:
    """Draw pictures of one part, each shifted by some px, in the groups of `draw_blobs`; c_1 is turned by 180
    degrees."""
    draw_blobs(folder, per_group=2)
    rng = np.random.default_rng(3)
    board = np.full((200, 250, 3), 150, np.uint8)
    for _ in range(60):
        x, y = (int(value) for value in rng.integers(0, (240, 190)))
        width, height = (int(value) for value in rng.integers(6, 40, 2))
        cv2.rectangle(board, (x, y), (x + width, y + height), int(rng.integers(60, 240)), -1)
    for path in sorted((folder / "images").iterdir()):
        y, x = (int(value) for value in 20 + rng.integers(-4, 5, 2))
        picture = board[y : y + 150, x : x + 200].astype(float) + rng.normal(0, 2, (150, 200, 3))
        mask = folder / "masks" / path.name
        if mask.exists():
            picture[cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 0] -= 60
        picture = picture.clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(path), picture[::-1, ::-1] if path.stem == "c_1" else picture)
    return folder


@pytest.fixture(scope="module")
def comparing_run(
    run: TrainedRun, comparing_model: DenseClassifier, tmp_path_factory: pytest.TempPathFactory
) -> TrainedRun:
    """An untrained model that compares the pictures of all groups with one reference."""
    data = read_folder(draw_boards(tmp_path_factory.mktemp("boards") / "boards"))
    found = ReferenceSummary(
        scope="product", file=None, found="drawn", kept=True, misaligned=["c_1"], without={}, compared={}
    )
    summary = msgspec.structs.replace(run.summary, reference=found)
    split = Split(("a", "b", "d"), ("c",), ())
    return dataclasses.replace(run, data=data, split=split, model=comparing_model, summary=summary)


@pytest.fixture(scope="module")
def comparing_bundle(comparing_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("comparing") / "boards"
    return export_run(
        comparing_run, target, name="boards", version="1", false_reject=0.1, allow=["bf16", "int8"], allow_map=True
    )


@pytest.mark.parametrize("kind", ENGINES)
def test_a_bundle_carries_the_reference_of_its_product_and_the_differences_of_golden_tiles(
    comparing_run: TrainedRun, comparing_bundle: Bundle, kind: EngineKind
) -> None:
    manifest, golden = comparing_bundle.manifest, open_bundle(comparing_bundle.path).golden()
    assert manifest.schema == SCHEMA
    assert golden.difference is not None
    assert golden.difference.any()
    assert set(manifest.precisions) >= {"f32", "int8"}
    with contextlib.closing(open_engine(kind, comparing_bundle.path, TILE)) as engine:
        check_golden(golden, engine, manifest)
    assert manifest.provenance["training"]["config"]["reference"] == "auto"
    reference = comparing_bundle.references()[""]
    assert comparing_run.references is not None
    np.testing.assert_array_equal(reference.rgb, comparing_run.references.of_design(None).rgb)  # type: ignore[union-attr]
    known = {}
    for image in comparing_run.split.images(comparing_run.data, "val"):
        rgb = image.pixels()
        grid = TileGrid((rgb.shape[0], rgb.shape[1]), TILE)
        of_image = comparing_run.references.of(image)
        assert of_image is not None
        difference = of_image.compare(rgb, grid)
        assert (difference is None) == (image.path.stem == "c_1")
        if difference is not None:
            known |= {tile.tobytes(): one for tile, one in zip(grid.tiles(rgb), difference, strict=True)}
    for tile, difference in zip(golden.tiles, golden.difference, strict=True):  # none is of the misaligned frame
        np.testing.assert_array_equal(difference, known[tile.tobytes()])


def test_drift_watches_the_poses_of_the_frames_that_a_bundle_was_exported_from(
    comparing_run: TrainedRun, comparing_bundle: Bundle
) -> None:
    images, reference = comparing_run.data.images, comparing_bundle.references()[""]
    with contextlib.closing(open_engine("openvino", comparing_bundle.path, TILE)) as engine:
        _, samples = fit_product(images, Grid(tile_px=TILE), engine, reference)
    without = [image.path.stem for image, each in zip(images, samples, strict=True) if each.pose is None]
    assert without == ["c_1"], "the misaligned frame"
    drift = fit_reference(samples, [], [])
    assert drift is not None
    assert {"turn", "match", "shift_x", "shift_y"} <= drift.measures.keys()


def test_recorded_answers_of_a_misaligned_frame_are_passed_over(comparing_run: TrainedRun) -> None:
    images, references = comparing_run.split.images(comparing_run.data, "val"), comparing_run.references
    engine = TorchEngine(comparing_run.model, TILE)
    logits, maps = [], []
    for image in images:
        grid = TileGrid((150, 200), TILE)
        inputs = graph_inputs(image, image.pixels(), grid, references)
        answers = (
            infer(engine, *inputs) if inputs is not None else (np.full(len(grid), 99), np.zeros((len(grid), 8, 8)))
        )
        logits.append(answers[0])
        maps.append(answers[1])
    recorded = RecordedEngine(np.concatenate(logits), np.concatenate(maps))
    passes = [
        run_validation(images, each, grid=Grid(tile_px=TILE), map_hw=(8, 8), references=references)
        for each in (engine, recorded)
    ]
    assert len(passes[0].defective) == 1, "the other defective frame is misaligned"
    highest = [
        {**each.defective, **{path: frame.highest_logit for path, frame in each.good.items()}} for each in passes
    ]
    assert highest[0] == pytest.approx(highest[1])
    np.testing.assert_array_equal(passes[0].difference, passes[1].difference)


@pytest.mark.parametrize(("design", "carried"), [(None, False), ("b", True), ("x", None)])
def test_of_several_designs_the_bundle_gets_the_reference_that_is_named(
    comparing_run: TrainedRun, design: str | None, carried: bool | None
) -> None:
    found = msgspec.structs.replace(comparing_run.summary.reference, scope="group")  # type: ignore[type-var]
    run = dataclasses.replace(comparing_run, summary=msgspec.structs.replace(comparing_run.summary, reference=found))
    said: list[str] = []
    if carried is None:
        with pytest.raises(InputError, match="has no reference of 'x'; expected one of a, b"):
            _find_reference(run, design, said.append)
        return
    reference = _find_reference(run, design, said.append)
    assert (reference is not None) == carried
    assert [("--reference" in line and "set-reference" in line) for line in said] == [True] * (not carried)


def test_a_run_without_a_reference_is_not_exported_with_one(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no reference of 'a'; expected no --reference"):
        export_run(run, tmp_path / "b", name="b", version="1", false_reject=0.01, design="a")


class Inconsistent(ToyViT):
    """A model whose logit is not the mean of its map."""

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        logit, maps = super().forward(tiles)
        return logit * 1.001, maps


@pytest.mark.long
def test_a_model_whose_logit_is_not_the_mean_of_its_map_is_not_exported(run: TrainedRun, tmp_path: Path) -> None:
    broken = dataclasses.replace(run, model=Inconsistent(tile_px=TILE).eval())
    with pytest.raises(ExportError, match="mean\\(map\\)"):
        export_run(broken, tmp_path / "bundle", name="blobs", version="1", false_reject=0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_overwritten(run: TrainedRun, exported: Bundle) -> None:
    with pytest.raises(BundleError, match="exists already"):
        export_run(run, exported.path, name="blobs", version="1", false_reject=0.01)
