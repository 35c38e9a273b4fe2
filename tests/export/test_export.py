"""The export of a trained run: the bundle answers as the model does."""

import contextlib
import copy
import dataclasses
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from heatline.edge.bundle import Bundle, check_golden, open_bundle
from heatline.edge.bundle.manifest import Grid
from heatline.edge.bundle.pooling import pool
from heatline.edge.bundle.store import ONNX_GRAPH
from heatline.edge.drift import fit_reference
from heatline.edge.errors import InputError, Interrupted
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import EngineKind, infer, open_engine
from heatline.edge.inference.engine import infer_features
from heatline.edge.inspection.inspector import Inspector
from heatline.export import precisions
from heatline.export.product import fit_product
from heatline.export.run_to_bundle import _find_reference, export_run
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.readers import read_folder
from heatline.train.references import ReferenceSummary
from heatline.train.run import Split, TrainedRun, load_run
from heatline.train.validation_frames import ValidationFrames, graph_inputs, run_validation
from tests.command import complaint, heatline, heatline_process, successful
from tests.toy_vit import ToyViT
from tests.train.blobs import BOARD_HW, draw_blobs, draw_boards

TILE = 64
ENGINES: tuple[EngineKind, ...] = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def run(trained_run: Path) -> TrainedRun:
    return load_run(trained_run)


@pytest.fixture(
    scope="module", params=["cnn", *(pytest.param(at, marks=pytest.mark.long) for at in ("vit", "top-mean"))]
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
def test_the_exported_graph_answers_as_the_model_on_new_tiles_and_on_golden_ones(
    exported: Bundle, model: ExplainedClassifier, kind: EngineKind
) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (9, TILE, TILE, 3), np.uint8)
    with torch.inference_mode():
        logit, maps = (output.numpy() for output in model(torch.from_numpy(tiles)))
    engine = open_engine(kind, exported.path, TILE, batch=4)
    came_logit, came_maps = infer(engine, tiles)
    assert came_maps.shape == (9, *model.map_hw)
    assert np.abs(came_logit - logit).max() <= 1e-4 * np.abs(logit).max()
    assert np.abs(came_maps - maps).max() <= 1e-4 * np.abs(maps).max()
    assert np.abs(pool(came_maps, model.top_cells) - came_logit).max() <= 1e-4 * np.abs(logit).max()
    differences = check_golden(exported.golden(), engine, exported.manifest)
    assert max(differences.values()) <= exported.manifest.tolerances["f32"]


def test_the_manifest_states_model_provenance_and_the_results_of_each_gate(
    exported: Bundle, model: ExplainedClassifier, run: TrainedRun
) -> None:
    manifest = exported.manifest
    assert (manifest.name, manifest.version, manifest.grid.tile_px) == ("blobs", "3", TILE)
    of_map = manifest.map.method, manifest.map.hw, manifest.map.top_cells
    assert of_map == (model.method, model.map_hw, model.top_cells)
    assert manifest.provenance["data"]["groups"] == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert manifest.provenance["training"]["steps"] == 6
    assert max(manifest.gate.largest_difference.values()) <= manifest.gate.tolerance
    checks, gate = manifest.map_checks, manifest.map_gate
    assert (checks.tiles, checks.stuck, checks.border) == (12, None, None)
    assert gate.tiles == 12 * len(run.split.images(run.data, "val"))
    f32_only = "rollout" in manifest.map.method or manifest.map.top_cells
    assert set(gate.precisions) == ({"f32"} if f32_only else {"f32", "bf16", "int8"})
    for precision, one in gate.precisions.items():
        assert (one.graph is None) == bool(one.reason) == (precision not in manifest.tolerances) or precision == "f32"
        assert one.graph is None or (exported.path / one.graph).exists()
    graph = (exported.path / ONNX_GRAPH).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in graph  # no path of the exporting machine


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


