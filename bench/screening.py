"""`heatline bench screening`: frames a second, latency and verdicts with a bundle's screening stage and without it."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import heatline.edge.cli  # noqa: F401  (keeps libraries to one thread, as the service does)
from heatline.bench.spread import Latency, Spread, interleaved
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.bundle.manifest import Grid
from heatline.edge.bundle.store import open_screening
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.inference import Precision
from heatline.edge.inspection.inspector import Inspector, PendingFrame, one_ahead
from heatline.edge.inspection.screening import ScreeningStage
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.reference.reference import Reference
from heatline.edge.util.sampling import evenly
from heatline.train.readers import LabelledImage
from heatline.train.references import References, marked_px
from heatline.train.run import TrainedRun

SHARES = (0.0, 0.05, 0.25, 0.5, 1.0)
"""Of the frames, those that show a defective picture."""
FRAMES, ROUNDS = 20, 5
LATENCY_AT, TIMED_ALONE = 0.05, 60
"""The share, and the number of frames, of which the latency is measured."""
MOST_PICTURES = 60
RATE = 0.8
"""Of the highest rate without the stage, at which their frames come."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of frames of which a share shows a defective picture."""

    defective: float
    run_in_full: float
    """Share of the tiles."""
    without_fps: Spread
    with_fps: Spread
    gain: Spread
    """Frames a second with the stage, divided by those without it in the same round."""
    changed: int
    """Verdicts that differ, in frames."""
    frames: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    precision: Precision
    size: str
    tiles: int
    """Mean of the frames."""
    rows: list[Row]
    latency_ms: dict[str, Latency]
    """From the time at which a frame is due until its verdict, `without` and `with` the stage."""


class Made(NamedTuple):
    """A picture of a frame, and what it is compared with, if anything."""

    rgb: NDArray[np.uint8]
    """[H, W, 3]"""
    reference: Reference | None = None


class Mosaics:
    """Frames of whole tiles of pictures side by side: of good pictures, and in a defective frame of one defective
    picture too. The line's tiles, without overlap, are these: a seam inside a tile would look like a defect."""

    def __init__(self, images: Sequence[LabelledImage], grid: Grid, hw: tuple[int, int]) -> None:
        self._rows, self._columns = (max(1, round(side / grid.tile_px)) for side in hw)
        self._good: list[NDArray[np.uint8]] = []
        self._defective: list[NDArray[np.uint8]] = []
        for defective in (False, True):
            chosen = [image for image in images if image.defective == defective]
            for at in evenly(len(chosen), MOST_PICTURES):
                rgb = chosen[at].pixels()
                hw, side = (rgb.shape[0], rgb.shape[1]), grid.tile_px
                of_picture = TileGrid(hw, side, grid.overlap_px)
                (self._defective if defective else self._good).append(of_picture.tiles(rgb))
        if not self._good or not self._defective:
            raise BenchError("the run has no good or no defective picture; screening is timed on both")

    def make(self, defective: bool, seed: int) -> Made:
        """Make a frame of good tiles; a defective one has those of one defective picture too."""
        random, rows, columns = np.random.default_rng(seed), self._rows, self._columns
        good = np.concatenate([self._good[at] for at in random.integers(len(self._good), size=8)])
        tiles = good[random.integers(len(good), size=rows * columns)]
        if defective:
            shown = self._defective[random.integers(len(self._defective))][: len(tiles)]
            tiles[random.permutation(len(tiles))[: len(shown)]] = shown
        side = tiles.shape[1]
        laid = tiles.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
        return Made(np.ascontiguousarray(laid.reshape(rows * side, columns * side, 3)))


class Pictures:
    """Frames of a product with a reference: its defective pictures; in a good frame, the reference covers the marks."""

    def __init__(self, images: Sequence[LabelledImage], references: References) -> None:
        marked = [image for image in images if image.defective and not image.labels_only]
        self._made: list[tuple[Made, Made]] = []
        for at in evenly(len(marked), FRAMES):
            rgb, reference = marked[at].pixels(), references.of(marked[at])
            pose, misaligned = (None, None) if reference is None else reference.pose_of(rgb)
            near = marked_px(marked[at], (rgb.shape[0], rgb.shape[1]))
            if reference is not None and pose is not None and misaligned is None and near is not None:
                good = np.where(near[..., None], reference.moved_to(pose), rgb)
                self._made.append((Made(good, reference), Made(rgb, reference)))
        if not self._made:
            raise BenchError("the run has no picture with marked defects and a reference; screening is timed on such")

    def make(self, defective: bool, seed: int) -> Made:
        """Return one of the frames."""
        return self._made[seed % len(self._made)][defective]


