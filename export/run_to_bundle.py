"""From a trained run to a bundle."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edge import __version__
from edge.bundle import SCHEMA, Bundle, Manifest, write_bundle
from edge.bundle.manifest import Grid, Map, Model, Tensor, Tensors
from edge.bundle.store import GOLDEN
from edge.calibration import calibrate
from edge.errors import BundleError
from edge.inference import open_engine
from edge.inference.engine import ONNX_GRAPH
from export.gate import TOLERANCE, pass_gate, torch_answers
from export.onnx_graph import to_graphs
from export.openvino_ir import to_openvino
from train.readers import LabelledImage
from train.run import TrainedRun, class_names
from train.validation_frames import SMOOTHING_CELLS, run_over

Track = Callable[[Sequence[LabelledImage]], Iterable[LabelledImage]]


def export_run(
    run: TrainedRun,
    target: Path,
    *,
    name: str,
    version: str,
    false_reject: float,
    smoothing_cells: float = SMOOTHING_CELLS,
    track: Track = iter,
) -> Bundle:
    """Write the bundle of a run to a new folder.

    Args:
        false_reject: wanted share of good frames that are rejected.
        smoothing_cells: standard deviation of the heatmap's smoothing, in map cells; 0: none.
        track: wraps the validation images as they are run, to show how far that is.
    Raises:
        ExportError: a graph does not agree with the model, or there is nothing to calibrate on.
        BundleError: the target exists already or cannot be written.
    """
    if target.exists():
        raise BundleError(f"{target} exists already; bundles are never overwritten, name a new folder")
    model, tiles = run.model, run.config.tiles
    exported = to_graphs(model, tiles.tile_px)
    graphs = {ONNX_GRAPH: exported.onnx, **to_openvino(exported.for_openvino)}
    smoothing_px = smoothing_cells * tiles.tile_px / min(model.map_hw)
    grid = Grid(tile_px=tiles.tile_px, overlap_px=tiles.overlap_px, smoothing_px=smoothing_px)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file, data in graphs.items():
            (folder / file).write_bytes(data)
        validation = run_over(
            track(run.split.images(run.data, "val")),
            open_engine("openvino", folder, tiles.tile_px),
            grid=grid,
            map_hw=model.map_hw,
        )
        golden = torch_answers(model, validation.tiles)
        gate = pass_gate(golden, folder)
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        version=version,
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        made_by=f"heatline {__version__}",
        model=Model(run.config.model.name, run.config.model.timm, sum(p.numel() for p in model.parameters())),
        tensors=Tensors(
            Tensor("tiles", "uint8", [None, tiles.tile_px, tiles.tile_px, 3]),
            Tensor("logit", "float32", [None]),
            Tensor("map", "float32", [None, *model.map_hw]),
        ),
        grid=grid,
        map=Map(model.method, model.map_hw),
        calibration=calibrate(validation.good_frames, false_reject, validation.frames_are),
        gate=gate,
        tolerances={"f32": TOLERANCE},
        provenance=_provenance(run),
        files={},
    )
    return write_bundle(target, manifest, {**graphs, GOLDEN: golden.to_bytes()})


def _provenance(run: TrainedRun) -> dict[str, object]:
    """What the bundle can tell of its making: data, weights, training."""
    summary, config = msgspec.to_builtins(run.summary), run.config
    return {
        "data": {
            **{key: summary[key] for key in ("data", "truth", "labelled", "groups", "tiles")},
            "read": {
                "truth": summary["truth"],
                "classes": class_names(config),
                "group": config.split.group,
                "pattern": config.split.pattern,
            },
        },
        "weights": summary["weights"],
        "training": {
            **{key: summary[key] for key in ("recipe", "steps", "best_step", "val", "precision", "versions")},
            "seed": config.seed,
        },
    }
