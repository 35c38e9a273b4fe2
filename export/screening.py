"""Makes the screening stage of a bundle: its graph, the limit below which it clears tiles, and what that promises."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from heatline.edge.bundle.golden import GoldenTiles
from heatline.edge.bundle.manifest import SCREENING_GRAPH, SCREENING_TILES, Grid, Screening
from heatline.edge.cli.bundle_formatting import describe_screening
from heatline.edge.errors import InputError, TrainingError
from heatline.edge.inference import infer, open_engine
from heatline.edge.inference.engine import ReducingEngine
from heatline.edge.inspection.screening import cost_of, expected_cleared
from heatline.export.onnx_graph import to_graphs
from heatline.export.openvino_ir import to_ir, write_graphs
from heatline.export.product import fit_product
from heatline.train.dense.screening import HeldOutTiles, train_screening
from heatline.train.models.dense import MAP_STRIDE, STRIDES, DenseClassifier
from heatline.train.readers import LabelledImage
from heatline.train.run import TrainedRun

SEEN_SIDES = 2 / 7, 1 / 2
"""Sides at which the small graph may see a tile, as shares of its own: 64 and 112 of 224 px."""
RUN_SHARE = 0.05
"""At least this share of good tiles runs in full, as a margin."""
PROMISING = 2995
"""Held-out frames of which none changes, to show that of new ones at most 0.1 % do (`lost_at_most`)."""
MOST_COST = 0.7
"""If screening and inspecting good tiles takes a larger share of the time without the stage, it does not pay."""


def lost_at_most(seen: int) -> float:
    """Return the upper bound of the share of tiles below the lowest of so many, with 95 % confidence: they are a
    tolerance limit that holds for every distribution (Wilks 1941, https://doi.org/10.1214/aoms/1177731788).

    >>> round(lost_at_most(2995), 4)
    0.001
    """
    return float(1 - 0.05 ** (1 / seen))


def choose_limit(held_out: HeldOutTiles, score: float) -> tuple[float, float]:
    """Return the logit below which tiles are cleared, and the share of good tiles that this clears.

    Of the held-out tiles that reach the score threshold, not all of a defect are cleared, nor all of a frame; others
    may be, as the frame is inspected whole. The most doubtful good tiles are not cleared either. Good tiles are those
    of good frames, if there are any: a good tile beside a defect runs in full all the same.

    Raises:
        InputError: no held-out tile of a defect reaches the threshold.
    """
    reach, lowest = held_out.logit >= score, held_out.peak.min(axis=0)
    of_good = held_out.is_good & np.isin(held_out.frame, held_out.good_frames)
    good = held_out.peak[:, of_good if of_good.any() else held_out.is_good]
    defects = held_out.detected(score)
    if not defects or not good.size:
        raise InputError(
            f"no held-out tile of a defect reaches the score threshold of {score:.2f}, or none is good, so nothing "
            "shows what a screening stage may clear; export without --screen"
        )
    frames = [np.flatnonzero(reach & (held_out.frame == frame)) for frame in np.unique(held_out.frame[reach])]
    known = min(float(lowest[rows].max()) for rows in (*defects, *frames))
    limit = min(known, float(np.quantile(good.max(axis=0), 1 - RUN_SHARE)))
    return limit, float((good < limit).mean(axis=1).min())


class MadeScreening(NamedTuple):
    """What the screening stage adds to a bundle."""

    stated: Screening
    files: dict[str, bytes]
    cleared: list[float]
    """The share of each held-out good frame's tiles that it clears, by both answers of `HeldOutTiles.peak`."""


class _Trained(NamedTuple):
    """A trained stage."""

    cost: float
    """Share of the time without the stage that a good tile takes."""
    seen_px: int
    model: DenseClassifier
    held_out: HeldOutTiles
    limit: float
    cleared: float


def _train_cheapest(run: TrainedRun, tile_px: int, score: float, say: Callable[[str], None]) -> _Trained:
    best: _Trained | None = None
    for seen_px in (round(share * tile_px) for share in SEEN_SIDES):
        own_cost, cells = cost_of(seen_px, tile_px), seen_px // MAP_STRIDE
        if seen_px % STRIDES[-1] or tile_px % cells or (best and best.cost <= own_cost + RUN_SHARE):
            continue  # the trunk or the map cannot divide it, or it cannot be cheaper
        say(f"training a screening stage that sees tiles at {seen_px} px")
        model, held_out = train_screening(run, seen_px, say)
        limit, cleared = choose_limit(held_out, score)
        found = _Trained(own_cost + 1 - cleared, seen_px, model, held_out, limit, cleared)
        best = found if best is None or found.cost < best.cost else best
    if best is None:
        raise InputError(f"tiles of {tile_px} px cannot be seen at 2/7 or half of their side, which must divide by 16")
    if best.cost > MOST_COST:
        raise InputError(
            f"with a screening stage that changes no known verdict, good tiles would take {100 * best.cost:.0f} % of "
            f"the time, and it pays up to {100 * MOST_COST:.0f} %; export without --screen"
        )
    return best


def make_screening(
    run: TrainedRun,
    images: Sequence[LabelledImage],
    grid: Grid,
    score: float,
    golden: GoldenTiles,
    say: Callable[[str], None],
) -> MadeScreening | None:
    """Train and export the stage; None: it does not pay or cannot be shown to be safe, and `say` gets the reason.

    Args:
        images: frames of the product.
        score: the bundle's score threshold, logits.
        golden: the bundle's.
    """
    try:
        _, seen_px, model, held_out, limit, cleared = _train_cheapest(run, grid.tile_px, score, say)
    except (InputError, TrainingError) as error:
        say(f"warning: the bundle gets no screening stage: {error}")
        return None
    ir = to_ir(to_graphs(model, seen_px).onnx)
    with tempfile.TemporaryDirectory() as scratch:
        write_graphs(Path(scratch), ir.files(SCREENING_GRAPH))
        small = open_engine("openvino", Path(scratch), seen_px, graph=SCREENING_GRAPH)
        with contextlib.closing(ReducingEngine(small, grid.tile_px)) as engine:
            plausibility, _ = fit_product(images, grid, engine, None)
            peaks = infer(engine, golden.tiles, golden.difference)[1].max(axis=(1, 2))
    frames = len(np.unique(held_out.frame[held_out.logit >= score]))
    stated = Screening(
        clear_below=limit,
        score_threshold=score,
        detected=(detected := len(held_out.detected(score))),
        lost_at_most=lost_at_most(detected),
        frames=frames,
        frames_lost_at_most=lost_at_most(frames),
        cleared=cleared,
        seen_px=seen_px,
        map_hw=model.map_hw,
        golden=peaks.tolist(),
        plausible=plausibility.plausible,
    )
    say(f"screening stage: {describe_screening(stated, score)}")
    if frames < PROMISING:
        say(f"a bound of 0.1 % needs {PROMISING} held-out DEFECT frames, and there are {frames}")
    files = ir.files(SCREENING_GRAPH)
    if plausibility.tiles is not None:
        files[SCREENING_TILES] = plausibility.tiles.to_bytes()
    below = [held_out.peak[:, held_out.frame == at] < limit for at in held_out.good_frames]
    return MadeScreening(stated, files, [expected_cleared(of_model) for frame in below for of_model in frame])
