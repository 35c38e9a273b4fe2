"""Makes a report of evaluations: one page, and the same tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from edge.errors import InputError
from train.evaluation.report.page import page
from train.evaluation.report.published import SOURCE
from train.evaluation.report.rows import Read, rows_of
from train.evaluation.report.sections import as_markdown, sections
from train.evaluation.result import read_evaluation
from train.files import write_whole

PAGE, TABLES = "report.html", "tables.md"
NOTES = (
    "Tiles are defective by the 1 % rule: more than 1 % of their pixels are. No peak is looked for in padding.",
    "The study's rule makes a mask of each tile by itself: the map is enlarged to the tile, stretched to 0..255 and "
    "cut off at 127; at a probability of at most 0.5 the mask is empty. Pixels are pooled over all tiles.",
    "The line's rule takes the heatmap that is stitched over the frame, in logits, where it reaches the evidence "
    "threshold. A frame is DEFECT if a tile reaches the score threshold.",
    "Pointing: share of defective tiles whose map has its peak on the truth; gated, tiles that the rule calls good "
    "count as missed; within a cell, a peak at most one map cell away counts too.",
    "Weighting: mean over defective tiles of the share of the map's positive evidence that lies on the truth "
    "(Raatikainen & Rahtu 2022).",
    "Folds, evaluations of one name, model and data with disjoint groups, are one row: the mean of their figures, each "
    "fold alike, and the sum of their counts; what one of them does not know is a dash.",
    "Only figures over the same pictures are compared: where rows rest on different folds, ranks come from those that "
    "all have, and no value of a table stands out.",
    "Ranks come from unrounded values; equal ones share the mean of their places. What is not known has no rank.",
    f"Published figures: {SOURCE}.",
)


def write_report(folders: Sequence[Path], out: Path, title: str = "heatline evaluation") -> tuple[Path, Path]:
    """Write `report.html` and `tables.md` from the evaluations in some folders; returns where they are.

    Args:
        folders: each with an `evaluation.json`, and its pictures as far as they were kept.
        out: made where it is not there.
    Raises:
        InputError: there is no folder, or one has no evaluation of this version.
        TrainingError: `out` cannot be written.
    """
    if not folders:
        raise InputError("no evaluation was named, a report needs at least one; name folders with an evaluation.json")
    reads = [Read(read_evaluation(folder), folder) for folder in folders]
    pictures = rows_of(reads)
    tables = sections(pictures)
    html, text = page(title, tables, pictures, NOTES), as_markdown(title, tables, NOTES)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); name another folder for the report") from error
    write_whole(out / PAGE, lambda place: place.write_text(html, encoding="utf-8"))
    write_whole(out / TABLES, lambda place: place.write_text(text, encoding="utf-8"))
    return out / PAGE, out / TABLES
