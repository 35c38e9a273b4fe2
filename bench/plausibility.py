"""`heatline bench plausibility`: share of refused pictures that do not show the product, and of refused good frames."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import msgspec
import numpy as np

from heatline.bench.changes import Pixels, banded, blurred, grain, hand, in_size, labelled, scaled, shifted, with_part
from heatline.bench.markdown import markdown_table
from heatline.bench.recipes.sets import DataSet
from heatline.edge.bundle.appearance import Appearance
from heatline.edge.bundle.manifest import Grid
from heatline.edge.bundle.plausibility import Plausibility, fit_plausibility
from heatline.edge.errors import BenchError
from heatline.edge.inference import Engine, open_engine
from heatline.edge.inference.engine import ONNX_GRAPH, OPENVINO_GRAPH
from heatline.edge.util.evenly import evenly
from heatline.export.onnx_graph import to_graphs
from heatline.export.openvino_ir import to_ir
from heatline.export.product import MOST_FRAMES, appearance_of
from heatline.train.compose import compose
from heatline.train.models.build import build_model
from heatline.train.readers import LabelledImage
from heatline.train.run import read_data

FOLDS = 5
FRAMES = 60
"""Most good frames and most defective frames of each set."""
OTHERS = 20
"""Frames of each other set that stand for another product, in frames of the tested set's size."""
T = TypeVar("T")
Spoil = Callable[[Pixels, np.random.Generator], Pixels]


