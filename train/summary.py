"""What a folder of pictures is understood to hold, before anything is learnt from it.

Training stops at the first file that it cannot use; a survey decodes every picture and its annotation and tells of each
that cannot be used. It ends early only where the folder as a whole, or what was asked for, makes no sense.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.colour import PixelFormat, to_rgb
from edge.errors import ConfigError, InputError
from edge.geometry import TileGrid
from edge.geometry.tiling import OVERLAP_PX, TILE_PX
from edge.images import SUFFIXES, read_image
from edge.util.text import format_count, utf8_safe
from train.adequacy import defect_areas, describe_few_groups, describe_small_defects
from train.discovery import Discovery, discover
from train.near_duplicates import describe_near_duplicates, near_duplicates_across, thumbnail
from train.progress import Track
from train.readers import LabelledFolder, LabelledImage
from train.readers.folder import LABELS, LABELS_ONLY, list_folder, truths_in
from train.readers.unusable import OnUnusable
from train.split import Split, split_by_fractions, split_by_name
from train.tiles import DEFECTIVE_SHARE, TileRule

_FORMATS: dict[PixelFormat, str] = {
    "Mono8": "grey", "Mono16": "16-bit grey", "BGR8": "colour", "BGRA8": "colour with alpha", "BGR16": "16-bit colour",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """How the folder is to be read and divided, as a training would be told."""

    truth: str | None = None
    """None: the first that is there."""
    group_column: str | None = None
    """With neither column nor pattern, groups are as `discover` finds them."""
    group_pattern: str | None = None
    classes: Sequence[str] | None = None
    val: Sequence[str] = ()
    test: Sequence[str] = ()
    fractions: Sequence[float] | None = None
    """None: no split where no group is named, as the default recipe cross-validates all groups."""
    seed: int = 0
    tile_px: int = TILE_PX

    def read(self, folder: Path, on_unusable: OnUnusable, found: Discovery | None) -> LabelledFolder:
        """The pictures of a folder, as the default recipe can use them; errors as `list_folder`."""
        column = self.group_column if found is None else found.group_column
        data = list_folder(
            folder,
            self.truth,
            column or "group",
            self.group_pattern,
            self.classes,
            on_unusable,
            mixed=True,
        )
        return data if found is None else found.regroup(data)

    def discover(self, folder: Path) -> Discovery | None:
        """What is assumed of a folder where no groups are named; errors as `discover`."""
        return None if self.names_groups else discover(folder)

    @property
    def names_groups(self) -> bool:
        return self.group_column is not None or self.group_pattern is not None


class Size(msgspec.Struct, frozen=True):
    """A size of pictures, px."""

    width: int
    height: int
    pictures: int


class Groups(msgspec.Struct, frozen=True):
    """How many groups there are, and of how many pictures each is."""

    count: int
    smallest: int
    median: int
    largest: int


class Part(msgspec.Struct, frozen=True):
    """One side of the split."""

    groups: int
    good: int
    defective: int


class Twins(msgspec.Struct, frozen=True):
    """Two pictures that look nearly the same and lie apart."""

    picture: str
    part: str
    other: str
    other_part: str
    likeness: float


class UnusableFile(msgspec.Struct, frozen=True):
    """A file that cannot be used, or a picture whose annotation cannot, and why."""

    file: str
    why: str


class FolderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All that was understood. Pictures that cannot be used are in none of the counts."""

    folder: str
    truth: str
    truths: list[str]
    """All that the folder has, the default first."""
    good: int
    defective: int
    assumptions: list[str]
    """Sentences: what a training that is given the folder and nothing else assumes; empty where groups are named."""
    labels_only: int
    """Defective pictures of whose defects nothing is marked; they have no part in `tiles`."""
    sizes: list[Size]
    """Every size, the most common first."""
    colours: dict[str, int]
    """Pictures of each colour format."""
    groups_are: str
    """Where groups were looked for."""
    groups: Groups | None
    """None: they cannot be told."""
    classes: dict[str, int]
    """Annotated objects of each class, whether it counts as a defect or not."""
    tile_px: int
    tiles: dict[str, int] | None
    """How many are clean, ambiguous (up to 1 % of them is defective) and defective; None: only labels are known."""
    split: dict[str, Part] | None
    """Train, val and test; None: groups cannot be divided so."""
    twins: list[Twins]
    """Near-duplicate pictures in different parts; without a split in different groups, or any, if there are none."""
    warnings: list[str]
    unusable: list[UnusableFile]


