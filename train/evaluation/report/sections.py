"""The tables of the report in their order, for `tables.md` and the page alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from train.evaluation.report import rank_tables, tables
from train.evaluation.report.published import STUDY_DATA
from train.evaluation.report.rows import Pictures
from train.evaluation.report.table import Table, markdown


@dataclass(frozen=True)
class Part:
    """Tables below one heading."""

    heading: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Section:
    """Parts below one heading."""

    id: str
    title: str
    told: str
    parts: tuple[Part, ...]


def sections(pictures: Sequence[Pictures]) -> list[Section]:
    """All tables; the summary is first. Ranks and their agreement only where there are several rows to rank."""
    rows = [row for its in pictures for row in its.rows]
    their_ranks = tuple(rank_tables.published_ranks(data) for data in STUDY_DATA)
    each = [(its, truth) for its in pictures for truth in its.truths]
    several = [(its, truth) for its, truth in each if len(its.against(truth)) > 1]
    figures = [
        Section(
            "summary",
            "Summary",
            "The best value of a column stands out. A dash is a value that is not known.",
            tuple(Part(its.data, (tables.summary(its),)) for its in pictures),
        ),
        Section(
            "models",
            "Models and trainings",
            "",
            (
                Part("Size", (tables.sizes(rows),)),
                *(Part(its.data, (tables.training(its), tables.trials(its))) for its in pictures),
            ),
        ),
        Section(
            "maps",
            "Maps by the study's rule",
            "Ours, and below each the study's figures of the same model on its own data.",
            tuple(Part(f"{its.data}, {truth}", (tables.maps(its, truth),)) for its, truth in each),
        ),
        Section(
            "tiles",
            "Tiles",
            "By no threshold: how well logits tell tiles apart, and where maps peak.",
            tuple(
                Part(f"{its.data}, {truth}", (tables.tiles(its, truth), *_known(tables.folds(its, truth))))
                for its, truth in each
            ),
        ),
        Section(
            "line",
            "The line's rule",
            "What the line does: the heatmap in logits, stitched over the frame, above its thresholds.",
            (
                *(
                    Part(f"{its.data}, {truth}", (tables.line_rule(its, truth), tables.frames(its, truth)))
                    for its, truth in each
                ),
                *(Part(f"{its.data}: thresholds", (tables.thresholds(its),)) for its in pictures),
            ),
        ),
    ]
    if not several:  # a single row has no rank
        return figures
    return [
        *figures,
        Section(
            "ranks",
            "Ranks",
            "The lowest mean rank wins, as in the study.",
            (
                *(
                    Part(
                        f"{its.data}, {truth}", (rank_tables.study_ranks(its, truth), rank_tables.own_ranks(its, truth))
                    )
                    for its, truth in several
                ),
                Part("Published, and recomputed from the published values", their_ranks),
            ),
        ),
        Section(
            "agreement",
            "Do the rankings agree?",
            "",
            tuple(Part(f"{its.data}, {truth}", (rank_tables.agreement(its, truth),)) for its, truth in several),
        ),
    ]


def as_markdown(title: str, all_sections: Sequence[Section], notes: Sequence[str]) -> str:
    """All tables as one Markdown file."""
    parts = [f"# {' '.join(title.split())}\n"]
    for section in all_sections:
        parts.append(f"## {section.title}\n")
        parts += [section.told + "\n"] if section.told else []
        for part in section.parts:
            parts += [
                f"### {' '.join(part.heading.split())}\n",
                *(markdown(table, 4 if len(part.tables) > 1 else 0) for table in part.tables),
            ]
    parts.append("## Notes\n")
    parts += [f"- {note}" for note in notes]
    return "\n".join(parts) + "\n"


def _known(table: Table | None) -> tuple[Table, ...]:
    return () if table is None else (table,)
