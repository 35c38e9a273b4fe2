"""Provides the features of all samples of a training, extracted by OpenVINO, and their differences to references."""

import functools
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor
from rich.progress import Progress as Bars
from torch import nn

from heatline.edge.errors import TrainingError, last_line
from heatline.edge.inference import Precision
from heatline.edge.inference.devices import computes_bf16, settings_on, shared_core
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import CELL_PX, CHANNELS, to_grey
from heatline.edge.util.text import format_count
from heatline.train.config import FeaturesConfig
from heatline.train.dense.cache import FeatureCache, Features, default_folder, key_of
from heatline.train.dense.samples import Kind, Painter, Sample
from heatline.train.frames import FrameStore
from heatline.train.models.dense import DenseClassifier, TileFeatures
from heatline.train.progress import Shown
from heatline.train.references import References

BATCH = 8
FillTile = Callable[[NDArray[np.uint8]], object]
"""Writes one tile, RGB uint8 [H, W, 3], into the given array. Several threads may call it, each for another tile."""


def compile_trunk(trunk: nn.Module, tile_px: int, precision: Precision = "f32") -> ov.CompiledModel:
    """Compile the trunk by OpenVINO, else a TrainingError: tiles uint8 [N, H, W, 3] to stages float16 [N, h, w, c]."""
    tile = torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8)
    try:
        # OpenVINO would also trace, and check the trace by a second computation: three times as long.
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # torch.jit warns of Python values
            traced = torch.jit.trace(trunk, tile, check_trace=False)  # type: ignore[no-untyped-call]
        model = ov.convert_model(traced, input=[ov.PartialShape([BATCH, tile_px, tile_px, 3])])
        steps = PrePostProcessor(model)
        for stage in range(len(model.outputs)):
            steps.output(stage).model().set_layout(ov.Layout("NCHW"))
            steps.output(stage).tensor().set_layout(ov.Layout("NHWC")).set_element_type(ov.Type.f16)
        settings = settings_on(PROCESSOR, precision, threads=len(os.sched_getaffinity(0)), streams=0)
        return shared_core().compile_model(steps.build(), PROCESSOR, settings)
    except Exception as error:  # OpConversionFailure among others, which is no RuntimeError
        raise TrainingError(f"OpenVINO cannot use the trunk of this model: {last_line(error)}") from error


def extract(
    trunk: nn.Module,
    tiles: Iterable[tuple[bytes, FillTile]],
    cache: FeatureCache,
    *,
    tile_px: int,
    in_bf16: Collection[bytes] = (),
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> int:
    """Extract the features of the tiles that the cache does not hold.

    After an interruption or an error, the cache holds the features computed until then.

    Args:
        tiles: key and `FillTile` function of each tile.
        in_bf16: keys of tiles that are computed in bf16, the others in f32.
        progress: gets the number of finished tiles and the total.
    Returns:
        The number of extracted tiles.
    Raises:
        TrainingError: the features do not fit the cache's limit, or its disk.
    """
    fill_of = dict(tiles)
    missing = cache.missing(fill_of)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(missing))

    precisions: tuple[Precision, ...] = "f32", "bf16"
    for precision in precisions:
        if keys := [key for key in missing if (key in in_bf16) == (precision == "bf16")]:
            _extract_all(compile_trunk(trunk, tile_px, precision), keys, fill_of, cache, advance)
    return done


def _extract_all(
    compiled: ov.CompiledModel,
    keys: Sequence[bytes],
    fill_of: Mapping[bytes, FillTile],
    cache: FeatureCache,
    advance: Callable[[int], None],
) -> None:
    """Extract and store the features of these keys; `advance` gets the number of tiles of each batch.

    Each request has a thread, so tiles are prepared while the engine computes others. OpenVINO's own callbacks are not
    used: they abort after Python has exited (see edge/inference/openvino_engine.py).
    """
    at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
    idle = SimpleQueue[ov.InferRequest]()
    for _ in range(at_once):
        idle.put(compiled.create_infer_request())

    def extract_batch(batch: Sequence[bytes]) -> int:
        request = idle.get()
        try:
            for key, tile in zip(batch, request.get_input_tensor().data, strict=False):  # the last may be smaller
                fill_of[key](tile)
            request.start_async()
            request.wait()
            cache.write(batch, [output.data[: len(batch)] for output in request.output_tensors])
        finally:
            idle.put(request)
        return len(batch)

    with ThreadPoolExecutor(at_once, "extract") as pool:
        batches = [pool.submit(extract_batch, keys[start : start + BATCH]) for start in range(0, len(keys), BATCH)]
        try:
            for batch in as_completed(batches):
                advance(batch.result())
        finally:
            pool.shutdown(cancel_futures=True)  # running batches finish and are stored


