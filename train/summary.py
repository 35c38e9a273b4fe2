"""The summary of a folder of pictures, before a model is trained on it.

Training stops at the first file that it cannot use. The summary decodes every picture and annotation and lists each
file that cannot be used. It fails only if the folder as a whole, or the options, make no sense.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.colour import PixelFormat, to_rgb
from heatline.edge.errors import InputError
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.tiling import OVERLAP_PX, TILE_PX
from heatline.edge.images import SUFFIXES, read_image
from heatline.edge.picture_folders import Layout, find_layout
from heatline.edge.util.text import on_one_line, utf8_safe
from heatline.train.adequacy import defect_areas, describe_expectation, describe_few_groups, describe_small_defects
from heatline.train.discovery import Discovery, describe_near_duplicates, discover, near_duplicates_across, thumbnail
from heatline.train.frames import DEFECTIVE_SHARE, TileRule
from heatline.train.progress import Track
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.annotation import OnUnusable
from heatline.train.readers.folder import TRUTHS, list_folder, truths_in

_FORMATS: dict[PixelFormat, str] = {
    "Mono8": "grey", "Mono16": "16-bit grey", "BGR8": "colour", "BGRA8": "colour with alpha", "BGR16": "16-bit colour",
}  # fmt: skip


@dataclass(frozen=True)
class ReadingOptions:
    """How the folder is read: the settings of a training."""

    truth: str | None = None
    """None: the first truth that the folder has."""
    group_column: str | None = None
    """With neither column nor pattern, `discover` finds the groups."""
    group_pattern: str | None = None
    classes: Sequence[str] | None = None
    tile_px: int = TILE_PX

    def read(self, folder: Path, on_unusable: OnUnusable, discovery: Discovery | None) -> LabelledFolder:
        """List the pictures that the default recipe can use; errors as `list_folder`."""
        data = list_folder(
            folder,
            self.truth,
            self.group_column or "group",
            self.group_pattern,
            self.classes,
            on_unusable,
            mixed=True,
        )
        return data if discovery is None else data.with_groups(discovery.groups, discovery.groups_are)

    def discover(self, folder: Path) -> Discovery | None:
        """Return what a training assumes of the folder; None if the options name the groups. Errors as `discover`."""
        return None if self.names_groups else discover(folder, self.truth)

    @property
    def names_groups(self) -> bool:
        return self.group_column is not None or self.group_pattern is not None


class Size(msgspec.Struct, frozen=True):
    """A picture size in px, and how many pictures have it."""

    width: int
    height: int
    pictures: int


class Groups(msgspec.Struct, frozen=True):
    """Number of groups, and pictures per group."""

    count: int
    smallest: int
    median: int
    largest: int


class NearDuplicate(msgspec.Struct, frozen=True):
    """Two pictures that look nearly the same and lie in different groups."""

    picture: str
    group: str
    other: str
    other_group: str
    likeness: float
    """Correlation of their filtered thumbnails, at most 1."""


class UnusableFile(msgspec.Struct, frozen=True):
    """A file that cannot be used, or a picture whose annotation cannot be used, and the reason."""

    file: str
    why: str


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
    sizes: list[Size]
    """All sizes, the most common first."""
    colours: dict[str, int]
    """Number of pictures per colour format."""
    groups_are: str
    """Where the groups come from."""
    groups: Groups | None
    """None: not every picture has a group."""
    classes: dict[str, int]
    """Number of annotated objects per class, whether the class counts as a defect or not."""
    tile_px: int
    tiles: dict[str, int] | None
    """Number of clean, ambiguous (up to 1 % defective) and defective tiles; None: the folder has only labels."""
    near_duplicates: list[NearDuplicate]
    """Near-duplicate pictures in different groups; without groups, all pairs."""
    expectation: str | None
    """Sentence: what so many pictures gave on measured sets; None without defects."""
    warnings: list[str]
    unusable: list[UnusableFile]


@dataclass
class _Inspected:
    """Facts that need decoded pictures."""

    images: list[LabelledImage] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colours: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    tiles: Counter[str] = field(default_factory=Counter)
    areas_px: list[int] = field(default_factory=list)


def summarise_folder(folder: Path, options: ReadingOptions, track: Track = iter) -> FolderSummary:
    """Decode all pictures of a folder and summarise them.

    Args:
        track: wraps the pictures while they are decoded, to show progress.
    Raises:
        InputError: it is not a folder of labelled pictures, or lacks the truth or class that the options name.
    """
    unusable: list[UnusableFile] = []

    def note(file: Path, error: InputError) -> None:
        unusable.append(UnusableFile(utf8_safe(str(file)), utf8_safe(str(error))))

    discovery = options.discover(folder)
    data = options.read(folder, note, discovery)
    layout = find_layout(folder)
    for file in _find_other_files(layout):
        note(file, InputError(f"{file} is not a PNG, JPEG, BMP, TIFF or WebP; only these are read"))
    for stem, annotation in data.unmatched.items():
        note(annotation.file, InputError(f"{annotation.file} marks {stem}, and there is no such picture"))
    rule = TileRule(options.tile_px, OVERLAP_PX, DEFECTIVE_SHARE)
    inspected = _Inspected()
    for image in track(data.images):
        try:
            _inspect(image, rule, inspected)
        except InputError as error:
            note(image.path, error)
    usable = replace(data, images=tuple(inspected.images))
    groups = _count_groups(usable)
    near_duplicates = _find_near_duplicates(usable, np.array(inspected.thumbnails), groups)
    defective = sum(image.defective for image in inspected.images)
    sizes = sorted((groups or {}).values())
    return FolderSummary(
        folder=utf8_safe(str(folder)),
        truth=data.truth,
        truths=truths_in(layout),
        good=len(inspected.images) - defective,
        defective=defective,
        assumptions=[] if discovery is None or not inspected.images else [*discovery.assumptions],
        labels_only=sum(image.defective and image.labels_only for image in inspected.images),
        sizes=[Size(width, height, count) for (height, width), count in inspected.sizes.most_common()],
        colours=dict(inspected.colours.most_common()),
        groups_are=utf8_safe(data.groups_are),
        groups=Groups(len(groups), sizes[0], sizes[len(sizes) // 2], sizes[-1]) if groups else None,
        classes=dict(sorted(inspected.classes.items(), key=lambda item: (-item[1], item[0]))),
        tile_px=options.tile_px,
        tiles={kind: inspected.tiles[kind] for kind in ("clean", "ambiguous", "defective")}
        if inspected.tiles
        else None,
        near_duplicates=near_duplicates,
        expectation=describe_expectation(inspected.images),
        warnings=[
            on_one_line(utf8_safe(text))
            for text in [
                *([f"pictures in folders that are not read: {layout.describe_unread()}"] if layout.unread else []),
                *_find_warnings(usable, options, inspected, groups, near_duplicates),
            ]
        ],
        unusable=unusable,
    )


def _inspect(image: LabelledImage, rule: TileRule, inspected: _Inspected) -> None:
    """Decode a picture and its annotation and add them to the counts; change nothing if either cannot be used."""
    pixels, pixel_format = read_image(image.path)
    rgb = to_rgb(pixels, pixel_format)
    hw = (rgb.shape[0], rgb.shape[1])
    mask = image.mask(hw)
    objects = image.objects()
    inspected.images.append(image)
    inspected.thumbnails.append(thumbnail(rgb))
    inspected.sizes[hw] += 1
    inspected.colours[_FORMATS[pixel_format]] += 1
    inspected.classes.update(objects)
    if mask is None:
        return
    inspected.areas_px += defect_areas(mask)
    side, grid = rule.tile_px, TileGrid(hw, rule.tile_px, rule.overlap_px)
    defect_px = np.array([np.count_nonzero(mask[y : y + side, x : x + side]) for y, x in grid.origins_yx])
    defective = rule.is_defective(defect_px)
    inspected.tiles["defective"] += int(defective.sum())
    inspected.tiles["ambiguous"] += int(((defect_px > 0) & ~defective).sum())
    inspected.tiles["clean"] += int((defect_px == 0).sum())


def _find_other_files(layout: Layout) -> list[Path]:
    """Return the files in the folders of pictures that are neither pictures nor annotations."""
    annotations = {file for formats in TRUTHS.values() for form in formats for file in form.files(layout)}
    return [
        file
        for root in layout.roots
        if root.deep
        for file in root.files
        if file.suffix.lower() not in SUFFIXES and file not in annotations
    ]


def _count_groups(data: LabelledFolder) -> Counter[str] | None:
    """Count the pictures of each group; None if not every picture has a group."""
    try:
        data.groups()
    except InputError:
        return None
    return Counter(str(image.group) for image in data.images)


def _find_near_duplicates(
    data: LabelledFolder, thumbnails: NDArray[np.uint8], groups: Counter[str] | None
) -> list[NearDuplicate]:
    """Find near-duplicates across groups; without groups, among all pictures."""
    images = data.images
    of = [image.name if groups is None else str(image.group) for image in images]
    return [
        NearDuplicate(
            utf8_safe(str(images[one].path)), of[one], utf8_safe(str(images[other].path)), of[other], round(likeness, 3)
        )
        for one, other, likeness in near_duplicates_across(thumbnails, of)
    ]


def _find_warnings(
    data: LabelledFolder,
    options: ReadingOptions,
    inspected: _Inspected,
    groups: Counter[str] | None,
    near_duplicates: Sequence[NearDuplicate],
) -> list[str]:
    """Describe what a training would refuse, and what would make its figures too good."""
    if not data.images:
        return []
    warnings = []
    defective = sum(image.defective for image in data.images)
    if not defective:
        warnings.append(
            "no picture is defective: the recipe heatline trains on synthetic defects, which finds less; finetune and "
            "study need defective pictures"
        )
    elif all(image.defective and image.labels_only for image in data.images):
        warnings.append("no picture is good, and no annotation says which part of the others is; add good pictures")
    if options.names_groups and (mixture := data.describe_mixture()):  # otherwise the assumptions include it
        warnings.append(mixture)
    ambiguous, over = inspected.tiles["ambiguous"], inspected.tiles["defective"]
    warnings += describe_small_defects(inspected.areas_px, ambiguous, over, options.tile_px, DEFECTIVE_SHARE)
    warnings += describe_few_groups(data.images)
    for name in options.classes or ():
        if not inspected.classes[name]:
            warnings.append(f"the class {name!r} counts as a defect and has no object")
    if groups is None:
        warnings.append(
            f"groups are not known: they were looked for in {data.groups_are}; name the column with --group, or the "
            f"part of the file name with {data.suggest_pattern().replace('split.pattern', '--pattern')}"
        )
    if near_duplicates:
        place = "of another group" if groups else "of the others"
        first = near_duplicates[0]
        picture, other = (
            f"{Path(file).name} ({group})" if groups else Path(file).name
            for file, group in ((first.picture, first.group), (first.other, first.other_group))
        )
        warnings.append(describe_near_duplicates(len(near_duplicates), picture, other, place))
    return warnings
