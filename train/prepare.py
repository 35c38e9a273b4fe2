"""The data of a training of the whole network: decoded frames and labelled tiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from heatline.edge.errors import TrainingError
from heatline.edge.util.text import format_count, is_are, list_some
from heatline.train.config import TrainConfig
from heatline.train.frames import FrameStore
from heatline.train.near_duplicates import describe_near_duplicates, near_duplicates_across
from heatline.train.progress import tracked
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.run import read_data, split_data
from heatline.train.split import Split
from heatline.train.tiles import TileRule, TileTable, grid_tiles


@dataclass(frozen=True)
class Prepared:
    """The data that a training trains and validates on."""

    data: LabelledFolder
    split: Split
    store: FrameStore
    rule: TileRule
    labelled: Literal["tiles", "pictures"]
    """Whether each tile has a label of its own, or only the picture that it is cut from."""
    train: TileTable
    """Tiles that the training may draw."""
    val: TileTable
    counts: dict[str, dict[str, int]]
    """Number of good, ambiguous and defective tiles per part, whether the training draws them or not."""


def prepare(config: TrainConfig, cache: Path, report_line: Callable[[str], None]) -> Prepared:
    """Decode the pictures of training and validation into `cache` and label their tiles.

    Pictures of the test groups are not opened.

    Args:
        report_line: gets lines about the data, for people.
    Raises:
        ConfigError, InputError: as `read_data`, `split_data` and `FrameStore.build`.
        TrainingError: a part lacks a class, or the disk is full.
    """
    data = read_data(config, report_line)
    split = split_data(config, data)
    parts = {part: split.images(data, part) for part in ("train", "val")}
    store = FrameStore.build([*parts["train"], *parts["val"]], cache, tracked("decoding pictures"))
    rule = TileRule(**msgspec.structs.asdict(config.tiles))
    frames = {"train": range(len(parts["train"])), "val": range(len(parts["train"]), len(store))}
    unplaced = [frame for frame in range(len(store)) if store.is_unplaced(frame)]
    if unplaced:
        report_line(
            f"{format_count(len(unplaced), 'picture')} {is_are(len(unplaced))} left out: labelled defective "
            f"without a marked defect, first {store.images[unplaced[0]].name}"
        )
    tables = {
        part: grid_tiles(store, (frame for frame in numbers if not store.is_unplaced(frame)), rule)
        for part, numbers in frames.items()
    }
    _warn_of_near_duplicates(store, frames, report_line)
    as_bags = any(
        image.labels_only and max(store.frame_hw(frame)) > rule.tile_px for frame, image in enumerate(store.images)
    )
    labelled: Literal["tiles", "pictures"] = "pictures" if as_bags else "tiles"
    counts = {part: table.counts() for part, table in tables.items()}
    for part, count in counts.items():
        report_line(_describe_part(part, parts[part], count, labelled))
        if not count["defective"] or count["defective"] == len(tables[part]):
            raise TrainingError(
                f"of the {format_count(len(tables[part]), 'tile')} of the {part} groups "
                f"({list_some(getattr(split, part), 6)}) "
                f"{count['defective']} {is_are(count['defective'])} defective; each part needs both classes: name "
                "other groups in split.val "
                "and split.test"
            )
    if as_bags:
        report_line("only whole pictures are labelled: each is trained on as a bag of its tiles (multiple-instance)")
    train = tables["train"].drop_ambiguous() if config.finetune.skip_ambiguous else tables["train"]
    return Prepared(data, split, store, rule, labelled, train, tables["val"], counts)


def _warn_of_near_duplicates(store: FrameStore, frames: dict[str, range], report_line: Callable[[str], None]) -> None:
    """Report near-duplicates across training and validation: the model would be validated on what it was trained on."""
    pairs = near_duplicates_across({part: store.thumbnails(numbers) for part, numbers in frames.items()})
    if pairs:
        first = pairs[0]
        picture, other = (
            store.images[frames[part][number]].name
            for part, number in ((first.part, first.number), (first.other_part, first.other_number))
        )
        report_line(describe_near_duplicates(len(pairs), f"{picture} ({first.part})", f"{other} ({first.other_part})"))


def _describe_part(part: str, pictures: Sequence[LabelledImage], tiles: dict[str, int], labelled: str) -> str:
    defective = sum(image.defective for image in pictures)
    counts = f"{part}: {format_count(len(pictures), 'picture')}, {defective} of them defective; "
    if labelled == "pictures":
        return f"{counts}{format_count(sum(tiles.values()), 'tile')}"
    share = tiles["defective"] / sum(tiles.values())
    return f"{counts}tiles: " + ", ".join(f"{n} {kind}" for kind, n in tiles.items()) + f" ({100 * share:.1f} %)"