def _covered(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = rgb.shape[:2]
    shades = cv2.resize(rgb.astype(np.float32), (3, 3), interpolation=cv2.INTER_AREA)
    return grain(0.12 * cv2.resize(shades, (width, height), interpolation=cv2.INTER_CUBIC), rng, 3)


def _half(rgb: Pixels) -> Pixels:
    size = max(1, rgb.shape[1] // 2), max(1, rgb.shape[0] // 2)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _half_within(rgb: Pixels) -> Pixels:
    small = _half(rgb)
    below, right = rgb.shape[0] - small.shape[0], rgb.shape[1] - small.shape[1]
    return np.asarray(cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_REFLECT), np.uint8)


SPOILT: Mapping[str, Spoil] = {
    "black": lambda rgb, rng: rgb * 0,
    "dark, a tenth of the light": lambda rgb, rng: grain(scaled(rgb, 0.1), rng, 2),
    "white": lambda rgb, rng: rgb * 0 + 255,
    "overexposed, three times the light": lambda rgb, rng: scaled(rgb, 3, 60),
    "grey with a sensor's grain": lambda rgb, rng: grain(rgb * 0 + round(float(rgb.mean())), rng, 12),
    "lens covered": _covered,
    "defocused by 4 px": lambda rgb, rng: blurred(rgb, rng, 4),
    "defocused by 8 px": lambda rgb, rng: blurred(rgb, rng, 8),
    "defocused by 8 px, with more noise": lambda rgb, rng: grain(blurred(rgb, rng, 8), rng, 3),
    "half scale": lambda rgb, rng: _half(rgb),
    "half scale in a frame of the same size": lambda rgb, rng: _half_within(rgb),
}
BANDS: Mapping[str, int | None] = {"black": 0, "grey": 128, "white": 255, "the last line repeated": None}
FOREIGN: Mapping[str, Spoil] = {
    **{
        f"{100 * share:.0f} % {name}": lambda rgb, rng, share=share, value=value: banded(  # type: ignore[misc]
            rgb, share, value, rng.integers(4)
        )
        for share in (0.05, 0.1, 0.2, 0.3)
        for name, value in BANDS.items()
    },
    "a hand": lambda rgb, rng: hand(rgb, rng, (205, 150, 125), 25),
    "a dark glove": lambda rgb, rng: hand(rgb, rng, (60, 60, 60), 12),
    "a label": labelled,
}
"""Frames of which an area does not show the product; a band lies at any side."""
FOREIGN_PART, TORN = "a part of another product", "half of the frame before"
SHOWN_IN_PART = (*FOREIGN, FOREIGN_PART, TORN)
OTHER_PRODUCT = "another product"
AS_IT_IS = "good"
MILD: Mapping[str, Spoil] = {
    AS_IT_IS: lambda rgb, rng: rgb,
    "20 % brighter": lambda rgb, rng: scaled(rgb, 1.2),
    "20 % darker": lambda rgb, rng: scaled(rgb, 0.8),
    "shifted by 10 px": lambda rgb, rng: shifted(rgb, 10),
    "defocused by 1 px": lambda rgb, rng: blurred(rgb, rng, 1),
}
STILL_GOOD: Mapping[str, Spoil] = {**MILD, "with more noise, of deviation 2": lambda rgb, rng: grain(rgb, rng, 2)}


class Refused(msgspec.Struct, frozen=True):
    """Number of refused frames of one kind."""

    kind: str
    refused: int
    frames: int


class SetResult(msgspec.Struct, frozen=True):
    """Result of one data set: frames of a fold, compared with those of the other folds."""

    set: str
    seeds: list[int]
    groups: int
    frames: int
    spoilt: list[Refused]
    """Kinds that should be refused."""
    still_good: list[Refused]
    """Kinds that should not be refused."""
    defective: Refused


class PlausibilityResult(msgspec.Struct, frozen=True):
    """Results of all sets, by the features of one model."""

    model: str
    sets: list[SetResult]


def measure(
    sets: Sequence[DataSet], data: Path, work: Path, seeds: Sequence[int], most: int, report_line: Callable[[str], None]
) -> PlausibilityResult:
    """Count refused frames by grouped cross-validation.

    The trunk is the pretrained one, which the recipe `heatline` does not change.

    Args:
        data: folder of all data sets.
        work: folder for links.
        seeds: of the folds.
        most: most good frames and most defective frames of each set.
    Raises:
        BenchError: a set has one group.
        InputError, WeightsError, ExportError, EngineError: something cannot be used.
    """
    images = {one.name: read_data(compose(one.overrides(data, work))).images for one in sets}
    for name, of_set in images.items():  # before anything takes minutes
        require_groups(name, of_set)
    chosen = {name: _choose(of_set, most) for name, of_set in images.items()}
    results = []
    with _engine() as (engine, grid):
        for name, frames in chosen.items():
            others = [image for other in chosen if other != name for image in choose_evenly(chosen[other], OTHERS)]
            report_line(
                f"{name}: {len(frames)} frames, each in {len(SPOILT) + len(STILL_GOOD)} variants; {len(others)} others"
            )
            results.append(_count_refused(name, _Seen(frames, others, engine, grid), seeds))
    return PlausibilityResult("efficientnet_lite0", results)


class _Seen:
    """Appearances of one set's frames, unchanged and changed, and of other sets' frames in frames of their size."""

    def __init__(
        self, images: Sequence[LabelledImage], others: Sequence[LabelledImage], engine: Engine, grid: Grid
    ) -> None:
        def appearance(rgb: Pixels) -> Appearance:
            found = appearance_of(np.ascontiguousarray(rgb), grid, engine)
            return found if found.cells is None else replace(found, cells=found.cells.astype(np.float16))

        self.groups = np.array([image.group or image.name for image in images])
        self.defective = np.array([image.defective for image in images])
        changes = {**SPOILT, **FOREIGN, **STILL_GOOD}
        self.of: dict[str, dict[int, Appearance]] = {kind: {} for kind in (*changes, FOREIGN_PART, TORN)}
        """By the frame's place; of defective frames only as they are."""
        sizes: list[tuple[int, int]] = []
        before: Pixels | None = None
        for place, image in enumerate(images):
            rgb = image.pixels()
            sizes.append((rgb.shape[0], rgb.shape[1]))
            for kind, spoil in changes.items():
                if kind == AS_IT_IS or not image.defective:
                    rng = np.random.default_rng((place, *kind.encode()))
                    self.of[kind][place] = appearance(spoil(rgb, rng))
            if not image.defective:
                part = in_size(others[place % len(others)].pixels(), sizes[-1])
                self.of[FOREIGN_PART][place] = appearance(with_part(rgb, part))
                if before is not None:
                    half = rgb.shape[0] // 2
                    torn = np.concatenate([in_size(before, sizes[-1])[:half], rgb[half:]])
                    self.of[TORN][place] = appearance(torn)
                before = rgb
        self.others = [
            appearance(in_size(image.pixels(), sizes[place % len(sizes)])) for place, image in enumerate(others)
        ]

    def described(self, place: int) -> Appearance:
        """Return a frame's appearance as it describes the product: the areas of good frames only."""
        known = self.of[AS_IT_IS][place]
        return replace(known, cells=None) if self.defective[place] else known


def require_groups(name: str, images: Sequence[LabelledImage]) -> None:
    """Check that a set can be divided.

    Raises:
        BenchError: its images are all of one group.
    """
    if len({image.group or image.name for image in images}) < 2:
        raise BenchError(
            f"{name} has pictures of one group, expected two at least, as each is tested by the others; name another "
            "set with --set"
        )


def _choose(images: Sequence[LabelledImage], most: int) -> list[LabelledImage]:
    good = [image for image in images if not image.defective]
    chosen = [*choose_evenly(good, most), *choose_evenly([image for image in images if image.defective], most)]
    return chosen if good else [_as_good(image) for image in chosen]  # few of their tiles are defective


def _count_refused(name: str, seen: _Seen, seeds: Sequence[int]) -> SetResult:
    kinds = (*SPOILT, OTHER_PRODUCT, *SHOWN_IN_PART, *STILL_GOOD, "defective")
    counts: dict[str, list[int]] = {kind: [0, 0] for kind in kinds}

    def count(kind: str, plausibility: Plausibility, appearance: Appearance) -> None:
        counts[kind][0] += plausibility.any_reject_reason(appearance) is not None
        counts[kind][1] += 1

    for seed in seeds:
        names = np.random.default_rng(seed).permutation(np.unique(seen.groups))
        fold_of = {group: place % FOLDS for place, group in enumerate(names.tolist())}
        fold = np.array([fold_of[group] for group in seen.groups.tolist()])
        for tested in range(FOLDS):
            others = np.flatnonzero(fold != tested)
            others = others[evenly(len(others), MOST_FRAMES)].tolist()
            plausibility = fit_plausibility(
                [seen.described(place) for place in others], [str(seen.groups[place]) for place in others]
            )
            for place in np.flatnonzero(fold == tested).tolist():
                if seen.defective[place]:
                    count("defective", plausibility, seen.of[AS_IT_IS][place])
                    continue
                for kind in (*SPOILT, *SHOWN_IN_PART, *STILL_GOOD):
                    if place in seen.of[kind]:
                        count(kind, plausibility, seen.of[kind][place])
            for appearance in seen.others:
                count(OTHER_PRODUCT, plausibility, appearance)
    found = {kind: Refused(kind, *pair) for kind, pair in counts.items()}
    return SetResult(
        set=name,
        seeds=list(seeds),
        groups=len(np.unique(seen.groups)),
        frames=len(seen.groups),
        spoilt=[found[kind] for kind in (*SPOILT, OTHER_PRODUCT, *SHOWN_IN_PART)],
        still_good=[found[kind] for kind in STILL_GOOD],
        defective=found["defective"],
    )


@contextmanager
def _engine() -> Iterator[tuple[Engine, Grid]]:
    """Give the engine of the default model with an untrained head, for its features."""
    config = compose(["data=."])
    model, _ = build_model(config.model, config.tiles.tile_px)
    graphs = to_graphs(model.eval(), config.tiles.tile_px)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in {ONNX_GRAPH: graphs.onnx, **to_ir(graphs.for_openvino).files(OPENVINO_GRAPH)}.items():
            (Path(scratch) / name).write_bytes(content)
        with contextlib.closing(open_engine("openvino", Path(scratch), config.tiles.tile_px)) as engine:
            yield engine, Grid(tile_px=config.tiles.tile_px, overlap_px=config.tiles.overlap_px)


def _as_good(image: LabelledImage) -> LabelledImage:
    return LabelledImage(image.path, image.group, False, None)


def choose_evenly(items: Sequence[T], most: int) -> list[T]:
    """Choose at most `most` items at equal distances, in their order."""
    return [items[place] for place in evenly(len(items), most)]


def table(result: PlausibilityResult) -> str:
    """Write a result as Markdown: a row per kind, a column per set."""
    names = [one.set for one in result.sets]
    rows = [["refused", *names]]
    for label, kinds in (
        ("**should be, as a whole**", [*SPOILT, OTHER_PRODUCT]),
        ("**should be, for an area**", [*SHOWN_IN_PART]),
        ("**should not be**", [*STILL_GOOD, "defective"]),
    ):
        rows.append([label, *[""] * len(names)])
        for kind in kinds:
            rows.append([kind, *(_share(one, kind) for one in result.sets)])
    rows.append(["groups, frames", *(f"{one.groups}, {one.frames}" for one in result.sets)])
    return markdown_table(rows)


def _share(one: SetResult, kind: str) -> str:
    (found,) = [each for each in (*one.spoilt, *one.still_good, one.defective) if each.kind == kind]
    return f"{100 * found.refused / found.frames:.1f} % of {found.frames}" if found.frames else "-"
