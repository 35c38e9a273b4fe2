"""Write the report of evaluations: one page, and its tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from heatline.edge.errors import InputError
from heatline.edge.util.page import Block, Section, page_templates, sections_markdown
from heatline.train.evaluation import study_chapter
from heatline.train.evaluation.line_view import line_view
from heatline.train.evaluation.result import read_evaluation
from heatline.train.evaluation.rows import StoredEvaluation, figure_tables, make_rows, thresholds_table
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


def write_report(
    folders: Sequence[Path],
    out: Path,
    title: str = "heatline report",
    study: bool = False,
    sections: Sequence[Section] = (),
) -> tuple[Path, Path]:
    """Write `report.html` and `tables.md` from stored evaluations; return their paths.

    Args:
        folders: each with an `evaluation.json` and its pictures, which may be missing.
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
    rows = [row for pictures in picture_sets for row in pictures.rows]
    views = [line_view(row) for row in rows]
    blocks = []
    for pictures in picture_sets:
        tables = [*figure_tables(pictures), thresholds_table(pictures.rows)]
        blocks.append(Block(pictures.title, tables=tables))
    figures = Section("figures", "The line's figures", "At the calibrated thresholds.", blocks)
    chapter = study_chapter.study_chapter(picture_sets) if study else []
    notes = [*NOTES, *(study_chapter.NOTES if study else ())]
    data = ", ".join(dict.fromkeys(pictures.data for pictures in picture_sets))
    subject = rows[0].subject
    one = f"{subject.model} ({subject.kind} {subject.name}, {subject.engine}) on {data}"
    warnings = [
        f"{row.label}: {warning}" if len(rows) > 1 else warning
        for row in rows
        for warning in dict.fromkeys(warning for fold in row.folds for warning in fold.evaluation.warnings)
    ]
    template = page_templates("heatline.train.evaluation").get_template("report.html.jinja")
    html = template.render(
        title=title,
        intro=one if len(rows) == 1 else f"{len(rows):,} models on {data}",
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
