"""The summary of a folder of pictures, with every file that a training cannot use."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.colour import PixelFormat, to_rgb
from heatline.edge.errors import InputError
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.tiling import OVERLAP_PX, TILE_PX
from heatline.edge.images import SUFFIXES, read_image
from heatline.edge.near_duplicates import thumbnail
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.text import format_count, on_one_line, utf8_safe
from heatline.train.adequacy import defect_areas, describe_expectation, describe_few_groups, describe_small_defects
from heatline.train.discovery import discover, near_duplicates_across
from heatline.train.frames import DEFECTIVE_SHARE
from heatline.train.progress import Track
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.folder import TRUTHS, list_folder, truths_in

_FORMATS: dict[PixelFormat, str] = {
    "Mono8": "grey", "Mono16": "16-bit grey", "BGR8": "colour", "BGRA8": "colour with alpha", "BGR16": "16-bit colour",
}  # fmt: skip


class FolderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the folder holds. No count includes pictures that cannot be used."""

    folder: str
    truth: str
    truths: list[str]
    """All truths of the folder, the default first."""
    good: int
    defective: int
    assumptions: list[str]
    """Sentences: what a training assumes of the folder; empty if the options name the groups."""
    labels_only: int
    """Defective pictures without a marked defect; `tiles` does not count their tiles."""
    sizes: dict[str, int]
    """Number of pictures per size, `width x height` in px, the most common first."""
    colours: dict[str, int]
    """Number of pictures per colour format."""
    groups_are: str
    """Where the groups come from."""
    groups: dict[str, int] | None
    """Number of pictures per group; None: not every picture has a group."""
    classes: dict[str, int]
    """Annotated objects per class."""
    tiles: dict[str, int] | None
    """Number of clean, ambiguous (up to 1 % defective) and defective tiles; None: the folder has only labels."""
    near_duplicates: list[tuple[str, str]]
    """Near-duplicate pictures in different groups, most alike first; without groups, all pairs."""
    expectation: str | None
    """Sentence: what so many pictures gave on measured sets; None without pictures."""
    warnings: list[str]
    unusable: list[str]
    """Sentences: each file that cannot be used, or picture whose annotation cannot be used, with the reason."""


