"""The report as one HTML page that needs no other file and asks nothing of any network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import cv2
import msgspec
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from train.evaluation.explorer import Explorer
from train.evaluation.report import charts
from train.evaluation.report.alike import Compared, compared
from train.evaluation.report.metrics import STUDY_METRICS
from train.evaluation.report.rows import Pictures, Row
from train.evaluation.report.sections import Section
from train.evaluation.report.table import Table
from train.evaluation.result import Exhibit

JPEG_QUALITY = 88
NOT_KEPT = "picture not kept"
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


@dataclass(frozen=True)
class Picture:
    """A picture, or the words that it is not there."""

    uri: str | None
    alt: str
    caption: str
    name: str = ""
    """Of the tile."""


@dataclass(frozen=True)
class PictureTable:
    """Rows of tiles, a column per model."""

    heads: list[str]
    rows: list[tuple[str, list[Picture | None]]]


@dataclass(frozen=True)
class Chart:
    """A drawing, and what the page's script moves along it."""

    svg: Markup
    heading: str = ""
    caption: str = ""
    curve: str = ""
    """JSON: the points of an explorer, what is said of each, and at which one the slider starts."""


@dataclass
class Block:
    """What stands below one heading."""

    heading: str
    told: list[str] = field(default_factory=list)
    tables: Sequence[Table] = ()
    charts: list[Chart] = field(default_factory=list)
    pictures: PictureTable | None = None
    strip: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class PageSection:
    """A section with its place in the table of contents."""

    id: str
    title: str
    told: str
    blocks: list[Block]