def measure_screening(
    bundle: Bundle,
    run: TrainedRun,
    hw: tuple[int, int],
    precision: Precision,
    report_line: Callable[[str], None],
) -> Found:
    """Measure in interleaved rounds, on frames made of the run's pictures.

    Args:
        hw: size of the frames, if they are compared with no reference; else the pictures have their own.
    Raises:
        BenchError: the bundle has no stage, or the run has no pictures for it.
    """
    stated, references = bundle.manifest.screening, run.references
    if stated is None or (bundle.manifest.tensors.difference is None) != (references is None):
        raise BenchError(f"{bundle.path} has no screening stage, or {run.folder} is not its run; export --screen")
    engine = open_verified_engine(bundle, precision=precision).engine
    tile_px, plausibility = bundle.manifest.grid.tile_px, bundle.screening_plausibility()
    stage = ScreeningStage(stated, open_screening(bundle), tile_px, plausibility)
    inspectors = {
        "without": Inspector(bundle.manifest, engine, overlap_px=0, plausibility=bundle.plausibility()),
        "with": Inspector(bundle.manifest, engine, overlap_px=0, plausibility=bundle.plausibility(), screening=stage),
    }
    images = run.data.images
    made = Mosaics(images, bundle.manifest.grid, hw) if references is None else Pictures(images, references)
    rows, latency = list[Row](), dict[str, Latency]()
    for share in SHARES:
        frames = [made.make((n * share) % 1 >= 1 - share - 1e-9 and share > 0, n) for n in range(FRAMES)]
        fps: dict[str, list[float]] = {name: [] for name in inspectors}
        judged: dict[str, list[Judgement]] = {}
        for order in interleaved(inspectors, ROUNDS):
            for name in order:
                began = time.perf_counter()
                judged[name] = list(_inspect(inspectors[name], frames))
                fps[name].append(FRAMES / (time.perf_counter() - began))
        seen = [each.screened for each in judged["with"]]
        ran = [1.0 if each is None else 1 - each.cleared / each.tiles for each in seen]
        row = Row(
            defective=share,
            run_in_full=float(np.mean(ran)),
            without_fps=Spread.of(fps["without"]),
            with_fps=Spread.of(fps["with"]),
            gain=Spread.of([b / a for a, b in zip(fps["without"], fps["with"], strict=True)]),
            changed=sum(a.verdict != b.verdict for a, b in zip(*judged.values(), strict=True)),
            frames=FRAMES,
        )
        rows.append(row)
        report_line(
            f"{share:.0%} of frames defective: {row.run_in_full:.0%} of tiles in full, {row.with_fps.median:.2f} "
            f"frames/s, without the stage {row.without_fps.median:.2f}: {row.gain.median:.2f} times; {row.changed} "
            "verdicts changed"
        )
        if share == LATENCY_AT:
            period_s = 1 / (RATE * row.without_fps.median)
            latency = {name: Latency.of(_latencies(each, frames, period_s)) for name, each in inspectors.items()}
    sizes = [f"{width}x{height}" for width, height in sorted({frame.rgb.shape[1::-1] for frame in frames})]
    tiles = [len(judgement.tiles.logits) for judgement in judged["without"]]
    return Found(
        precision=precision,
        size=" to ".join(sizes[:: max(1, len(sizes) - 1)]),
        tiles=round(np.mean(tiles)),
        rows=rows,
        latency_ms=latency,
    )


def _start(inspector: Inspector, number: int, made: Made) -> PendingFrame:
    return inspector.start(Frame(Stamp("bench", number), made.rgb, "RGB8"), reference=made.reference)


def _inspect(inspector: Inspector, frames: Sequence[Made]) -> Iterator[Judgement]:
    started = (_start(inspector, number, frame) for number, frame in enumerate(frames))
    return (inspector.finish(pending) for pending in one_ahead(started))


def _latencies(inspector: Inspector, frames: Sequence[Made], period_s: float) -> list[float]:
    """Return ms from the time at which each frame is due until its verdict."""
    began, found = time.perf_counter(), list[float]()
    for number, frame in enumerate(islice(cycle(frames), TIMED_ALONE)):
        due = began + number * period_s
        time.sleep(max(0.0, due - time.perf_counter()))
        inspector.finish(_start(inspector, number, frame))
        found.append(1e3 * (time.perf_counter() - due))
    return found
