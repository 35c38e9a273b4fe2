"""The job of all systems: frames, one network, tiles and thresholds; and the answers that are expected of each.

Expected answers are computed slowly from the tiles' logits and maps, so that no system can skip work.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.pictures import draw_shapes
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Engine, Precision, infer, open_engine
from heatline.edge.inference.engine import GRAPHS
from heatline.export.openvino_ir import Ir
from heatline.train.config import CnnConfig, VitConfig

SAMPLES = 160
"""Samples along a heatmap's longer side, which are compared."""
HIGH_SHARE = 0.001
"""Share of all heatmap cells that reach the evidence threshold."""
ANOMALIB_GRAPH = "anomalib.xml"
TORCH_MODEL = "model.pt"
TILES, IMAGE = "tiles", "image"
FROM_UNIT = 255.0
"""anomalib's images are RGB in 0..1."""
OF_SPREAD: Mapping[Precision, float] = {"f32": 1e-3, "bf16": 0.2, "int8": 0.05}
"""Allowed error, as a share of the standard deviation between tiles. In f32, sums are added in another order; in the
other precisions, a value that is rounded differently changes all later ones."""
Floats = NDArray[np.float32]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Job of a worker."""

    frames: str
    """RGB uint8 [n, H, W, 3], a file of numpy."""
    graphs: dict[str, str]
    """Files of the network, by the form that a system needs: `heatline`, `anomalib`, `torch`."""
    precision: Precision
    hint: str
    """OpenVINO's hint for that precision."""
    threads: int
    batches: Sequence[int]
    """Numbers of tiles at once to try, where a system allows a choice."""
    tile_px: int
    overlap_px: int
    origins_yx: Sequence[tuple[int, int]]
    """Origins of the tiles of heatline's grid."""
    map_hw: tuple[int, int]
    score_threshold: float
    evidence_threshold: float
    score_range: float
    """Range of logits that anomalib's post-processor maps to 0..1, with the score threshold in the middle; it clips no
    value."""
    sample_px: int
    """Distance between the samples of a heatmap, cells."""


@dataclass(frozen=True)
class Expected:
    """Expected answers to all frames."""

    logits: Floats
    """[frames, tiles]"""
    heatmaps: Floats | None
    """[frames, h, w]; None: they are unknown, or there are none."""


@dataclass(frozen=True)
class Prepared:
    """The job in files, and the expected answers by system."""

    job: Job
    job_file: Path
    expected: Mapping[str, Expected]


