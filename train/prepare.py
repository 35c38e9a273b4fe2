"""From a configuration to what a training draws from: decoded frames, labelled tiles, and bags where only pictures are
labelled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edge.errors import TrainingError
from edge.util.text import format_count, is_are
from train.config import TrainConfig
from train.frames import FrameStore
from train.near_duplicates import describe_near_duplicates, near_duplicates_across
from train.progress import tracked
from train.readers import LabelledFolder, LabelledImage
from train.run import read_data, split_data
from train.split import Split
from train.tiles import TileRule, TileTable, grid_tiles


@dataclass(frozen=True)
class Prepared:
    """What is trained on, and what validates."""

    data: LabelledFolder
    split: Split
    store: FrameStore
    rule: TileRule
    labelled: Literal["tiles", "pictures"]
    """Tiles have labels of their own, or only the pictures that they are cut from."""
    train: TileTable
    """What training may draw."""
    val: TileTable
    counts: dict[str, dict[str, int]]
    """Per part: good, ambiguous and defective tiles that there are, whether training draws them or not."""


def prepare(config: TrainConfig, cache: Path, say: Callable[[str], None]) -> Prepared:
    """Decode the pictures of training and validation into `cache` and label their tiles.

    Pictures of the test groups are not touched.

    Raises:
        ConfigError, InputError: as `read_data`, `split_data` and `FrameStore.build`.
        TrainingError: a part lacks a class, or the disk is full.
    """
    data = read_data(config)
    split = split_data(config, data)
    parts = {part: split.images(data, part) for part in ("train", "val")}
    store = FrameStore.build([*parts["train"], *parts["val"]], cache, tracked("decoding pictures"))
    rule = TileRule(**msgspec.structs.asdict(config.tiles))
    frames = {"train": range(len(parts["train"])), "val": range(len(parts["train"]), len(store))}
    unplaced = [frame for frame in range(len(store)) if store.is_unplaced(frame)]
    if unplaced:
        say(
            f"{format_count(len(unplaced), 'picture')} {is_are(len(unplaced))} left out: labelled defective, and "
            "nothing says where, "
            f"first {store.images[unplaced[0]].path.name}"
        )
    tables = {
        part: grid_tiles(store, (frame for frame in numbers if not store.is_unplaced(frame)), rule)
        for part, numbers in frames.items()
    }
    _warn_of_twins(store, frames, say)
    whole = any(
        image.labels_only and max(store.frame_hw(frame)) > rule.tile_px for frame, image in enumerate(store.images)
    )
    labelled: Literal["tiles", "pictures"] = "pictures" if whole else "tiles"
    counts = {part: table.counts() for part, table in tables.items()}
    for part, count in counts.items():
        say(_described(part, parts[part], count, labelled))
        if not count["defective"] or count["defective"] == len(tables[part]):
            raise TrainingError(
                f"of the {format_count(len(tables[part]), 'tile')} of the {part} groups "
                f"({_some(getattr(split, part))}) "
                f"{count['defective']} {is_are(count['defective'])} defective; each part needs both classes: name "
                "other groups in split.val "
                "and split.test"
            )
    if whole:
        say("only whole pictures are labelled: each is taught as a bag of its tiles (multiple-instance)")
    train = tables["train"].without_ambiguous() if config.finetune.skip_ambiguous else tables["train"]
    return Prepared(data, split, store, rule, labelled, train, tables["val"], counts)


def _warn_of_twins(store: FrameStore, frames: dict[str, range], say: Callable[[str], None]) -> None:
    """Tell of near-duplicate pictures on both sides: what validates would have taught already."""
    pairs = near_duplicates_across({part: store.thumbnails(numbers) for part, numbers in frames.items()})
    if pairs:
        first = pairs[0]
        picture, twin = (
            store.images[frames[part][number]].path.name
            for part, number in ((first.part, first.number), (first.other_part, first.other_number))
        )
        say(describe_near_duplicates(len(pairs), f"{picture} ({first.part})", f"{twin} ({first.other_part})"))


def _described(part: str, pictures: Sequence[LabelledImage], tiles: dict[str, int], labelled: str) -> str:
    defective = sum(image.defective for image in pictures)
    said = f"{part}: {format_count(len(pictures), 'picture')}, {defective} of them defective; "
    if labelled == "pictures":
        return f"{said}{format_count(sum(tiles.values()), 'tile')}"
    share = tiles["defective"] / sum(tiles.values())
    return f"{said}tiles: " + ", ".join(f"{n} {kind}" for kind, n in tiles.items()) + f" ({share:.1%})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
