"""Provides the features of all samples of a training, from the cache or by extracting them into it."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from heatline.edge.inference.devices import computes_bf16, shared_core
from heatline.edge.inference.engine import PROCESSOR
from heatline.train.config import FeaturesConfig
from heatline.train.dense.copies import Kind, Painter, Sample
from heatline.train.features.cache import FeatureCache, Features, default_folder, key_of
from heatline.train.features.extract import extract, feature_shapes
from heatline.train.models.dense import DenseClassifier, TileFeatures
from heatline.train.progress import is_line_due


@dataclass(frozen=True)
class Extracted:
    """Features by sample index, valid while the cache is open."""

    features: Features
    count: int
    """Number of samples that were not in the cache."""
    seconds: float

    @property
    def tiles_per_s(self) -> float | None:
        """Extraction rate; None: all were in the cache."""
        return self.count / self.seconds if self.count else None

    def __str__(self) -> str:
        if not self.count:
            return "all were in the cache"
        return f"{self.count} extracted in {self.seconds:.0f} s, {self.tiles_per_s:.0f} tiles/s"


def extract_features(
    model: DenseClassifier,
    tile_px: int,
    painter: Painter,
    samples: Sequence[Sample],
    config: FeaturesConfig,
    report_line: Callable[[str], None],
    *,
    bf16: bool = False,
    progress: Progress | None = None,
) -> Extracted:
    """Extract the features that the cache lacks.

    Those of tiles are extracted in f32, because predictions from them set thresholds. Copies are only trained on.

    Args:
        bf16: whether features are given in bf16, and copies extracted in it if the processor computes in bf16 itself,
            which is twice as fast there.
        report_line: gets a sentence about damaged features, and up to 10 lines of progress if no terminal shows a bar.
        progress: gets a task while features are extracted.
    Raises:
        TrainingError: OpenVINO cannot use the trunk, or the features cannot be stored.
    """
    trunk = TileFeatures(model, tile_px).eval()
    folder = default_folder() if config.folder is None else Path(config.folder)
    limit = int(config.limit_gb * 1e9)
    keys = [painter.key(sample) for sample in samples]
    in_bf16: set[bytes] = set()
    if bf16 and computes_bf16(shared_core(), PROCESSOR):
        rows = [row for row, sample in enumerate(samples) if sample.kind != Kind.TILE]
        for row in rows:
            keys[row] = key_of(keys[row], "bf16")
        in_bf16 = {keys[row] for row in rows}
    fills = [(key, functools.partial(painter.paint, sample)) for key, sample in zip(keys, samples, strict=True)]
    task = None if progress is None else progress.add_task("extracting features", total=len(samples))
    reported = 0

    def advance(done: int, total: int) -> None:
        nonlocal reported
        if progress is None or task is None:
            return
        progress.update(task, completed=done, total=total)
        if not progress.console.is_terminal and is_line_due(reported, done, total):
            report_line(f"features of {done} of {total} tiles and copies are extracted")
        reported = done

    cache = FeatureCache(
        folder, trunk.identity, feature_shapes(trunk, tile_px), limit_bytes=limit, report_line=report_line
    )
    began = time.monotonic()
    count = extract(trunk, fills, cache, tile_px=tile_px, in_bf16=in_bf16, progress=advance)
    seconds = time.monotonic() - began
    if progress is not None and task is not None:
        progress.remove_task(task)
    return Extracted(Features(cache, keys, bf16=bf16), count, seconds)
