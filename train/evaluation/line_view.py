"""The page's part on one model: the slider, the frames on its wrong side, and their pictures.

The slider counts in logits above the threshold that judged each frame, as folds and frames may have their own.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.heatmap_picture import OUTLINE_RGB, ColourScale
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.util.page import Picture, jpeg_uri
from heatline.train.evaluation.gallery import TRUTH_RGB, make_legend
from heatline.train.evaluation.result import FrameAnswer
from heatline.train.evaluation.rows import Row, format_percent, kinds_table

NAMES = 30
"""Highest number of names in a list; the others are counted."""
POSITIONS = 250
"""Highest number of the slider's steps between the lowest and the highest score."""
BINS = 60
LEAST_HEIGHT = 2.5
"""Least height of a bar, in percent of the chart's, so that a single frame is visible."""
GOOD_COLOUR, DEFECTIVE_COLOUR = "#6c8ebf", "#d98032"
"""Two hues that colour-blind readers can distinguish, also by lightness."""
NOT_A_RATE = "not a rate: these frames set the threshold"
SHOWS = "the frame with its true defects, its reference if it has one, and its heatmap with the regions found"


class JudgedFrame(NamedTuple):
    """A frame, and what judged it."""

    above: float
    """Its score less the threshold that judged it: a frame of at least 0 is DEFECT."""
    frame: FrameAnswer
    folder: Path
    """Of its picture."""


class ListedFrame(NamedTuple):
    """A frame in a list."""

    name: str
    note: str
    at: int | None = None
    """First position of the slider that judges it GOOD; None if it does not follow the slider."""


class Bar(NamedTuple):
    """A bar of the chart of scores, in percent of its width and height."""

    left: float
    width: float
    top: float
    height: float
    colour: str


def line_view(row: Row) -> dict[str, Any]:
    """Return what `line.html.jinja` shows of one model; lists begin with the worst frame.

    `positions` and `start` hold the texts at each position of the slider, and at the calibrated threshold.
    """
    every = [
        JudgedFrame(frame.score - evaluation.threshold_of(frame), frame, folder)
        for evaluation, folder in row.folds
        for frame in evaluation.frames
    ]
    defective = sorted(
        (each for each in every if each.frame.defective), key=lambda each: (each.above, each.frame.image)
    )
    good = sorted(
        (each for each in every if not each.frame.defective), key=lambda each: (-each.above, each.frame.image)
    )
    places, start, digits = slider_places([each.above for each in every])
    missed = np.searchsorted([each.above for each in defective], places).tolist()
    rejected = (len(good) - np.searchsorted([each.above for each in reversed(good)], places)).tolist()
    thresholds = {evaluation.calibration.score_threshold for evaluation, _ in row.folds}
    zero = thresholds.pop() if len(thresholds) == 1 else None
    is_rate = not any(evaluation.set_threshold for evaluation, _ in row.folds)
    positions = {
        # Rounded before it is added: else two positions would show one number where all sums end in a 5.
        "threshold": [f"{place + round(zero or 0.0, digits):.{digits}f}" for place in places.tolist()],
        "missed": missed,
        "rejected": rejected,
        "missedShare": _shares(missed, len(defective), start, row.interval("frame.escape_rate")),
        "rejectedShare": _shares(rejected, len(good), start, row.interval("frame.false_reject_rate"))
        if is_rate
        else [NOT_A_RATE] * len(rejected),
        "defective": len(defective),
        "good": len(good),
        "start": start,
    }
    counts = {
        "missed": missed[start],
        "rejected": rejected[start],
        "caught": len(defective) - missed[start],
        "passed": len(good) - rejected[start],
    }
    return {
        "label": row.label,
        "rests_on": list(dict.fromkeys(evaluation.rests_on for evaluation, _ in row.folds)),
        "scale": "logits" if zero is not None else "logits above the threshold of each fold",
        "positions": positions,
        "start": {
            **{name: f"{number:,}" for name, number in counts.items()},
            **{name: positions[name][start] for name in ("threshold", "missedShare", "rejectedShare")},
        },
        "missed": _list_frames(defective, places, digits),
        "rejected": _list_frames(good, places, digits),
        "pictures": {"missed": _pictures(defective, places, digits), "rejected": _pictures(good, places, digits)},
        "no_verdict": [
            ListedFrame(frame.image, f"{'defective' if frame.defective else 'good'}: {frame.why}")
            for evaluation, _ in row.folds
            for frame in evaluation.implausible
        ],
        "most": NAMES,
        "kinds": kinds_table(row),
        "legend": _legend(row),
        "bars": score_bars([each.above for each in good], [each.above for each in defective], places),
    }


