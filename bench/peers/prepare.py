"""The job of all systems: frames, one network, tiles and thresholds; and the expected answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.peers import expected
from heatline.bench.peers.expected import Expected, Scale
from heatline.bench.peers.net import as_anomalib_exports, build
from heatline.bench.peers.systems import ENGINE, OURS, SystemName
from heatline.bench.pictures import draw_shapes
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Precision, open_engine
from heatline.edge.inference.engine import GRAPHS
from heatline.train.config import CnnConfig, VitConfig

SAMPLES = 160
"""Samples along a heatmap's longer side, which are compared."""
HIGH_SHARE = 0.001
"""Share of all heatmap cells that reach the evidence threshold."""
ANOMALIB_GRAPH = "anomalib.xml"
TORCH_MODEL = "model.pt"


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
    """Range of logits that anomalib's post-processor maps to 0..1, with the score threshold in the middle."""
    sample_px: int
    """Distance between the samples of a heatmap, cells."""


@dataclass(frozen=True)
class Prepared:
    """The job in files, and the expected answers."""

    job: Job
    job_file: Path
    expected: Mapping[SystemName, Expected]


def prepare(
    folder: Path,
    config: CnnConfig | VitConfig,
    *,
    precision: Precision,
    grid: TileGrid,
    frames: int,
    systems: Sequence[SystemName],
    batches: Sequence[int],
    report_line: Callable[[str], None],
) -> Prepared:
    """Draw the frames, make the network, and compute the expected answers.

    Args:
        folder: for the files; empty.
    Raises:
        EngineError: OpenVINO cannot run it in this precision.
        ConfigError, ExportError: the network cannot be made.
    """
    import torch

    report_line(f"drawing {frames} frames")
    pictures = np.stack([draw_shapes(grid.frame_hw, seed=number) for number in range(frames)])  # [frames, H, W, 3]
    np.save(folder / "frames.npy", pictures)
    tiles = np.empty((len(grid), grid.tile_px, grid.tile_px, 3), np.uint8)
    grid.cut(pictures[0], tiles)
    report_line(f"exporting {config.name} in {precision}")
    model, ir = build(config, precision, tiles, grid.tile_px)
    graph = GRAPHS[precision][0]
    _write(folder, ir.files(graph))
    torch.save(model, folder / TORCH_MODEL)
    report_line("computing the expected answers")
    engine = open_engine("openvino", folder, grid.tile_px, precision=precision, graph=graph)
    ours, padded = expected.on_our_grid(engine, pictures, grid), expected.on_padded_grid(engine, pictures, grid)
    engine.close()
    height, width = model.map_hw
    stitched = expected.of_heatline(ours, Stitcher(grid, (height, width)))
    assert stitched.heatmaps is not None
    threshold = _between(np.concatenate([ours.logits.max(axis=1), padded.logits.max(axis=1)]))
    values = (ours.logits, ours.maps, padded.logits, padded.maps)
    scale = Scale(threshold, 2.0 * max(float(np.abs(one - threshold).max()) for one in values))
    _write(folder, as_anomalib_exports(ir, grid.tile_px, scale).files(ANOMALIB_GRAPH))
    answers: dict[SystemName, Callable[[], Expected]] = {
        ENGINE: lambda: Expected(ours.logits, None),
        OURS: lambda: stitched,
        "anomalib": lambda: expected.of_anomalib(padded, grid, scale),
        "model-api": lambda: expected.of_model_api(ours, grid, scale),
        "grad-cam": lambda: expected.of_grad_cam(
            ours, grid, model.head.bias.item() if isinstance(config, CnnConfig) else None
        ),
    }
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
        evidence_threshold=float(np.quantile(stitched.heatmaps, 1 - HIGH_SHARE)),
        score_range=scale.range,
        sample_px=max(1, max(grid.frame_hw) // SAMPLES),
    )
    job_file = folder / "job.json"
    job_file.write_bytes(msgspec.json.encode(job))
    return Prepared(job, job_file, {name: answers[name]() for name in systems})


def _between(values: NDArray[np.float32]) -> float:
    """Return the middle of the widest gap between values, so that rounding changes no verdict."""
    ordered = np.unique(values)
    if len(ordered) == 1:
        return float(ordered[0]) - 1.0
    gap = int(np.argmax(np.diff(ordered)))
    return float(ordered[gap] + ordered[gap + 1]) / 2


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