def extract_features(
    model: DenseClassifier,
    tile_px: int,
    painter: Painter,
    samples: Sequence[Sample],
    config: FeaturesConfig,
    report_line: Callable[[str], None],
    *,
    bf16: bool,
    progress: Bars,
) -> tuple[Features, float | None]:
    """Return the features of the samples, and how many tiles/s were extracted; None: all were in the cache.

    Those of tiles are extracted in f32, because predictions from them set thresholds. Copies are only trained on.

    Args:
        bf16: whether copies are extracted in bf16, where the processor computes in it: twice as fast.
        report_line: gets a line about what was extracted, and up to 10 of progress if no terminal shows a bar.
        progress: gets a task while features are extracted.
    Raises:
        TrainingError: OpenVINO cannot use the trunk, or the features cannot be stored.
    """
    trunk = TileFeatures(model, tile_px).eval()
    folder = default_folder() if config.folder is None else Path(config.folder)
    keys = [painter.key(sample) for sample in samples]
    in_bf16: set[bytes] = set()
    if bf16 and computes_bf16(shared_core(), PROCESSOR):
        rows = [row for row, sample in enumerate(samples) if sample.kind != Kind.TILE]
        for row in rows:
            keys[row] = key_of(keys[row], "bf16")
        in_bf16 = {keys[row] for row in rows}
    fills = [(key, functools.partial(painter.paint, sample)) for key, sample in zip(keys, samples, strict=True)]
    shown = Shown(progress, "extracting features", report_line)
    stages = zip(model.head.strides, model.head.channels, strict=True)
    shapes = [(tile_px // stride, tile_px // stride, channels) for stride, channels in stages]
    cache = FeatureCache(folder, trunk.identity, shapes, limit_bytes=int(config.limit_gb * 1e9))
    began = time.monotonic()
    count = extract(trunk, fills, cache, tile_px=tile_px, in_bf16=in_bf16, progress=shown.update)
    seconds = time.monotonic() - began
    copies = sum(sample.kind != Kind.TILE for sample in samples)
    extracted = (
        f"{count} extracted in {seconds:.0f} s, {count / seconds:.0f} tiles/s" if count else "all were in the cache"
    )
    report_line(
        f"features of {format_count(len(samples) - copies, 'tile')} and {copies} "
        f"{'copy' if copies == 1 else 'copies'}: {extracted}"
    )
    return cache.read(keys), count / seconds if count else None


FARTHEST_PX = 3
"""Alignment leaves errors of about a px, so copies are compared beside their place: farther by chance, at most this."""


def compare_samples(
    store: FrameStore,
    references: References,
    painter: Painter,
    samples: Sequence[Sample],
    frame_of: NDArray[np.int64],
    tile_px: int,
    advance: Callable[[], object],
) -> tuple[NDArray[np.uint8], Mapping[int, Pose | None]]:
    """Return the differences of the samples, uint8 [N, cells, cells, CHANNELS], and the poses of the frames.

    The pose of a frame that cannot be aligned is None; a frame without a reference has none. Samples of both have no
    difference; the line gives such frames no verdict.

    Args:
        frame_of: [N], frame of each sample.
        advance: called after each frame.
    Raises:
        InputError: a reference cannot be made.
    """
    cells = tile_px // CELL_PX
    found = np.zeros((len(samples), cells, cells, CHANNELS), np.uint8)
    poses: dict[int, Pose | None] = {}

    def compare(frame: int) -> None:
        rgb = store.pixels(frame)
        reference = references.of(store.images[frame])
        if reference is None:
            return
        pose, misaligned = reference.pose_of(rgb)
        poses[frame] = pose = None if misaligned else pose
        if pose is None:
            return
        tile = np.empty((tile_px, tile_px, 3), np.uint8)
        for number in np.flatnonzero(frame_of == frame).tolist():
            sample = samples[number]
            corner = pose.corners(np.array([sample.yx]), tile_px, store.frame_hw(frame))[0]
            if sample.kind != Kind.TILE:
                aside = np.random.default_rng((sample.seed, 2)).standard_normal(2)
                corner = corner + np.clip(np.rint(aside), -FARTHEST_PX, FARTHEST_PX).astype(np.int32)
            painter.draw(sample, tile)
            reference.range.difference(to_grey(tile), (int(corner[0]), int(corner[1])), found[number])
            found[number] = painter.orient(found[number], sample)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "compare") as pool:
        frames = np.unique(frame_of).tolist()
        frames.sort(key=lambda frame: str(store.images[frame].group))  # those of one reference after each other
        jobs = [pool.submit(compare, frame) for frame in frames]
        try:
            for job in jobs:
                job.result()
                advance()
        finally:
            pool.shutdown(cancel_futures=True)
    return found, poses