def prepare(
    folder: Path,
    config: CnnConfig | VitConfig,
    *,
    precision: Precision,
    grid: TileGrid,
    frames: int,
    batches: Sequence[int],
) -> Prepared:
    """Draw the frames, make the network, and compute the expected answers.

    Args:
        folder: for the files; empty.
    Raises:
        EngineError: OpenVINO cannot run it in this precision.
        ConfigError, ExportError: as of `build`.
    """
    import torch

    pictures = np.stack([draw_shapes(grid.frame_hw, seed=number) for number in range(frames)])  # [frames, H, W, 3]
    np.save(folder / "frames.npy", pictures)
    model, ir = build(config, precision, grid.tiles(pictures[0]), grid.tile_px)
    graph = GRAPHS[precision][0]
    _write(folder, ir.files(graph))
    torch.save(model, folder / TORCH_MODEL)
    engine = open_engine("openvino", folder, grid.tile_px, precision=precision, graph=graph)
    ours = _answers(engine, pictures, grid.origins_yx, grid.tile_px)
    theirs = _answers(engine, padded(pictures, grid), padded_origins(grid), grid.tile_px)
    engine.close()
    height, width = model.map_hw
    stitcher = Stitcher(grid, (height, width))
    heatmaps = np.stack([stitcher.stitch(maps) for maps in ours[1]])
    threshold = _between(np.concatenate([ours[0].max(axis=1), theirs[0].max(axis=1)]))
    score_range = 2.0 * max(float(np.abs(one - threshold).max()) for one in (*ours, *theirs))
    _write(folder, as_anomalib_exports(ir, grid.tile_px, threshold, score_range).files(ANOMALIB_GRAPH))
    bias = model.head.bias.item() if isinstance(config, CnnConfig) else None
    job = Job(
        frames=str(folder / "frames.npy"),
        graphs={
            "heatline": str(folder / graph),
            "anomalib": str(folder / ANOMALIB_GRAPH),
            "torch": str(folder / TORCH_MODEL),
        },
        precision=precision,
        hint="bf16" if precision == "bf16" else "f32",
        threads=len(os.sched_getaffinity(0)),
        batches=batches,
        tile_px=grid.tile_px,
        overlap_px=grid.overlap_px,
        origins_yx=grid.origins_yx,
        map_hw=(height, width),
        score_threshold=threshold,
        evidence_threshold=float(np.quantile(heatmaps, 1 - HIGH_SHARE)),
        score_range=score_range,
        sample_px=max(1, max(grid.frame_hw) // SAMPLES),
    )
    job_file = folder / "job.json"
    job_file.write_bytes(msgspec.json.encode(job))
    expected = {
        "engine alone": Expected(ours[0], None),
        "heatline": Expected(ours[0], heatmaps),
        "anomalib": Expected(theirs[0], of_anomalib(theirs[1], grid, threshold, score_range)),
        "grad-cam": Expected(ours[0], None if bias is None else of_grad_cam(ours[1], grid, bias)),
    }
    return Prepared(job, job_file, expected)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _between(values: Floats) -> float:
    """Return the middle of the widest gap between values, so that rounding changes no verdict."""
    ordered = np.unique(values)
    if len(ordered) == 1:
        return float(ordered[0]) - 1.0
    gap = int(np.argmax(np.diff(ordered)))
    return float(ordered[gap] + ordered[gap + 1]) / 2


# The network: heatline's graph, a graph as anomalib exports it, and PyTorch's.


def build(
    config: CnnConfig | VitConfig, precision: Precision, tiles: NDArray[np.uint8], tile_px: int
) -> tuple[Any, Ir]:
    """Build a model with random weights, which is as fast as a trained one, and its IR in a precision.

    Args:
        tiles: [N, tile_px, tile_px, 3], for the ranges of int8.
    Raises:
        ConfigError, ExportError: it cannot be built, exported or quantised.
    """
    import torch

    from heatline.export.onnx_graph import to_graphs
    from heatline.export.openvino_ir import to_ir
    from heatline.export.quantise import VARIANTS, quantise
    from heatline.train.models.build import build_model

    torch.manual_seed(0)
    model, _ = build_model(msgspec.structs.replace(config, weights="none"), tile_px)
    graphs = to_graphs(model, tile_px)
    ir = to_ir(graphs.for_bf16 if precision == "bf16" else graphs.onnx)
    if precision == "int8":
        ir = quantise(ir, (tiles,), VARIANTS[0], transformer=config.family == "vit")
    return model.eval(), ir


def as_anomalib_exports(ir: Ir, tile_px: int, threshold: float, score_range: float) -> Ir:
    """Give a graph the inputs and outputs of a model that anomalib exports.

    Input: `image` float32 [N, 3, H, W] in 0..1. Outputs, as of its post-processor: `pred_score` [N] and `anomaly_map`
    [N, 1, tile, tile] in 0..1, and whether these exceed 0.5, `pred_label` and `pred_mask`.
    """
    import openvino as ov
    from openvino import opset13 as ops

    model = ir.read()
    takers = model.input(TILES).get_target_inputs()
    while len(takers) == 1 and (node := next(iter(takers)).get_node()).get_type_name() in ("Transpose", "Convert"):
        takers = node.output(0).get_target_inputs()  # until they are float32 [N, 3, H, W]
    image = ops.parameter([-1, 3, -1, -1], np.float32, name=IMAGE)
    pixels = ops.multiply(image, np.float32(FROM_UNIT))
    for taker in takers:
        taker.replace_source_output(pixels.output(0))

    def normalised(value: Any) -> Any:
        apart = ops.subtract(value, np.float32(threshold))
        return ops.clamp(ops.add(ops.divide(apart, np.float32(score_range)), np.float32(0.5)), 0.0, 1.0)

    logit, maps = (model.output(name).get_node().input_value(0) for name in ("logit", "map"))
    large = ops.interpolate(
        ops.unsqueeze(maps, np.int64(1)),
        np.array([tile_px, tile_px], np.int64),
        "linear",
        "sizes",
        coordinate_transformation_mode="half_pixel",
        axes=np.array([2, 3], np.int64),
    )
    score, anomaly_map = normalised(logit), normalised(large)
    outputs = {
        "pred_score": score,
        "pred_label": ops.greater(score, np.float32(0.5)),
        "anomaly_map": anomaly_map,
        "pred_mask": ops.greater(anomaly_map, np.float32(0.5)),
    }
    for name, node in {IMAGE: image, **outputs}.items():
        node.output(0).get_tensor().set_names({name})
    return Ir.of(ov.Model([ops.result(node) for node in outputs.values()], [image], "anomalib"))


# The expected heatmaps.


def padded_origins(grid: TileGrid) -> list[tuple[int, int]]:
    """Return the origins of anomalib's tiles: one step apart."""
    step = grid.tile_px - grid.overlap_px
    return [(row * step, column * step) for row in range(len(grid.rows_y)) for column in range(len(grid.columns_x))]


def padded(frames: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """Return frames [n, H, W, 3] as anomalib's tiler cuts them, black beyond the frame."""
    last_y, last_x = padded_origins(grid)[-1]
    black = np.zeros((len(frames), last_y + grid.tile_px, last_x + grid.tile_px, 3), np.uint8)
    black[:, : frames.shape[1], : frames.shape[2]] = frames
    return black


def of_anomalib(maps: Floats, grid: TileGrid, threshold: float, score_range: float) -> Floats:
    """Expect maps in 0..1 as large as the tile, with their mean where tiles overlap, without the padding.

    Args:
        maps: [frames, tiles, h, w] of the padded grid.
    """
    large = (np.stack([_large(one, grid.tile_px) for one in of]) for of in maps)
    heatmaps = [_mean_of(np.clip((of - threshold) / score_range + 0.5, 0, 1), padded_origins(grid)) for of in large]
    height, width = grid.frame_hw
    return np.stack(heatmaps)[:, :height, :width]


def of_grad_cam(maps: Floats, grid: TileGrid, bias: float) -> Floats:
    """Expect the evidence for a defect in each tile, stretched to 0..1.

    Args:
        maps: [frames, tiles, h, w].
        bias: of the CNN's head, which is not part of its map.
    """

    def stretched(one: Floats) -> Floats:
        return _from_0_to_1(_large(_from_0_to_1(np.maximum(one - bias, 0)), grid.tile_px))

    return np.stack([_mean_of(np.stack([stretched(one) for one in of]), grid.origins_yx) for of in maps])


def _answers(
    engine: Engine, frames: NDArray[np.uint8], origins: Sequence[tuple[int, int]], tile_px: int
) -> tuple[Floats, Floats]:
    """Return logits [frames, tiles] and maps [frames, tiles, h, w] of the tiles at these origins."""
    found = [infer(engine, np.stack([frame[y : y + tile_px, x : x + tile_px] for y, x in origins])) for frame in frames]
    return np.stack([logits for logits, _ in found]), np.stack([maps for _, maps in found])


def _large(one: Floats, tile_px: int) -> Floats:
    """Enlarge a map to the tile, linearly, half-pixel correct."""
    return np.asarray(cv2.resize(one, (tile_px, tile_px)), np.float32)


def _mean_of(maps: Floats, origins: Sequence[tuple[int, int]]) -> Floats:
    """Join maps [tiles, tile, tile]: each px is the mean of the tiles that show it."""
    side = maps.shape[1]
    total = np.zeros([max(each) + side for each in zip(*origins, strict=True)], np.float64)
    tiles = np.zeros_like(total)
    for one, (y, x) in zip(maps, origins, strict=True):
        total[y : y + side, x : x + side] += one
        tiles[y : y + side, x : x + side] += 1
    return (total / tiles).astype(np.float32)


def _from_0_to_1(one: Floats) -> Floats:
    lifted = one - one.min()
    return np.asarray(lifted / max(float(lifted.max()), 1e-7), np.float32)


def logits_off(found: Mapping[str, NDArray[Any]], expected: Expected) -> float:
    """Return the largest error of logits, as a share of their standard deviation between tiles.

    Args:
        found: answers of a turn, as summed up by `serve.py`. The engine alone has a row per request, of the first
            frame's first tiles.
    """
    logits = expected.logits
    if expected.heatmaps is None and "samples" not in found:
        requests, batch = found["logits"].shape
        logits = np.tile(logits[0, :batch], (requests, 1))
    if found["logits"].shape != logits.shape:
        return float("inf")
    return float(np.abs(found["logits"] - logits).max() / expected.logits.std())


def find_difference(
    found: Mapping[str, NDArray[Any]], expected: Expected, precision: Precision, sample_px: int, threshold: float
) -> str | None:
    """Return what is wrong with verdicts or heatmaps; None: nothing.

    Args:
        found: answers of a turn, as summed up by `serve.py`.
        threshold: logit from which a frame is defective.
    """
    if (found["defective"] != (found["logits"] >= threshold).any(axis=1)).any():
        return "its verdicts are not those of its logits"
    if len(found.get("samples", ())) != len(expected.logits):
        return "it makes no heatmap of some frame"
    if expected.heatmaps is None:
        flat = ~(np.ptp(found["samples"], axis=(1, 2)) > 0)
        return f"{flat.sum()} of its {len(flat)} heatmaps are flat or not finite" if flat.any() else None
    if (found["hw"] != expected.heatmaps.shape[1:]).any():
        return f"its heatmaps are {found['hw'].tolist()}, expected all {list(expected.heatmaps.shape[1:])}"
    allowed = OF_SPREAD[precision] * float(expected.heatmaps.std())
    off = float(np.abs(found["samples"] - expected.heatmaps[:, ::sample_px, ::sample_px]).max())
    if not off <= allowed:
        return f"its heatmaps are off by {off:.2g}, expected at most {allowed:.2g}"
    highest = expected.heatmaps.max(axis=(1, 2))
    at_peak = np.array([one[tuple(peak)] for one, peak in zip(expected.heatmaps, found["peaks_yx"], strict=True)])
    if not (highest - at_peak).max() <= 2 * allowed:
        return f"its heatmaps peak where {(highest - at_peak).max():.2g} less than the peak is expected"
    return None
