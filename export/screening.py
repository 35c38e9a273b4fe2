"""Makes the screening stage of a bundle: its graph, the limit below which it clears tiles, and what that promises."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import SCREENING_GRAPH, SCREENING_TILES, Grid, Screening
from heatline.edge.cli.bundle_formatting import describe_screening
from heatline.edge.errors import InputError
from heatline.edge.inference import infer, open_engine
from heatline.edge.inspection.screening import expected_cleared
from heatline.export.onnx_graph import to_graphs
from heatline.export.openvino_ir import to_ir, write_graphs
from heatline.export.product import fit_product
from heatline.train.dense.screening import HeldOutTiles, train_screening
from heatline.train.models.dense import SCREENING_PX, ScreeningClassifier
from heatline.train.readers import LabelledImage
from heatline.train.run import TrainedRun

RUN_SHARE = 0.08
"""At least this share of good tiles runs in full, as a margin: it costs less than the small graph itself."""
MOST_SHARE = 0.5
"""If a larger share of good tiles would run in full, the stage does not pay."""


def lost_at_most(seen: int) -> float:
    """Return the upper bound of the share of tiles below the lowest of so many, with 95 % confidence: they are a
    tolerance limit that holds for every distribution (Wilks 1941, https://doi.org/10.1214/aoms/1177731788).

    >>> round(lost_at_most(2995), 4)
    0.001
    """
    return float(1 - 0.05 ** (1 / seen))


def choose_limit(held_out: HeldOutTiles, score: float) -> tuple[float, float]:
    """Return the logit below which tiles are cleared, and the share of good tiles that this clears.

    Of the held-out tiles that reach the score threshold, no defective one is cleared, nor all of a frame; else a good
    one may be, as the frame is inspected whole. The most doubtful good tiles are not cleared either.

    Raises:
        InputError: no defective held-out tile reaches the threshold.
    """
    reach, good = held_out.logit >= score, held_out.peak[:, held_out.is_good]
    lowest = held_out.peak.min(axis=0)
    defects = lowest[reach & ~held_out.is_good]
    if not len(defects) or not good.size:
        raise InputError(
            f"no defective held-out tile reaches the score threshold of {score:.2f}, or none is good, so nothing shows "
            "what a screening stage may clear; export without --screen"
        )
    frames = [lowest[reach & (held_out.frame == frame)].max() for frame in np.unique(held_out.frame[reach])]
    limit = min(float(defects.min()), float(min(frames)), float(np.quantile(good.max(axis=0), 1 - RUN_SHARE)))
    cleared = float((good < limit).mean(axis=1).min())
    return limit, cleared


class MadeScreening(NamedTuple):
    """What the screening stage adds to a bundle."""

    stated: Screening
    files: dict[str, bytes]
    cleared: list[float]
    """The share of each held-out good frame's tiles that it clears, by both answers of `HeldOutTiles.peak`."""


def _train_cheapest(
    run: TrainedRun, tile_px: int, score: float, say: Callable[[str], None]
) -> tuple[float, ScreeningClassifier, HeldOutTiles, float, float]:
    """Return what a good tile costs, of a whole one, the classifier, its tiles, its limit, and the share cleared."""
    best = None
    for seen_px in SCREENING_PX:
        own_cost = (seen_px / tile_px) ** 2
        if best is not None and best[0] <= own_cost + RUN_SHARE:
            break  # this one cannot be cheaper
        say(f"training a screening stage that sees tiles at {seen_px} px")
        model, held_out = train_screening(run, seen_px, say)
        limit, cleared = choose_limit(held_out, score)
        found = own_cost + 1 - cleared, model, held_out, limit, cleared
        best = min(best or found, found, key=lambda each: each[0])
    assert best is not None
    if (cleared := best[-1]) < 1 - MOST_SHARE:
        raise InputError(
            f"a screening stage that clears no known defect would clear {100 * cleared:.0f} % of the good tiles, and "
            f"pays from {100 * (1 - MOST_SHARE):.0f} % on; export without --screen"
        )
    return best


def make_screening(
    run: TrainedRun,
    images: Sequence[LabelledImage],
    grid: Grid,
    score: float,
    golden: NDArray[np.uint8],
    say: Callable[[str], None],
) -> MadeScreening | None:
    """Train and export the stage; None: it does not pay or cannot be shown to be safe, and `say` gets the reason.

    Args:
        images: frames of the product.
        score: the bundle's score threshold, logits.
        golden: the bundle's golden tiles [N, tile, tile, 3].
    """
    try:
        _, model, held_out, limit, cleared = _train_cheapest(run, grid.tile_px, score, say)
    except InputError as error:
        say(f"warning: the bundle gets no screening stage: {error}")
        return None
    ir = to_ir(to_graphs(model, grid.tile_px).onnx)
    with tempfile.TemporaryDirectory() as scratch:
        write_graphs(Path(scratch), ir.files(SCREENING_GRAPH))
        with contextlib.closing(open_engine("openvino", Path(scratch), grid.tile_px, graph=SCREENING_GRAPH)) as engine:
            plausibility, _ = fit_product(images, grid, engine, None)
            peaks = infer(engine, golden)[1].max(axis=(1, 2))
    frames = len(np.unique(held_out.frame[reach := held_out.logit >= score]))
    stated = Screening(
        clear_below=limit,
        score_threshold=score,
        detected=(detected := int((reach & ~held_out.is_good).sum())),
        lost_at_most=lost_at_most(detected),
        frames=frames,
        frames_lost_at_most=lost_at_most(frames),
        cleared=cleared,
        map_hw=model.map_hw,
        golden=peaks.tolist(),
        plausible=plausibility.plausible,
    )
    say(f"the screening stage {describe_screening(stated)} (95 % confidence)")
    files = ir.files(SCREENING_GRAPH)
    if plausibility.tiles is not None:
        files[SCREENING_TILES] = plausibility.tiles.to_bytes()
    good = np.setdiff1d(held_out.frame, held_out.frame[~held_out.is_good])
    below = [held_out.peak[:, held_out.frame == at] < limit for at in good]
    return MadeScreening(stated, files, [expected_cleared(of_model) for frame in below for of_model in frame])
