"""The study's chapter: its tables and drawings, ours beside its published figures. It stands last, where asked for."""

from collections.abc import Sequence
from itertools import product

from train.drawing import to_svg
from train.evaluation.report import charts, rank_tables, study_tables
from train.evaluation.report.alike import Compared, compared
from train.evaluation.report.metrics import STUDY_METRICS
from train.evaluation.report.pictures import name_of, picture
from train.evaluation.report.published import DATA_OF_STUDY, SOURCE, STUDY_DATA, TRAINING_OF_STUDY
from train.evaluation.report.rows import Pictures
from train.evaluation.report.sections import Block, Chart, PictureTable, Section

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
"""Tables of a sweep that are drawn, by what they are called."""
BARS = tuple(metric for metric in STUDY_METRICS if metric.field != "accuracy")
"""Accuracy of pixels is nearly 1 for every map: its bars would all be of one height."""

NOTES = (
    "The study's rule makes a mask of each tile by itself: the map is enlarged to the tile, stretched to 0..255 and "
    "cut off at 127; at a probability of at most 0.5 the mask is empty. Pixels are pooled over all tiles.",
    "Pointing: share of defective tiles whose map has its peak on the truth; gated, tiles that the rule calls good "
    "count as missed.",
    "Ranks come from unrounded values; equal ones share the mean of their places. What is not known has no rank.",
    f"Published figures: {SOURCE}. They are of other pictures ("
    + "; ".join(f"{name}, {what}" for name, what in DATA_OF_STUDY.items())
    + f"; {TRAINING_OF_STUDY}), and the study does not say that its split keeps pictures whole.",
)


def study_chapter(pictures: Sequence[Pictures]) -> list[Section]:
    """All sections that have something to show. Ranks only where there are several rows to rank."""
    each = [(its, truth) for its in pictures for truth in its.truths]
    several = [(its, truth) for its, truth in each if len(its.against(truth)) > 1]
    their_ranks = [rank_tables.published_ranks(data) for data in STUDY_DATA]
    ranks = [
        Block(f"{its.data}, {truth}", tables=[rank_tables.study_ranks(its, truth), rank_tables.agreement(its, truth)])
        for its, truth in several
    ]
    if ranks:
        ranks.append(Block("Published, and recomputed from the published values", tables=their_ranks))
    sections = [
        Section(
            "study-trainings",
            "Trainings, beside its Tables 3.2 and 3.3",
            "Ours, and below each the best trials of the same model in the study.",
            [Block(its.data, tables=[study_tables.trials(its)]) for its in pictures],
        ),
        Section(
            "study-maps",
            "Maps by the study's rule",
            "Ours, and below each the study's figures of the same model on its own data.",
            [Block(f"{its.data}, {truth}", tables=[study_tables.maps(its, truth)]) for its, truth in each],
        ),
        Section("study-ranks", "Ranks", "The lowest mean rank wins, as in the study.", ranks),
        _full_against_cut(pictures),
        _sweeps(pictures),
        _examples(pictures),
        _variants(pictures, "fusions", "Maps over fusions", "By min, mean and max, as in the study's Fig. 3.11."),
        _variants(pictures, "ratios", "Maps over discard ratios", "As in the study's Fig. 3.12."),
    ]
    return [section for section in sections if section.blocks]


def _full_against_cut(pictures: Sequence[Pictures]) -> Section:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            rows = [row for row in its.against(truth) if row.told.family == "cnn"]
            block = Block(f"{its.data}, {truth}")
            for base in dict.fromkeys(row.told.model.removesuffix("_d") for row in rows):
                fulls, cuts = ([row for row in rows if row.told.model == name] for name in (base, f"{base}_d"))
                if not fulls or not cuts:
                    missing = base if not fulls else f"{base}_d"
                    block.notes.append(f"{base}: its pair is missing; evaluate {missing} too.")
                for full, cut in product(fulls, cuts):
                    among = compared([full, cut], truth)
                    if among.is_possible:
                        block.charts.append(_pair(among, truth))
                    else:
                        block.notes.append(among.warning)
            if rows and len(its.against(truth)) > 1:
                blocks.append(block)
    return Section(
        "bars",
        "Full against cut",
        "A cut model (_d) ends at stride 16: its map has four times the cells. By the study's rule; its own Figs. 3.6 "
        "and 3.8 compare the same.",
        blocks,
    )


def _pair(among: Compared, truth: str) -> Chart:
    full, cut = among.rows
    groups = [
        charts.Bars(metric.name, full.figure(truth, metric.own), cut.figure(truth, metric.own)) for metric in BARS
    ]
    title = f"{full.label} against {cut.label}, {truth}"
    return Chart(to_svg(charts.bars(groups, (full.label, cut.label)), title), caption=among.warning)


def _sweeps(pictures: Sequence[Pictures]) -> Section:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            for row in its.against(truth):
                sweep = row.sweep(truth)
                if sweep is None:
                    continue
                names = [f"{ratio:g}" for ratio in sweep.ratios]
                block = Block(f"{row.label}, {its.data}, {truth}")
                for table, name in SWEPT.items():
                    values = getattr(sweep, table)
                    if any(value is None for line in values for value in line):
                        why = "no tile is defective" if len(row.folds) == 1 else "not every fold has a defective tile"
                        block.notes.append(f"{name}: not known, as {why}.")
                    else:
                        block.charts.append(Chart(to_svg(charts.heatmap(values, sweep.fusions, names, name), name)))
                blocks.append(block)
    return Section(
        "sweeps",
        "Fusions and discard ratios",
        "Attention rollout under every fusion of heads and discard ratio, by the study's rule, as in its Fig. 3.10. "
        "The best cell is ringed; colours run from the lowest to the highest value of each chart.",
        blocks,
    )


def _examples(pictures: Sequence[Pictures]) -> Section:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            rows = [row for row in its.against(truth) if row.gallery(truth, "example")]
            shown = [
                {name_of(one): picture(folder, one) for folder, one in row.gallery(truth, "example")} for row in rows
            ]
            tiles = sorted({tile for pictures_of in shown for tile in pictures_of})
            if tiles:
                table = PictureTable(
                    [row.label for row in rows],
                    [(name, [pictures_of.get(name) for pictures_of in shown]) for name in tiles],
                )
                blocks.append(Block(f"{its.data}, {truth}", pictures=table))
    return Section(
        "examples",
        "Tile, truth, map",
        "The same tiles for every model, chosen by their names alone. In each picture, left to right: the tile, its "
        "truth, its map.",
        blocks,
    )


def _variants(pictures: Sequence[Pictures], kind: str, title: str, intro: str) -> Section:
    blocks = [
        Block(f"{row.label}, {its.data}", strip=[picture(folder, one) for folder, one in row.gallery(truth, kind)])
        for its in pictures
        for row in its.rows
        for truth in [one for one in its.truths if row.gallery(one, kind)][:1]  # no truth is drawn in them
    ]
    return Section(kind, title, intro, blocks)