def summarise_folder(
    folder: Path, truth: str | None = None, column: str | None = None, pattern: str | None = None, track: Track = iter
) -> FolderSummary:
    """Decode all pictures of a folder and summarise them.

    Args:
        truth: None: the first that the folder has.
        column, pattern: where groups come from, as in a training; with neither, they are discovered.
        track: wraps the pictures while they are decoded, to show progress.
    Raises:
        InputError: it is not a folder of labelled pictures, or lacks the truth.
    """
    unusable: list[str] = []

    def note(_: Path, error: InputError) -> None:
        unusable.append(str(error))

    discovery = discover(folder, truth) if column is None and pattern is None else None
    data = list_folder(folder, truth, column or "group", pattern, None, note, mixed=True)
    data = data if discovery is None else data.with_groups(discovery.groups, discovery.groups_are)
    layout = find_layout(folder)
    annotations = {file for formats in TRUTHS.values() for form in formats for file in form.files(layout)}
    unusable += [
        f"{file} is not a PNG, JPEG, BMP, TIFF or WebP; only these are read"
        for root in layout.roots
        for file in (root.files if root.deep else ())
        if file.suffix.lower() not in SUFFIXES and file not in annotations
    ]
    for place, annotation in data.unmatched.items():
        unusable.append(f"{annotation.file} marks {place}, and there is no such picture")
    images: list[LabelledImage] = []
    thumbnails: list[NDArray[np.uint8]] = []
    areas_px: list[int] = []
    sizes, colours, classes = Counter[str](), Counter[str](), Counter[str]()
    tiles = Counter(clean=0, ambiguous=0, defective=0)
    for image in track(data.images):
        try:
            pixels, pixel_format = read_image(image.path)
            rgb = to_rgb(pixels, pixel_format)
            height, width, _ = rgb.shape
            mask, objects = image.mask((height, width)), image.objects()
        except InputError as error:
            note(image.path, error)
            continue
        images.append(image)
        thumbnails.append(thumbnail(rgb))
        sizes[f"{width}x{height}"] += 1
        colours[_FORMATS[pixel_format]] += 1
        classes.update(objects)
        if mask is not None:
            areas_px += defect_areas(mask)
            grid = TileGrid((height, width), TILE_PX, OVERLAP_PX)
            defect_px = np.array([np.count_nonzero(mask[y : y + TILE_PX, x : x + TILE_PX]) for y, x in grid.origins_yx])
            limits = [defect_px == 0, defect_px <= DEFECTIVE_SHARE * TILE_PX**2]
            tiles.update(np.select(limits, ["clean", "ambiguous"], "defective").tolist())
    data = replace(data, images=tuple(images))
    groups = None if any(image.group is None for image in images) else Counter(str(image.group) for image in images)
    groups_of = [image.name if groups is None else str(image.group) for image in images]
    pairs = near_duplicates_across(np.array(thumbnails), groups_of)
    defective = sum(image.defective for image in images)
    warnings = [f"pictures in folders that are not read: {layout.describe_unread()}"] if layout.unread else []
    if images:
        warnings += _find_warnings(data, tiles, areas_px, names_groups=discovery is None)
    if pairs:
        twins = images[pairs[0][0]], images[pairs[0][1]]
        one, other = (f"{image.path.name} ({image.group})" if groups else image.path.name for image in twins)
        warnings.append(
            f"{format_count(len(pairs), 'picture')} {'looks' if len(pairs) == 1 else 'look'} nearly identical to one "
            f"of {'another group' if groups else 'the others'}, as do {one} and {other}; if they show the same thing, "
            "put them into one group"
        )
    return FolderSummary(
        folder=utf8_safe(str(folder)),
        truth=data.truth,
        truths=truths_in(layout),
        good=len(images) - defective,
        defective=defective,
        assumptions=[] if discovery is None or not images else [*discovery.assumptions],
        labels_only=sum(image.defective and image.labels_only for image in images),
        sizes=dict(sizes.most_common()),
        colours=dict(colours.most_common()),
        groups_are=utf8_safe(data.groups_are),
        groups=groups and {utf8_safe(name): count for name, count in groups.items()},
        classes=dict(sorted(classes.items(), key=lambda item: (-item[1], item[0]))),
        tiles=dict(tiles) if tiles.total() else None,
        near_duplicates=[
            (utf8_safe(str(images[one].path)), utf8_safe(str(images[other].path))) for one, other, _ in pairs
        ],
        expectation=describe_expectation(images),
        warnings=[on_one_line(utf8_safe(text)) for text in warnings],
        unusable=[utf8_safe(text) for text in unusable],
    )


def _find_warnings(
    data: LabelledFolder, tiles: Mapping[str, int], areas_px: Sequence[int], *, names_groups: bool
) -> Sequence[str]:
    """Describe what a training would refuse, and labels that may not suffice."""
    warnings = []
    if not any(image.defective for image in data.images):
        warnings.append(
            "no picture is defective: the recipe heatline trains on synthetic defects, which finds less; finetune and "
            "study need defective pictures"
        )
    elif all(image.defective and image.labels_only for image in data.images):
        warnings.append("no picture is good, and no annotation says which part of the others is; add good pictures")
    if names_groups and (mixture := data.describe_mixture()):  # otherwise the assumptions include it
        warnings.append(mixture)
    warnings += describe_small_defects(areas_px, tiles["ambiguous"], tiles["defective"], TILE_PX, DEFECTIVE_SHARE)
    warnings += describe_few_groups(data.images)
    if any(image.group is None for image in data.images):
        warnings.append(
            f"groups are not known: they were looked for in {data.groups_are}; name the column with --group, or the "
            f"part of the file name with {data.suggest_pattern().replace('split.pattern', '--pattern')}"
        )
    return warnings