def page(title: str, sections: Sequence[Section], pictures: Sequence[Pictures], notes: Sequence[str]) -> str:
    """The page's text.

    Args:
        sections: of tables, as in `tables.md`; the first is the summary.
        notes: paragraphs that say how the figures are had.
    """
    tabled = [
        PageSection(one.id, one.title, one.told, [Block(part.heading, tables=part.tables) for part in one.parts])
        for one in sections
    ]
    drawn = [
        _full_against_cut(pictures),
        _sweeps(pictures),
        _examples(pictures),
        _variants(pictures, "fusions"),
        _variants(pictures, "ratios"),
        _failures(pictures),
        _explorers(pictures),
    ]
    environment = Environment(
        loader=PackageLoader("train.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        sections=[*tabled, *(section for section in drawn if section.blocks)],
        notes=notes,
        not_kept=NOT_KEPT,
        plot={"left": charts.PLOT_LEFT, "top": charts.PLOT_TOP, "side": charts.PLOT_SIDE},
    )


def _full_against_cut(pictures: Sequence[Pictures]) -> PageSection:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            rows = [row for row in its.against(truth) if row.told.family == "cnn"]
            block = Block(f"{its.data}, {truth}")
            for base in dict.fromkeys(row.told.model.removesuffix("_d") for row in rows):
                fulls, cuts = ([row for row in rows if row.told.model == name] for name in (base, f"{base}_d"))
                if not fulls or not cuts:
                    missing = base if not fulls else f"{base}_d"
                    block.told.append(f"{base}: its pair is missing; evaluate {missing} too.")
                for full, cut in product(fulls, cuts):
                    among = compared([full, cut], truth)
                    if among.is_possible:
                        block.charts.append(_pair(among, truth))
                    else:
                        block.told.append(among.warning)
            if rows and len(its.against(truth)) > 1:
                blocks.append(block)
    return PageSection(
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
    return Chart(Markup(charts.bars(groups, title, (full.label, cut.label))), caption=among.warning)


def _sweeps(pictures: Sequence[Pictures]) -> PageSection:
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
                        block.told.append(f"{name}: not known, as {why}.")
                    else:
                        block.charts.append(Chart(Markup(charts.heatmap(values, sweep.fusions, names, name))))
                blocks.append(block)
    return PageSection(
        "sweeps",
        "Fusions and discard ratios",
        "Attention rollout under every fusion of heads and discard ratio, by the study's rule, as in its Fig. 3.10. "
        "The best cell is ringed; colours run from the lowest to the highest value of each chart.",
        blocks,
    )


def _examples(pictures: Sequence[Pictures]) -> PageSection:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            rows = [row for row in its.against(truth) if row.exhibits(truth, "example")]
            shown = [
                {(one.image, one.tile_yx): _picture(folder, one) for folder, one in row.exhibits(truth, "example")}
                for row in rows
            ]
            tiles = sorted({tile for pictures_of in shown for tile in pictures_of})
            if tiles:
                table = PictureTable(
                    [row.label for row in rows],
                    [
                        (_tile(image, yx), [pictures_of.get((image, yx)) for pictures_of in shown])
                        for image, yx in tiles
                    ],
                )
                blocks.append(Block(f"{its.data}, {truth}", pictures=table))
    return PageSection(
        "examples",
        "Tile, truth, map",
        "The same tiles for every model, chosen by their names alone. In each picture, left to right: the tile, its "
        "truth, its map.",
        blocks,
    )


def _variants(pictures: Sequence[Pictures], kind: str) -> PageSection:
    blocks = [
        Block(
            f"{row.label}, {its.data}",
            strip=[_picture(folder, one) for folder, one in row.exhibits(truth, kind)],
        )
        for its in pictures
        for row in its.rows
        for truth in [one for one in its.truths if row.exhibits(one, kind)][:1]  # no truth is drawn in them
    ]
    if kind == "fusions":
        return PageSection(
            kind, "Maps over fusions", "Heads fused by min, mean and max, as in the study's Fig. 3.11.", blocks
        )
    return PageSection(
        kind, "Maps over discard ratios", "A higher ratio narrows the map, as in the study's Fig. 3.12.", blocks
    )


def _failures(pictures: Sequence[Pictures]) -> PageSection:
    blocks = []
    for its in pictures:
        for truth in its.truths:
            for row in its.against(truth):
                for kind, name in (("missed", "defective tiles called good"), ("false", "good tiles called defective")):
                    if row.exhibits(truth, kind):
                        strip = [_picture(folder, one) for folder, one in _failed(row, truth, kind)]
                        heading = f"{row.label}, {its.data}, {truth}: {name}"
                        blocks.append(Block(heading, [] if strip else ["none"], strip=strip))
    return PageSection(
        "failures",
        "Worst failures first",
        "Defective tiles below the score threshold, the lowest logit first, and good tiles that reach it, the highest "
        "first.",
        blocks,
    )


def _failed(row: Row, truth: str, kind: str) -> list[tuple[Path, Exhibit]]:
    """Exhibits that stand on the wrong side of their own fold's score threshold, the worst first."""
    found = []
    for fold in row.folds:
        threshold = fold.evaluation.calibration.score_threshold
        found += [
            pair
            for pair in replace(row, folds=(fold,)).exhibits(truth, kind)
            if (pair[1].logit < threshold) == (kind == "missed")
        ]
    return sorted(found, key=lambda pair: pair[1].logit if kind == "missed" else -pair[1].logit)


def _explorers(pictures: Sequence[Pictures]) -> PageSection:
    blocks = []
    for its in pictures:
        block = Block(its.data)
        for row in its.rows:
            for fold in row.folds:
                explorer = fold.evaluation.explorer
                fold_of = f" ({', '.join(fold.told.groups)})" if len(row.folds) > 1 else ""
                label = row.label + fold_of
                defective = _counted(explorer.defective_frames, "defective frames")
                caption = f"{defective} against {_counted(explorer.good_frames, explorer.good_are)}."
                if not explorer.defective_frames or not explorer.good_frames:
                    block.told.append(f"{label}: {caption} A curve needs both.")
                    continue
                svg = Markup(charts.steps(explorer, f"{label}: escape against false reject"))
                block.charts.append(Chart(svg, label, caption, _curve(explorer)))
        blocks.append(block)
    return PageSection(
        "explorer",
        "Threshold explorer",
        "Every score threshold is a point of the line: lower left is better. The dot is the calibrated one. Move the "
        "slider to see what another threshold would do.",
        blocks,
    )


def _curve(explorer: Explorer) -> str:
    """JSON for the slider: the curve's points, the chosen one among them, in the words and digits of the drawing."""
    chosen = (explorer.chosen, explorer.chosen_escape or 0.0, explorer.chosen_false_reject or 0.0)
    points = sorted({chosen, *zip(explorer.thresholds, explorer.escape, explorer.false_reject, strict=True)})
    return msgspec.json.encode(
        {
            "escape": [escape for _, escape, _ in points],
            "reject": [reject for _, _, reject in points],
            "told": [
                f"{threshold:.2f} logits: escape {escape:.3f}, false reject {reject:.3f}"
                for threshold, escape, reject in points
            ],
            "start": points.index(chosen),
        }
    ).decode()


def _counted(number: int, what: str) -> str:
    """As `8 good frames`, or `1 good frame`."""
    return f"{number:,} {what.replace('frames', 'frame', 1) if number == 1 else what}"


def _tile(image: str, yx: tuple[int, int]) -> str:
    return f"{image}, tile at y {yx[0]}, x {yx[1]}"


def _picture(folder: Path, exhibit: Exhibit) -> Picture:
    name = _tile(exhibit.image, exhibit.tile_yx)
    caption = f"logit {exhibit.logit:.2f}"
    return Picture(_embedded(folder, exhibit.file), f"{name}: {exhibit.caption}", caption, name)


def _embedded(folder: Path, name: str) -> str | None:
    """The picture as a data URI, None if it is not there or no picture. Nothing outside the folder is read."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return None
    read = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
    if read is None:
        return None
    jpeg = cv2.imencode(".jpg", read, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
