"""Makes a report of evaluations: one page, and the same tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from edge.errors import InputError
from train.evaluation.report import charts, line_tables
from train.evaluation.report.line import line_view
from train.evaluation.report.rows import Pictures, Read, rows_of
from train.evaluation.report.sections import Block, Section, as_markdown
from train.evaluation.result import read_evaluation
from train.files import write_atomically

PAGE, TABLES = "report.html", "tables.md"
NOTES = (
    "A frame is DEFECT if a tile reaches the score threshold; its score is the highest logit of its tiles. One frame "
    "stands for one part.",
    "Intervals are 95 %, by a bootstrap over whole groups, as frames of one group are not independent. Where there are "
    "too few groups, or all resamples agree, there is none.",
    "A defect is hit if a region has its peak on it or within one map cell; a region near no defect is false. Regions "
    "are where the stitched heatmap reaches the evidence threshold.",
    "Tiles are defective if more than 1 % of their pixels are. Pixels are those of the line's regions, pooled over all "
    "frames.",
    "Folds, evaluations of one name, model and data with disjoint groups, are one row: the mean of their figures, each "
    "fold alike, and the sum of their counts; what one of them does not know is a dash.",
    "Only figures over the same pictures are compared: where rows rest on different folds, no value of a table stands "
    "out.",
)


def write_report(
    folders: Sequence[Path], out: Path, title: str = "heatline report", study: bool = False
) -> tuple[Path, Path]:
    """Write `report.html` and `tables.md` from the evaluations in some folders; returns where they are.

    Args:
        folders: each with an `evaluation.json`, and its pictures as far as they were kept.
        out: made where it is not there.
        study: whether the study's tables and published figures follow as a chapter of their own.
    Raises:
        InputError: there is no folder, or one has no evaluation of this version.
        TrainingError: `out` cannot be written.
    """
    if not folders:
        raise InputError("no evaluation was named, a report needs at least one; name folders with an evaluation.json")
    pictures = rows_of([Read(read_evaluation(folder), folder) for folder in folders])
    views = [line_view(row, its.truths[0] if its.truths else "") for its in pictures for row in its.rows]
    figures, chapter, notes = _figures(pictures), [], list(NOTES)
    if study:
        from train.evaluation.report import study_chapter

        chapter = study_chapter.study_chapter(pictures)
        notes += study_chapter.NOTES
    environment = Environment(
        loader=PackageLoader("train.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.jinja").render(
        title=title,
        intro=_intro(pictures),
        views=views,
        figures=figures,
        study=chapter,
        notes=notes,
        curve_box=charts.CURVE_BOX,
    )
    text = as_markdown(title, [figures, *chapter], notes)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); name another folder for the report") from error
    write_atomically(out / PAGE, lambda place: place.write_text(html, encoding="utf-8", errors="replace"))
    write_atomically(out / TABLES, lambda place: place.write_text(text, encoding="utf-8", errors="replace"))
    return out / PAGE, out / TABLES


def _figures(pictures: Sequence[Pictures]) -> Section:
    """The line's figures, by every truth."""
    blocks = []
    for its in pictures:
        for truth in its.truths:
            tables = [line_tables.frames(its, truth)]
            if any(row.count(truth, "tile.tiles") for row in its.against(truth)):
                tables.append(line_tables.tiles(its, truth))
            if (folds := line_tables.folds(its, truth)) is not None:
                tables.append(folds)
            blocks.append(Block(f"{its.data}, by {truth}", tables=tables))
        blocks.append(Block(f"{its.data}: thresholds", tables=[line_tables.thresholds(its)]))
    return Section("figures", "The line's figures", "At the calibrated thresholds.", blocks)


def _intro(pictures: Sequence[Pictures]) -> str:
    """What was evaluated, in a line."""
    rows = [row for its in pictures for row in its.rows]
    data = ", ".join(its.data for its in pictures)
    if len(rows) > 1:
        return f"{len(rows):,} models on {data}"
    told = rows[0].told
    return f"{told.model} ({told.kind} {told.name}, {told.engine}) on {data}"