@dataclass
class _Seen:
    """What decoding brings to light."""

    images: list[LabelledImage] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colours: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    tiles: Counter[str] = field(default_factory=Counter)
    areas_px: list[int] = field(default_factory=list)


def summarise_folder(folder: Path, asked: Asked, track: Track = iter) -> FolderSummary:
    """Decode all pictures of a folder and say what they are.

    Args:
        track: wraps the pictures as they are decoded, to show how far that is.
    Raises:
        InputError: it is no folder of labelled pictures, or lacks the truth or class that was asked for.
    """
    unusable: list[UnusableFile] = []

    def note(file: Path, error: InputError) -> None:
        unusable.append(UnusableFile(utf8_safe(str(file)), utf8_safe(str(error))))

    found = asked.discover(folder)
    data = asked.read(folder, note, found)
    for file in _not_pictures(folder):
        note(file, InputError(f"{file} is no PNG, JPEG, BMP, TIFF or WebP; only these are read, and no subfolders"))
    for stem, annotation in data.strays.items():
        note(annotation.file, InputError(f"{annotation.file} marks {stem}, and there is no such picture"))
    rule = TileRule(asked.tile_px, OVERLAP_PX, DEFECTIVE_SHARE)
    seen = _Seen()
    for image in track(data.images):
        try:
            _look_at(image, rule, seen)
        except InputError as error:
            note(image.path, error)
    usable = LabelledFolder(data.folder, data.truth, tuple(seen.images), data.groups_are, data.strays)
    groups = _groups(usable)
    split, why_no_split = _split(groups, data.groups_with_defects(), asked)
    parts = None if split is None else _parts(usable, split)
    twins = _twins(usable, np.array(seen.thumbnails), groups, split)
    defective = sum(image.defective for image in seen.images)
    return FolderSummary(
        folder=utf8_safe(str(folder)),
        truth=data.truth,
        truths=truths_in(folder),
        good=len(seen.images) - defective,
        defective=defective,
        assumptions=[] if found is None else [utf8_safe(sentence) for sentence in found.assumptions],
        labels_only=sum(image.defective and image.labels_only for image in seen.images),
        sizes=[Size(width, height, count) for (height, width), count in seen.sizes.most_common()],
        colours=dict(seen.colours.most_common()),
        groups_are=utf8_safe(data.groups_are),
        groups=_count(groups),
        classes=dict(sorted(seen.classes.items(), key=lambda found: (-found[1], found[0]))),
        tile_px=asked.tile_px,
        tiles={kind: seen.tiles[kind] for kind in ("clean", "ambiguous", "defective")} if seen.tiles else None,
        split=parts,
        twins=twins,
        warnings=[utf8_safe(text) for text in _warnings(usable, asked, seen, groups, parts, why_no_split, twins)],
        unusable=unusable,
    )


def _look_at(image: LabelledImage, rule: TileRule, seen: _Seen) -> None:
    """Decode one picture and its annotation; nothing is counted of one that cannot be used."""
    pixels, pixel_format = read_image(image.path)
    rgb = to_rgb(pixels, pixel_format)
    hw = (rgb.shape[0], rgb.shape[1])
    mask = image.mask(hw)
    objects = Counter[str]() if image.annotation is None else image.annotation.objects()
    seen.images.append(image)
    seen.thumbnails.append(thumbnail(rgb))
    seen.sizes[hw] += 1
    seen.colours[_stored_as(image.path) or _FORMATS[pixel_format]] += 1
    seen.classes.update(objects)
    if mask is None:
        return
    seen.areas_px += defect_areas(mask)
    side, grid = rule.tile_px, TileGrid(hw, rule.tile_px, rule.overlap_px)
    defect_px = np.array([np.count_nonzero(mask[y : y + side, x : x + side]) for y, x in grid.origins_yx])
    defective = rule.is_defective(defect_px)
    seen.tiles["defective"] += int(defective.sum())
    seen.tiles["ambiguous"] += int(((defect_px > 0) & ~defective).sum())
    seen.tiles["clean"] += int((defect_px == 0).sum())


def _stored_as(path: Path) -> str | None:
    """What a PNG's header (ISO 15948, IHDR) says and its decoded pixels no longer do: a palette, or fewer bits."""
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(b"\x89PNG"):
        return None
    bits, colour_type = head[24], head[25]
    if colour_type == 3:
        return "palette"
    return f"{bits}-bit grey" if colour_type == 0 and bits < 8 else None


def _not_pictures(folder: Path) -> list[Path]:
    """What lies among the pictures and is none."""
    places = [folder / "images"] if (folder / "images").is_dir() else [folder / label for label in LABELS]
    return sorted(
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if not path.name.startswith(".") and not (path.is_file() and path.suffix.lower() in SUFFIXES)
    )


