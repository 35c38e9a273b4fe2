"""Provides the features of all samples of a training, from the cache or by extracting them into it."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from edge.inference import Precision
from train.config import FeaturesConfig
from train.dense.copies import Kind, Painter, Sample
from train.features.cache import FeatureCache, Features, default_folder, key_of
from train.features.extract import extract, feature_shapes
from train.models.dense import DenseClassifier, TileFeatures


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


@contextmanager
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
) -> Iterator[Extracted]:
    """Extract the features that the cache lacks; none are deleted while the context lasts.

    Those of tiles are extracted in f32, because predictions from them set thresholds. Copies are only trained on.

    Args:
        bf16: whether copies are extracted in bf16, twice as fast on processors with bf16 multiplication, and features
            given in it.
        report_line: gets a sentence about damaged features.
        progress: gets a task while features are extracted.
    Raises:
        TrainingError: OpenVINO cannot use the trunk, or the features cannot be stored.
    """
    trunk = TileFeatures(model, tile_px).eval()
    folder = default_folder() if config.folder is None else Path(config.folder)
    limit = int(config.limit_gb * 1e9)
    keys = [
        key_of(painter.key(sample), "bf16") if bf16 and sample.kind != Kind.TILE else painter.key(sample)
        for sample in samples
    ]
    parts: list[tuple[str, Precision, list[int]]] = [
        ("tiles", "f32", [i for i, sample in enumerate(samples) if sample.kind == Kind.TILE]),
        ("copies", "bf16" if bf16 else "f32", [i for i, sample in enumerate(samples) if sample.kind != Kind.TILE]),
    ]
    with FeatureCache(
        folder, trunk.identity, feature_shapes(trunk, tile_px), limit_bytes=limit, report_line=report_line
    ) as cache:
        began, count = time.monotonic(), 0
        for name, precision, rows in parts:
            fills = [(keys[row], functools.partial(painter.paint, samples[row])) for row in rows]
            with _shown(progress, f"extracting features of {name}") as advance:
                count += extract(trunk, fills, cache, tile_px=tile_px, precision=precision, progress=advance)
        yield Extracted(Features(cache, keys, bf16=bf16), count, time.monotonic() - began)


@contextmanager
def _shown(progress: Progress | None, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a task while the context lasts; yield a function that gets the number of finished tiles and the total."""
    if progress is None:
        yield lambda done, total: None
        return
    task = progress.add_task(description, total=None)
    yield lambda done, total: progress.update(task, completed=done, total=total)
    progress.remove_task(task)
