"""Write the report of evaluations: one page, and its tables as Markdown.

The page shows a slider for each model. It counts in logits above the threshold that judged each frame, as folds and
frames may have their own.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.heatmap_picture import OUTLINE_RGB, ColourScale
from heatline.edge.util.page import Block, Picture, Section, jpeg_uri, page_templates, sections_markdown
from heatline.train.evaluation import study_chapter
from heatline.train.evaluation.gallery import TRUTH_RGB, make_legend
from heatline.train.evaluation.result import FrameAnswer, read_evaluation
from heatline.train.evaluation.rows import (
    Row,
    StoredEvaluation,
    figure_tables,
    format_percent,
    kinds_table,
    make_rows,
    thresholds_table,
)
from heatline.train.files import make_folder, write_atomically

PAGE, TABLES = "report.html", "tables.md"
NOTES = (
    "A frame is judged DEFECT if its score reaches the score threshold. Its score is the highest logit of its tiles. "
    "One frame stands for one part.",
    "Intervals are 95 % intervals by a bootstrap over whole groups, as frames of one group are not independent. A "
    "figure has none if there are too few groups, or if all resamples give the same value.",
    "A defect is hit if a region has its peak on it or at most one map cell away. A region that is near no defect is "
    "false. Regions are the places where the stitched heatmap of a DEFECT frame reaches the evidence threshold.",
    "A tile is defective if more than 1 % of its pixels are. Figures of pixels compare the line's regions with the "
    "true defects, pooled over all frames.",
    "Evaluations of one name, model, data and truth with disjoint groups are folds. They make one row: the mean of "
    "their figures, with equal weights, and the sum of their counts. A figure that a fold does not know is a dash.",
    "Only figures over the same pictures are compared: if rows rest on different folds, no value of the table is "
    "marked as the best, and nothing is ranked.",
)
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
OUTLINES = {
    "true defect": TRUTH_RGB,
    "found: the regions of a DEFECT frame. A bright place without it lies in a tile below the score threshold: alone, "
    "it rejects nothing": OUTLINE_RGB,
}
SHOWS = "the frame with its true defects, its reference if it has one, and its heatmap with the regions found"


def write_report(
    folders: Sequence[Path],
    out: Path,
    title: str = "heatline report",
    study: bool = False,
    sections: Sequence[Section] = (),
) -> tuple[Path, Path]:
    """Write `report.html` and `tables.md` from stored evaluations; return their paths.

    Args:
        folders: at least one, each with an `evaluation.json` and its pictures, which may be missing.
        sections: what is shown after the figures.
    Raises:
        InputError: a folder has no evaluation of this version.
        TrainingError: `out` cannot be written.
    """
    picture_sets = make_rows([StoredEvaluation(read_evaluation(folder), folder) for folder in folders])
    rows = [row for pictures in picture_sets for row in pictures.rows]
    views = [_line_view(row) for row in rows]
    blocks = [Block(each.title, tables=[*figure_tables(each), thresholds_table(each.rows)]) for each in picture_sets]
    figures = Section("figures", "The line's figures", "At the calibrated thresholds.", blocks)
    chapter = study_chapter.study_chapter(picture_sets) if study else []
    notes = [*NOTES, *(study_chapter.NOTES if study else ())]
    subject = rows[0].subject
    one = f"{subject.model} ({subject.kind} {subject.name}, {subject.engine})"
    data = ", ".join(dict.fromkeys(pictures.data for pictures in picture_sets))
    warnings = [
        f"{row.label}: {warning}" if len(rows) > 1 else warning
        for row in rows
        for warning in dict.fromkeys(warning for fold in row.folds for warning in fold.evaluation.warnings)
    ]
    template = page_templates("heatline.train.evaluation").get_template("report.html.jinja")
    html = template.render(
        title=title,
        intro=f"{one if len(rows) == 1 else f'{len(rows):,} models'} on {data}",
        warnings=warnings,
        views=views,
        figures=figures,
        sections=sections,
        study=chapter,
        notes=notes,
    )
    missed = [Block(view["label"], tables=[view["kinds"]]) for view in views if view["kinds"] is not None]
    missed_by_kind = Section("kinds", "Missed by class and by size", "", missed)
    text = sections_markdown(title, [missed_by_kind, figures, *sections, *chapter], notes)
    make_folder(out, "--out")
    write_atomically(out / PAGE, lambda place: place.write_text(html, encoding="utf-8", errors="replace"))
    write_atomically(out / TABLES, lambda place: place.write_text(text, encoding="utf-8", errors="replace"))
    return out / PAGE, out / TABLES


class JudgedFrame(NamedTuple):
    """A frame, and what judged it."""

    above: float
    """Its score less the threshold that judged it: a frame of at least 0 is DEFECT."""
    frame: FrameAnswer
    folder: Path
    """Of its picture."""


def _line_view(row: Row) -> dict[str, Any]:
    """Return what `line.html.jinja` shows of one model; lists begin with the worst frame.

    `positions` and `start` hold the texts at each position of the slider, and at the calibrated threshold.
    """
    every = [
        JudgedFrame(frame.score - evaluation.threshold_of(frame), frame, folder)
        for evaluation, folder in row.folds
        for frame in evaluation.frames
    ]
    every.sort(key=lambda each: (each.above, each.frame.image))
    defective = [each for each in every if each.frame.defective]
    good = sorted((each for each in every if not each.frame.defective), key=lambda each: -each.above)  # stable
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
            {"name": frame.image, "note": f"{'defective' if frame.defective else 'good'}: {frame.why}"}
            for evaluation, _ in row.folds
            for frame in evaluation.implausible
        ],
        "most": NAMES,
        "kinds": kinds_table(row),
        "legend": _legend(row),
        "bars": _score_bars([each.above for each in good], [each.above for each in defective], places),
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


def _list_frames(frames: Sequence[JudgedFrame], places: NDArray[np.float64], digits: int) -> list[dict[str, Any]]:
    return [
        {"name": each.frame.image, "note": f"{each.frame.score:.{digits}f}", "at": _at(each, places)}
        for each in frames[:NAMES]
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


def _score_bars(
    good: Sequence[float], defective: Sequence[float], places: NDArray[np.float64]
) -> list[dict[str, float | str]]:
    """Return the histogram of scores along the slider: good frames above the axis, defective frames below it.

    Its bars are in percent of the chart's width and height. Heights are square roots of the counts. No bar lies on both
    sides of the calibrated threshold.
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
                left = 100 * (edge - low) / (high - low)
                bars.append({"left": left, "width": 90 / BINS, "top": top, "height": height, "colour": colour})
    return bars


def _legend(row: Row) -> dict[str, Any]:
    """Return the colour scale of the pictures. Folds have scales of their own, so with several it has no figures."""
    one, *others = (evaluation.calibration for evaluation, _ in row.folds)
    evidence, score = one.evidence_threshold, one.score_threshold
    marks = {f"region from {evidence:.2f} logits": evidence, f"frame DEFECT from {score:.2f} logits": score}
    if any(other != one for other in others):
        marks = {"region from the evidence threshold of its fold": evidence}
    return make_legend(
        ColourScale.around(evidence, one.background), marks, ("cold: as in good frames", "hot: a defect"), OUTLINES
    )
