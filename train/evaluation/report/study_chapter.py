"""The optional last chapter of the report: the study's tables and charts, with its published figures beside ours."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from heatline.edge.util.page import Block, Chart, Section
from heatline.train.drawing import to_svg
from heatline.train.evaluation.report import charts, rank_tables, study_tables
from heatline.train.evaluation.report.alike import Comparison, compare_rows
from heatline.train.evaluation.report.metrics import STUDY_METRICS
from heatline.train.evaluation.report.pictures import embed_item, item_name
from heatline.train.evaluation.report.published import DATA_OF_STUDY, SOURCE, STUDY_DATA, TRAINING_OF_STUDY
from heatline.train.evaluation.report.rows import PictureSet

SWEPT = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "jaccard": "Jaccard",
    "accuracy": "accuracy",
    "pointing": "pointing",
    "pointing_gated": "pointing, gated",
    "weighting": "weighting",
}
"""Tables of a sweep that are drawn, with their titles."""
BARS = tuple(metric for metric in STUDY_METRICS if metric.field != "accuracy")
"""Without the accuracy of pixels, which is nearly 1 for every map."""

NOTES = (
    "The study's rule makes a mask of each tile by itself: the map is enlarged to the tile, stretched to 0..255 and "
    "thresholded at 127; at a probability of at most 0.5 the mask is empty. Pixels are pooled over all tiles.",
    "Pointing: share of defective tiles whose map has its peak on the truth. Pointing, gated: tiles that the rule "
    "classifies as good count as missed.",
    "Ranks are computed from unrounded values; equal values share the mean of their ranks. An unknown "
    "value has no rank.",
    f"Published figures: {SOURCE}. They were measured on other pictures ("
    + "; ".join(f"{name}, {pictures}" for name, pictures in DATA_OF_STUDY.items())
    + f"; {TRAINING_OF_STUDY}), and the study does not state that its split keeps pictures whole.",
)


def study_chapter(picture_sets: Sequence[PictureSet]) -> list[Section]:
    """Return all sections with content. Ranks need several rows."""
    each = [(pictures, truth) for pictures in picture_sets for truth in pictures.truths]
    several = [(pictures, truth) for pictures, truth in each if len(pictures.rows_with(truth)) > 1]
    published_ranks = [rank_tables.published_ranks(data) for data in STUDY_DATA]
    ranks = [
        Block(
            f"{pictures.data}, {truth}",
            tables=[rank_tables.study_ranks(pictures, truth), rank_tables.agreement(pictures, truth)],
        )
        for pictures, truth in several
    ]
    if ranks:
        ranks.append(Block("Published, and recomputed from the published values", tables=published_ranks))
    sections = [
        Section(
            "study-trainings",
            "Trainings, with the study's Tables 3.2 and 3.3",
            "Our trainings; below each, the best trials of the same model in the study.",
            [Block(pictures.data, tables=[study_tables.trials(pictures)]) for pictures in picture_sets],
        ),
        Section(
            "study-maps",
            "Maps by the study's rule",
            "Our figures; below each, the study's figures of the same model on its own data.",
            [
                Block(f"{pictures.data}, {truth}", tables=[study_tables.maps(pictures, truth)])
                for pictures, truth in each
            ],
        ),
        Section("study-ranks", "Ranks", "The lowest mean rank wins, as in the study.", ranks),
        _full_against_cut(picture_sets),
        _sweeps(picture_sets),
        _examples(picture_sets),
        _variants(
            picture_sets, "fusions", "Maps over fusions", "Fusion by min, mean and max, as in the study's Fig. 3.11."
        ),
        _variants(
            picture_sets,
            "ratios",
            "Maps over discard ratios",
            "Mean fusion at several discard ratios, as in the study's Fig. 3.12.",
        ),
    ]
    return [section for section in sections if section.blocks]


def _full_against_cut(picture_sets: Sequence[PictureSet]) -> Section:
    blocks = []
    for pictures in picture_sets:
        for truth in pictures.truths:
            rows = [row for row in pictures.rows_with(truth) if row.subject.family == "cnn"]
            block = Block(f"{pictures.data}, {truth}")
            for base in dict.fromkeys(row.subject.model.removesuffix("_d") for row in rows):
                fulls, cuts = ([row for row in rows if row.subject.model == name] for name in (base, f"{base}_d"))
                if not fulls or not cuts:
                    missing = base if not fulls else f"{base}_d"
                    block.notes.append(f"{base}: {missing} is missing; evaluate it too.")
                for full, cut in product(fulls, cuts):
                    common = compare_rows([full, cut], truth)
                    if common.is_possible:
                        block.charts.append(_bar_chart(common, truth))
                    else:
                        block.notes.append(common.warning)
            if rows and len(pictures.rows_with(truth)) > 1:
                blocks.append(block)
    return Section(
        "bars",
        "Full against cut",
        "A cut model (_d) ends at stride 16, so its map has four times the cells. Figures are by the study's rule, as "
        "in its Figs. 3.6 and 3.8.",
        blocks,
    )


def _bar_chart(common: Comparison, truth: str) -> Chart:
    full, cut = common.rows
    groups = [
        charts.Bars(metric.name, full.figure(truth, metric.own_field), cut.figure(truth, metric.own_field))
        for metric in BARS
    ]
    title = f"{full.label} against {cut.label}, {truth}"
    return Chart(to_svg(charts.bars(groups, (full.label, cut.label)), title), caption=common.warning)


def _sweeps(picture_sets: Sequence[PictureSet]) -> Section:
    blocks = []
    for pictures in picture_sets:
        for truth in pictures.truths:
            for row in pictures.rows_with(truth):
                sweep = row.sweep(truth)
                if sweep is None:
                    continue
                names = [f"{ratio:g}" for ratio in sweep.ratios]
                block = Block(f"{row.label}, {pictures.data}, {truth}")
                for table, name in SWEPT.items():
                    values = getattr(sweep, table)
                    if any(value is None for line in values for value in line):
                        reason = (
                            "no tile is defective" if len(row.folds) == 1 else "not every fold has a defective tile"
                        )
                        block.notes.append(f"{name}: not known, as {reason}.")
                    else:
                        block.charts.append(Chart(to_svg(charts.heatmap(values, sweep.fusions, names, name), name)))
                blocks.append(block)
    return Section(
        "sweeps",
        "Fusions and discard ratios",
        "Attention rollout for every fusion of heads and discard ratio, by the study's rule, as in its Fig. 3.10. "
        "The best cell is ringed; colours range from the lowest to the highest value of each chart.",
        blocks,
    )


def _examples(picture_sets: Sequence[PictureSet]) -> Section:
    blocks = []
    for pictures in picture_sets:
        for truth in pictures.truths:
            rows = [row for row in pictures.rows_with(truth) if row.gallery(truth, "example")]
            shown = [
                {item_name(item): embed_item(folder, item) for folder, item in row.gallery(truth, "example")}
                for row in rows
            ]
            for tile in sorted({tile for pictures_of in shown for tile in pictures_of}):
                of_tile = [
                    replace(pictures_of[tile], name=row.label)
                    for row, pictures_of in zip(rows, shown, strict=True)
                    if tile in pictures_of
                ]
                blocks.append(Block(f"{pictures.data}, {truth}: {tile}", pictures=of_tile))
    return Section(
        "examples",
        "Tile, truth, map",
        "The same tiles for every model, chosen by their names only. Each picture shows, from left to right, the tile, "
        "its truth and its map.",
        blocks,
    )


def _variants(picture_sets: Sequence[PictureSet], kind: str, title: str, intro: str) -> Section:
    blocks = [
        Block(
            f"{row.label}, {pictures.data}",
            pictures=[embed_item(folder, item) for folder, item in row.gallery(truth, kind)],
        )
        for pictures in picture_sets
        for row in pictures.rows
        for truth in [each for each in pictures.truths if row.gallery(each, kind)][:1]  # of one truth only
    ]
    return Section(kind, title, intro, blocks)