def test_without_good_frames_clean_tiles_of_others_are_used(exported: Bundle, run: TrainedRun, tmp_path: Path) -> None:
    manifest = exported.manifest
    engine = open_engine("openvino", exported.path, TILE)
    defective = [image for image in run.split.images(run.data, "val") if image.defective]
    found = run_validation(ValidationFrames(defective, None, "of boards"), engine, manifest.grid, manifest.map.hw)
    assert "without their defective tiles" in found.frames_are
    assert len(found.frames) == len(defective) == 2
    tiles = np.concatenate([clean_tiles(image.pixels(), image.mask((150, 200))) for image in defective])
    highest = infer(engine, tiles)[0].max()
    assert max(frame.highest_logit for frame in found.frames.values()) == pytest.approx(highest, abs=1e-5)
    images = read_folder(draw_blobs(tmp_path / "blobs", frame_hw=(60, 60), per_group=1)).images
    frames = ValidationFrames([one for one in images if one.defective], None, "of blobs")
    with pytest.raises(InputError, match="no tile without a defect"):
        run_validation(frames, engine, manifest.grid, manifest.map.hw)


def clean_tiles(rgb: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The tiles of a picture of 150x200 px without a defective pixel, worked out by hand."""
    corners = [(y, x) for y in (0, 62, 86) for x in (0, 62, 124, 136)]
    return np.stack([rgb[y : y + TILE, x : x + TILE] for y, x in corners if not mask[y : y + TILE, x : x + TILE].any()])


@pytest.fixture(scope="module")
def comparing_run(
    run: TrainedRun, comparing_model: DenseClassifier, tmp_path_factory: pytest.TempPathFactory
) -> TrainedRun:
    """An untrained model that compares the pictures of all groups with one reference; c_1 is turned by 180 degrees."""
    folder = draw_boards(tmp_path_factory.mktemp("boards") / "boards")
    turned = folder / "images" / "c_1.png"
    cv2.imwrite(str(turned), cv2.imread(str(turned))[::-1, ::-1])
    found = ReferenceSummary(
        scope="product", file=None, found="drawn", kept=True, misaligned=["c_1"], alignment={}, without={}, compared={}
    )
    summary = msgspec.structs.replace(run.summary, reference=found)
    split = Split(("a", "b", "d"), ("c",), ())
    return dataclasses.replace(run, data=read_folder(folder), split=split, model=comparing_model, summary=summary)


@pytest.fixture(scope="module")
def comparing_bundle(comparing_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In f32 and int8, which is quantised in one way only."""
    target = tmp_path_factory.mktemp("comparing") / "boards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precisions, "VARIANTS", precisions.VARIANTS[:2])
        return export_run(
            comparing_run, target, name="boards", version="1", false_reject=0.1, precisions=["f32", "int8"],
            allow=["int8"], allow_map=True,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ENGINES)
def test_a_bundle_carries_the_reference_of_its_product_and_the_differences_of_golden_tiles(
    comparing_run: TrainedRun, comparing_model: DenseClassifier, comparing_bundle: Bundle, kind: EngineKind
) -> None:
    """None of them is of the misaligned frame, and drift watches the poses of the others."""
    manifest, golden = comparing_bundle.manifest, open_bundle(comparing_bundle.path).golden()
    assert golden.difference is not None
    for each in manifest.map_gate.precisions["int8"].attempts[0].agreement:
        assert each.map_correlation > 0.9, "int8 is quantised and judged by both inputs"
    reference, of_run = comparing_bundle.references()[""], comparing_run.references
    np.testing.assert_array_equal(reference.rgb, of_run.of_design(None).rgb)  # type: ignore[union-attr]
    known = {}
    for image in comparing_run.split.images(comparing_run.data, "val"):
        inputs = graph_inputs(image, image.pixels(), TileGrid(BOARD_HW, TILE), of_run)
        assert (inputs is None) == (image.path.stem == "c_1")
        if inputs is not None:
            known |= {tile.tobytes(): one for tile, one in zip(*inputs, strict=True)}
    for tile, difference in zip(golden.tiles, golden.difference, strict=True):
        np.testing.assert_array_equal(difference, known[tile.tobytes()])
    with torch.inference_mode():
        inputs = map(torch.from_numpy, (golden.tiles, golden.difference))
        answers = [one.numpy() for one in comparing_model.with_features(*inputs)]
    with contextlib.closing(open_engine(kind, comparing_bundle.path, TILE)) as engine:
        found = [*infer(engine, golden.tiles, golden.difference), infer_features(engine, golden.tiles)]
        images = comparing_run.data.images
        _, samples = fit_product(images, Grid(tile_px=TILE), engine, reference)
    for came, expected in zip(found, answers, strict=True):
        np.testing.assert_allclose(came, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert [image.path.stem for image, one in zip(images, samples, strict=True) if "turn" not in one] == ["c_1"]
    drift = fit_reference(samples, reference.frame_hw, [], [])
    assert {"turn", "match", "shift_x", "shift_y"} <= drift.measures.keys()


def test_of_several_designs_a_bundle_gets_one(run: TrainedRun, comparing_run: TrainedRun, tmp_path: Path) -> None:
    found = msgspec.structs.replace(comparing_run.summary.reference, scope="group")  # type: ignore[type-var]
    summary = msgspec.structs.replace(comparing_run.summary, reference=found)
    several, said = dataclasses.replace(comparing_run, summary=summary), list[str]()
    assert _find_reference(several, "b", said.append) is not None
    assert said == []
    assert _find_reference(several, None, said.append) is None
    assert "--reference" in said[0]
    assert "set-reference" in said[0]
    for one, words in ((several, "of 'x'; expected one of a, b"), (run, "of 'x'; expected no --reference")):
        with pytest.raises(InputError, match=f"has no reference {words}"):
            export_run(one, tmp_path / "b", name="b", version="1", false_reject=0.01, design="x")


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def add_to_config(run: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "colour: true\n")


def damage_the_checkpoint(run: Path) -> None:
    """torch would load it, and the gate would compare the graph with the damaged model."""
    with zipfile.ZipFile(best(run)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(best(run).read_bytes())
    middle = largest.header_offset + largest.file_size // 2
    data[middle : middle + 40] = bytes(byte ^ 0xFF for byte in data[middle : middle + 40])
    best(run).write_bytes(data)


class Payload:
    """Code in a checkpoint."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.run / "ran"),)


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (add_to_config, 3, "colour"),
        (lambda run: (run / "run.json").write_bytes(b"{}"), 9, "is not a run of `heatline train`"),
        (damage_the_checkpoint, 11, " in it is damaged"),
        (lambda run: torch.save({"state_dict": Payload(run)}, best(run)), 11, "best.ckpt cannot be loaded"),
    ],
    ids=range(4),
)
def test_a_damaged_run_is_refused_in_a_sentence_before_any_work(
    trained_run: Path, tmp_path: Path, damage: Callable[[Path], object], code: int, words: str
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    damage(run)
    result = heatline("export", run, "--to", tmp_path / "bundle")
    assert result.returncode == code, result.stderr
    assert words in complaint(result)
    assert "exporting" not in result.stderr
    assert not (tmp_path / "bundle").exists()
    assert not (run / "ran").exists(), "code in a checkpoint is not run"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--to", "{tmp}/file/b"], 4, "cannot be written (Not a directory)"),
        (["--to", "{tmp}"], 4, "exists already"),
        (["--to", "{tmp}/b", "--false-reject", "nan"], 2, "nan is not a finite number"),
        (["--to", "{tmp}/b", "--precision", "int8", "--allow", "bf16"], 2, "a precision that --precision leaves out"),
    ],
    ids=range(4),
)
def test_an_invalid_option_is_refused_before_any_work(
    trained_run: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    (tmp_path / "file").touch()
    result = heatline("export", trained_run, *(option.format(tmp=tmp_path) for option in options))
    assert (result.returncode, "exporting" in result.stderr) == (code, False), result.stderr
    assert words in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_run_that_was_stopped_is_exported_with_a_warning(trained_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    summary = msgspec.json.decode((run / "run.json").read_bytes())
    (run / "run.json").write_bytes(msgspec.json.encode(summary | {"finished": False}))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        raise Interrupted

    with pytest.raises(Interrupted):
        export_run(load_run(run), tmp_path / "bundle", name="b", version="1", false_reject=0.01, say=say)
    assert lines[0].startswith(f"warning: the training in {run} was stopped at step 6, before its end; to continue it")


@pytest.mark.long
def test_another_process_writes_the_same_graph_and_reports_its_agreement(trained_run: Path, tmp_path: Path) -> None:
    """Hashes, and with them the order of sets, differ from process to process."""
    for name, export in ("here", heatline), ("there", heatline_process):
        done = successful(export("export", trained_run, "--to", tmp_path / name, "--precision", "f32"))
        report = " ".join(done.stdout.split())
        difference = "largest difference from the trained model on 16 golden tiles"
        for words in (difference, "mean(map) - logit ", "compared with the model", "shipped as model_f32.xml"):
            assert words in report
    here, there = ((tmp_path / name / ONNX_GRAPH).read_bytes() for name in ("here", "there"))
    assert here == there
