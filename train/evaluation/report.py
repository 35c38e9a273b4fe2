"""Write the report of evaluations: one page, and its tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.util.page import Block, Section, page_templates, sections_markdown
from heatline.train.evaluation import charts
from heatline.train.evaluation.line_view import line_view
from heatline.train.evaluation.result import read_evaluation
from heatline.train.evaluation.rows import (
    PictureSet,
    StoredEvaluation,
    folds_table,
    frames_table,
    make_rows,
    thresholds_table,
    tiles_table,
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
    "Evaluations of one name, model and data with disjoint groups are folds. They make one row: the mean of their "
    "figures, with equal weights, and the sum of their counts. A figure that a fold does not know is a dash.",
    "Only figures over the same pictures are compared: if rows rest on different folds, no value of the table is "
    "marked as the best.",
)


def write_report(
    folders: Sequence[Path],
    out: Path,
    title: str = "heatline report",
    study: bool = False,
    sections: Sequence[Section] = (),
) -> tuple[Path, Path]:
    """Write `report.html` and `tables.md` from stored evaluations; return their paths.

    Args:
        folders: each with an `evaluation.json` and its gallery; pictures may be missing.
        out: created if it does not exist.
        study: whether to add a chapter with the study's tables and published figures.
        sections: what is shown after the figures.
    Raises:
        InputError: no folder is given, or one has no evaluation of this version.
        TrainingError: `out` cannot be written.
    """
    if not folders:
        raise InputError(
            "no evaluation was named, and a report needs at least one; name folders with an evaluation.json"
        )
    picture_sets = make_rows([StoredEvaluation(read_evaluation(folder), folder) for folder in folders])
    of = [(pictures, row) for pictures in picture_sets for row in pictures.rows]
    views = [line_view(row, next(iter(pictures.truths), "")) for pictures, row in of]
    figures, chapter, notes = _figures(picture_sets), list[Section](), list(NOTES)
    if study:
        from heatline.train.evaluation import study_chapter

        chapter = study_chapter.study_chapter(picture_sets)
        notes += study_chapter.NOTES
    data = ", ".join(pictures.data for pictures in picture_sets)
    subject = of[0][1].subject
    one = f"{subject.model} ({subject.kind} {subject.name}, {subject.engine}) on {data}"
    warnings = [
        f"{row.label}: {warning}" if len(of) > 1 else warning
        for _, row in of
        for warning in dict.fromkeys(warning for fold in row.folds for warning in fold.evaluation.warnings)
    ]
    template = page_templates("heatline.train.evaluation").get_template("report.html.jinja")
    html = template.render(
        title=title,
        intro=one if len(of) == 1 else f"{len(of):,} models on {data}",
        warnings=warnings,
        views=views,
        figures=figures,
        sections=sections,
        study=chapter,
        notes=notes,
        curve_box=charts.CURVE_BOX,
    )
    missed = [Block(view["label"], tables=[view["kinds"]]) for view in views if view["kinds"] is not None]
    missed_by_kind = Section("kinds", "Missed by class and by size", "", missed)
    text = sections_markdown(title, [missed_by_kind, figures, *sections, *chapter], notes)
    make_folder(out, "--out")
    write_atomically(out / PAGE, lambda place: place.write_text(html, encoding="utf-8", errors="replace"))
    write_atomically(out / TABLES, lambda place: place.write_text(text, encoding="utf-8", errors="replace"))
    return out / PAGE, out / TABLES


def _figures(picture_sets: Sequence[PictureSet]) -> Section:
    """Return the section of the line's figures, by every truth."""
    blocks = []
    for pictures in picture_sets:
        for truth in pictures.truths:
            found = [frames_table(pictures, truth)]
            if any(row.count(truth, "tile.tiles") for row in pictures.rows_with(truth)):
                found.append(tiles_table(pictures, truth))
            if (of_folds := folds_table(pictures, truth)) is not None:
                found.append(of_folds)
            blocks.append(Block(f"{pictures.data}, by {truth}", tables=found))
        blocks.append(Block(f"{pictures.data}: thresholds", tables=[thresholds_table(pictures)]))
    return Section("figures", "The line's figures", "At the calibrated thresholds.", blocks)