def _groups(data: LabelledFolder) -> Counter[str] | None:
    """Pictures per group; None if groups cannot be told of all."""
    try:
        data.groups()
    except InputError:
        return None
    return Counter(str(image.group) for image in data.images)


def _count(groups: Counter[str] | None) -> Groups | None:
    if not groups:
        return None
    sizes = sorted(groups.values())
    return Groups(len(sizes), sizes[0], sizes[len(sizes) // 2], sizes[-1])


def _split(groups: Counter[str] | None, with_defects: set[str], asked: Asked) -> tuple[Split | None, str | None]:
    """As a training would divide them, or why it could not."""
    if not groups:
        return None, None
    names = sorted(groups)
    try:
        if asked.val or asked.test:
            return split_by_name(names, asked.val, asked.test), None
        if asked.fractions is None:
            return None, None
        return split_by_fractions(names, asked.fractions, asked.seed, with_defects), None
    except ConfigError as error:
        return None, str(error)


def _parts(data: LabelledFolder, split: Split) -> dict[str, Part]:
    parts = {}
    for part in ("train", "val", "test"):
        images = split.images(data, part)
        defective = sum(image.defective for image in images)
        parts[part] = Part(len(getattr(split, part)), len(images) - defective, defective)
    return parts


def _twins(
    data: LabelledFolder, thumbnails: NDArray[np.uint8], groups: Counter[str] | None, split: Split | None
) -> list[Twins]:
    """Across the split; without one across groups; without groups, across all pictures."""
    members: dict[str, list[int]] = {}
    if split is not None:
        side_of = {group: part for part in ("train", "val", "test") for group in getattr(split, part)}
        members = {"train": [], "val": [], "test": []}
    for number, image in enumerate(data.images):
        group = image.name if groups is None else str(image.group)
        members.setdefault(group if split is None else side_of[group], []).append(number)
    pairs = near_duplicates_across({part: thumbnails[numbers] for part, numbers in members.items() if numbers})
    return [
        Twins(
            utf8_safe(str(data.images[members[pair.part][pair.number]].path)),
            pair.part,
            utf8_safe(str(data.images[members[pair.other_part][pair.other_number]].path)),
            pair.other_part,
            round(pair.likeness, 3),
        )
        for pair in pairs
    ]


def _warnings(
    data: LabelledFolder,
    asked: Asked,
    seen: _Seen,
    groups: Counter[str] | None,
    split: dict[str, Part] | None,
    why_no_split: str | None,
    twins: Sequence[Twins],
) -> list[str]:
    """What a training would refuse, or be flattered by."""
    warnings = []
    defective = sum(image.defective for image in data.images)
    if not defective:
        warnings.append(
            "no picture is defective: the recipe heatline trains on synthetic defects, which finds less; finetune and "
            "study need defects to learn from"
        )
    elif all(image.defective and image.labels_only for image in data.images):
        warnings.append("no picture is good, and no annotation says which part of the others is; add good pictures")
    if asked.names_groups and (mixture := data.describe_mixture()):  # else the assumptions say it
        warnings.append(mixture)
    ambiguous, over = seen.tiles["ambiguous"], seen.tiles["defective"]
    warnings += describe_small_defects(seen.areas_px, ambiguous, over, asked.tile_px, DEFECTIVE_SHARE)
    warnings += describe_few_groups(data.images)
    for name in asked.classes or ():
        if not seen.classes[name]:
            warnings.append(f"the class {name!r} counts as a defect and has no object")
    if groups is None:
        warnings.append(
            f"groups cannot be told: they were looked for in {data.groups_are}; name the column with --group, or give "
            "--pattern, whose first parenthesis finds the group in the file name"
        )
    if why_no_split:
        warnings.append(why_no_split)
    for name, part in (split or {}).items():
        if defective and part.groups and (not part.defective or (data.truth == LABELS_ONLY and not part.good)):
            warnings.append(
                f"{name} has {part.good} good and {format_count(part.defective, 'defective picture')}; choose groups "
                "with both kinds"
            )
    if twins:
        apart = "on another side of the split" if split else "of another group" if groups else "of the others"
        first = twins[0]
        picture, other = (
            f"{Path(file).name} ({part})" if groups else Path(file).name
            for file, part in ((first.picture, first.part), (first.other, first.other_part))
        )
        warnings.append(describe_near_duplicates(len(twins), picture, other, apart))
    return warnings
