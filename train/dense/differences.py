"""The differences of all samples of a training to their references, computed once before the training."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import CELL_PX, CHANNELS, to_grey
from heatline.train.dense.cache import Features
from heatline.train.dense.copies import Kind, Painter, Sample
from heatline.train.frames import FrameStore
from heatline.train.references import References

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


class ComparedFeatures(Features):
    """Features of the trunk, followed by the differences of the same samples.

    Args:
        differences: uint8 [N, cells, cells, CHANNELS].
    """

    def __init__(self, features: Features, differences: NDArray[np.uint8]) -> None:
        self._features, self._differences = features, differences

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return (*self._features[rows], self._differences[rows])

    def exact(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return (*self._features.exact(rows), self._differences[rows])