def slider_places(above: Sequence[float]) -> tuple[NDArray[np.float64], int, int]:
    """Return the positions of the slider, the number of the calibrated one, and the decimals that tell them apart.

    They are evenly spaced logits above the calibrated threshold; the first rejects every frame, the last none.
    """
    low, high = min(0.0, *above, 0.0), max(0.0, *above, 0.0)
    power = 10.0 ** math.floor(math.log10(max((high - low) / POSITIONS, 0.001)))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= (high - low) / POSITIONS)
    before, after = (math.ceil(reach / step) + 1 for reach in (-low, high))
    places = np.asarray(step * np.arange(-before, after + 1), np.float64)
    return places, before, 2 if step >= 0.01 else 3


def _shares(counts: Sequence[int], total: int, start: int, interval: tuple[float, float] | None) -> list[str]:
    """Return the share at each position, with the interval at the calibrated threshold."""
    if not total:
        return ["not known"] * len(counts)
    return [format_percent(some / total, interval if at == start else None) for at, some in enumerate(counts)]


def _at(judged: JudgedFrame, places: NDArray[np.float64]) -> int:
    """Return the first position that judges a frame GOOD; before it, the verdict is DEFECT."""
    return int(np.searchsorted(places, judged.above, side="right"))


def _list_frames(frames: Sequence[JudgedFrame], places: NDArray[np.float64], digits: int) -> list[ListedFrame]:
    return [
        ListedFrame(each.frame.image, f"{each.frame.score:.{digits}f}", _at(each, places)) for each in frames[:NAMES]
    ]


def _pictures(frames: Sequence[JudgedFrame], places: NDArray[np.float64], digits: int) -> list[Picture]:
    """Embed the frames that have a picture; without it if it is missing or cannot be read."""
    pictures = []
    for each in frames:
        if each.frame.picture is not None:
            file = each.folder / each.frame.picture
            data = np.fromfile(file, np.uint8) if file.is_file() else np.zeros(0, np.uint8)  # of any path
            bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            uri = None if bgr is None else jpeg_uri(np.asarray(bgr, np.uint8))
            caption = f"score {each.frame.score:.{digits}f}"
            pictures.append(Picture(uri, each.frame.image, caption, SHOWS, _at(each, places)))
    return pictures


def score_bars(good: Sequence[float], defective: Sequence[float], places: NDArray[np.float64]) -> list[Bar]:
    """Return the histogram of scores along the slider: good frames above the axis, defective frames below it.

    Heights are square roots of the counts. No bar lies on both sides of the calibrated threshold.
    """
    low, high = float(places[0]), float(places[-1])
    width = (high - low) / BINS
    edges = width * np.arange(-math.ceil(-low / width), math.ceil(high / width) + 1)
    counts = [np.histogram(scores, edges)[0].tolist() for scores in (good, defective)]
    most = max(1, *(count for of_label in counts for count in of_label))
    bars = []
    for of_label, colour in zip(counts, (GOOD_COLOUR, DEFECTIVE_COLOUR), strict=True):
        for edge, count in zip(edges.tolist(), of_label, strict=False):
            if count:
                height = max(LEAST_HEIGHT, 50 * math.sqrt(count / most))
                top = 50 - height if colour == GOOD_COLOUR else 50.0
                bars.append(Bar(100 * (edge - low) / (high - low), 90 / BINS, top, height, colour))
    return bars


def _legend(row: Row) -> dict[str, Any]:
    """Return the colour scale of the pictures. Folds have scales of their own, so with several it has no figures."""
    one, *others = (evaluation.calibration for evaluation, _ in row.folds)
    thresholds = Thresholds.of(one)
    marks = {
        f"region from {thresholds.evidence:.2f} logits": thresholds.evidence,
        f"frame DEFECT from {thresholds.score:.2f} logits": thresholds.score,
    }
    if any(other != one for other in others):
        marks = {"region from the evidence threshold of its fold": thresholds.evidence}
    found = (
        "found: the regions of a DEFECT frame. "
        "A bright place without it lies in a tile below the score threshold: alone, it rejects nothing"
    )
    return make_legend(
        ColourScale.around(thresholds.evidence, one.background),
        marks,
        ("cold: as in good frames", "hot: a defect"),
        {"true defect": TRUTH_RGB, found: OUTLINE_RGB},
    )
