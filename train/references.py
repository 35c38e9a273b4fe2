"""The references of a training: which picture each frame is compared with, and whether the product has a fixed pose."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.geometry import TileGrid
from heatline.edge.images import SUFFIXES, digest_picture, read_rgb
from heatline.edge.picture_folders import TEMPLATES
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import to_grey
from heatline.edge.reference.reference import MOST_FRAMES, Reference
from heatline.edge.util.sampling import evenly
from heatline.edge.util.text import format_count, list_some
from heatline.train.readers import LabelledFolder, LabelledImage

FEWEST_FRAMES = 3
"""A median of fewer frames shows the defects of each."""
NEAR_DEFECT_PX = 15
"""Px around a marked defect that do not count as good."""
TRIED = 16
"""Frames by which it is found out whether the product has a fixed pose."""
LEAST_CORRELATION, AT_QUANTILE = 0.9, 0.05
"""Of aligned tiles, smoothed by `SMOOTHED_PX`: measured .94 on DeepPCB, .96 on BSData and 1.0 on HRIPCB; at most .01 on
products without a fixed pose."""
SMOOTHED_PX = 2.0
LEAST_ALIGNED, LEAST_OF_FILE = 0.9, 0.5
"""Share of these frames that must be aligned; with a reference that a user names."""
FEWEST_GREY = 6.0
"""Standard deviation of grey below which a tile shows nothing to correlate."""

Scope = Literal["file", "templates", "product", "group"]
GAINS = {
    "val_ap": "average precision of tiles",
    "val_cell_ap": "average precision of map cells",
    "val_picture_auroc": "AUROC of pictures",
}
"""Figures of a cross-validation that are named beside each other."""


class ReferenceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The reference that a training could compare frames with, and what it gained."""

    scope: Scope
    file: str | None
    found: str
    """How the reference was found, for people."""
    kept: bool
    """Whether the model compares with it."""
    misaligned: list[str]
    """Names of the pictures that could not be aligned with it."""
    alignment: dict[str, float]
    """How all other pictures lie to their references, see `measure_alignment`; empty: there are none."""
    without: dict[str, float]
    """Metrics of the cross-validation without it; empty: not measured, as it had to be used."""
    compared: dict[str, float]
    """Metrics of the cross-validation with it; empty: there was none."""


@dataclass(frozen=True)
class References:
    """The references of the pictures of a folder.

    A frame is never compared with a reference that was made from itself, nor, where one reference serves all groups,
    from frames of its own group: on the line, a frame is new to the reference.
    """

    scope: Scope
    """What one reference serves: all pictures (of a file, or a product), one picture, or the pictures of a group."""
    folder: Path
    images: tuple[LabelledImage, ...]
    """The pictures that references are made from."""
    file: Path | None = None
    """Of scope `file`."""
    _making: Lock = field(default_factory=Lock, repr=False, compare=False)

    def of(self, image: LabelledImage) -> Reference | None:
        """Return the reference of a picture; None: its name or its group has none, or the picture is the file."""
        if self.scope == "file":
            return None if self.is_file(image) else self._of_file
        if self.scope == "templates":
            path = self.templates.get(image.path.stem)
            return None if path is None else Reference(read_rgb(path), 1, f"template {path.name}")
        sources = self.sources(image.group)
        if not sources:
            return None
        others = [
            each
            for each in sources
            if each.path != image.path and (self.scope == "group" or each.group is None or each.group != image.group)
        ]
        if len(others) < FEWEST_FRAMES - 1:
            return None
        # That of a design without one picture serves this picture only.
        make = _make if self.scope == "group" and len(others) < len(sources) else self._made
        with self._making:  # once, and not by every thread that waits for it
            return make(tuple(others), self._described(image.group))

    def is_file(self, image: LabelledImage) -> bool:
        """Whether a picture is the one that all are compared with; of scope `file`."""
        return digest_picture(image.path) == self._digest_of_file

    def on(self, folder: Path, images: Sequence[LabelledImage]) -> "References":
        """Return the references of another folder's pictures: its own templates and designs, or the same one."""
        return self if self.scope in ("file", "product") else replace(self, folder=folder, images=tuple(images))

    def of_design(self, group: str | None) -> Reference | None:
        """Return the reference of a design, for a line that inspects it; of scope `group`, the design is the group."""
        if self.scope == "file":
            return self._of_file
        sources = self.sources(group)
        return self._made(tuple(sources), self._described(group)) if sources and self.scope != "templates" else None

    @cached_property
    def designs(self) -> list[str]:
        """Names of the designs, each with its own reference; empty: one serves all, or each picture has its own."""
        named = {str(image.group) for image in self.images if not image.reviewed}
        return sorted(named) if self.scope == "group" else []

    def sources(self, group: str | None) -> list[LabelledImage]:
        """Return the pictures that the reference of a design is made from: good ones if there are enough, evenly of all
        groups; never frames of a line."""
        of = [image for image in self.images if not image.reviewed and (self.scope != "group" or image.group == group)]
        usable = [image for image in of if not image.defective]
        if len(usable) < FEWEST_FRAMES:  # the clean px of marked ones do as well
            usable = [image for image in of if not image.defective or not image.labels_only]
        by_group: dict[str | None, list[LabelledImage]] = {}
        for image in usable:
            by_group.setdefault(image.group, []).append(image)
        if len(by_group) > MOST_FRAMES:
            firsts = [of_group[0] for of_group in by_group.values()]
            return [firsts[at] for at in evenly(len(firsts), MOST_FRAMES)]
        turns = zip_longest(*by_group.values())  # the first picture of each group, then the second, ...
        return [image for turn in turns for image in turn if image is not None][:MOST_FRAMES]

    def _described(self, group: str | None) -> str:
        of = group if self.scope == "group" else self.folder.name
        return f"{format_count(len(self.sources(group)), 'picture')} of {of}"

    @cached_property
    def _made(self) -> Callable[[tuple[LabelledImage, ...], str], Reference]:
        return lru_cache(maxsize=8)(_make)  # of the last designs or groups: pictures may be large

    @cached_property
    def _digest_of_file(self) -> str:
        assert self.file is not None, "its scope is `file`"
        return digest_picture(self.file)

    @cached_property
    def _of_file(self) -> Reference:
        assert self.file is not None, "its scope is `file`"
        return Reference.of([read_rgb(self.file)], self.file.name)

    @cached_property
    def templates(self) -> dict[str, Path]:
        """The pictures in the folder of templates, by stem."""
        try:
            return {path.stem: path for path in (self.folder / TEMPLATES).iterdir() if path.suffix.lower() in SUFFIXES}
        except OSError:
            return {}


def find_references(
    wanted: str, data: LabelledFolder, images: Sequence[LabelledImage], sizes: Sequence[tuple[int, int]]
) -> tuple[References | None, str]:
    """Find the references that the pictures of a training can be compared with.

    Reviewed frames have no say, as nobody knows their template or design.

    Args:
        wanted: `auto`, `on`, `off`, or a picture's file.
        sizes: height and width of each picture, px.
    Returns: the references and how they were found; or None and why there are none.
    Raises:
        InputError: `wanted` is not `auto`, and there are none.
    """
    if wanted == "off":
        return None, "reference=off"
    own = [at for at, image in enumerate(images) if not image.reviewed]
    images, sizes = [images[at] for at in own], [sizes[at] for at in own]
    if wanted not in ("auto", "on"):
        if not Path(wanted).is_file():
            raise InputError(f"reference={wanted} is not a picture; expected auto, on, off, or the file of a picture")
        found = References("file", data.folder, tuple(images), Path(wanted))
        same = [image for image in images if found.is_file(image)]
        if defective := [image for image in same if image.defective]:
            raise InputError(
                f"reference={wanted} is {defective[0].name}, which is labelled defective; name a picture of a good part"
            )
        others = [image for image in images if image not in same]
        if reason := _why_unlike(found, images, sizes) or _why_unfixed(found, others, LEAST_OF_FILE, -1):
            raise InputError(
                f"reference={wanted} does not show what {data.folder} shows: {reason}; name another picture"
            )
        return found, f"all pictures are compared with {found.file}"
    scopes: list[Scope] = ["product"]
    if max(Counter(image.group for image in images).values()) in range(FEWEST_FRAMES, len(images)):
        scopes.append("group")
    reasons = []
    if templates := References("templates", data.folder, tuple(images)).templates:
        lacking = [
            image.name
            for image in images
            if (template := templates.get(image.path.stem)) is None
            or digest_picture(template) == digest_picture(image.path)
        ]
        if lacking:
            reasons.append(f"{TEMPLATES}/ has no picture, or the same file, for {list_some(lacking, 3)}")
        else:
            scopes = ["templates"]
    for scope in scopes:
        found = References(scope, data.folder, tuple(images))
        try:
            reason = _why_unlike(found, images, sizes) or _why_unfixed(found, images)
        except InputError as error:
            reason = str(error)
        if reason is None:
            how = {
                "templates": f"each picture is compared with its template in {TEMPLATES}/",
                "group": f"the pictures of each of {len(found.designs)} groups are compared with a reference of it",
            }
            return found, how.get(scope, "all pictures are compared with one reference")
        reasons.append(f"by a reference of each group, {reason}" if scope == "group" else reason)
    if wanted == "on":
        raise InputError(
            f"reference=on, and {data.folder} has no fixed pose: {'; '.join(reasons)}; leave reference=on out, or name "
            "a picture of a good part with reference=FILE"
        )
    return None, f"the pictures show no fixed pose: {'; '.join(reasons)}"


def describe_reference(found: ReferenceSummary) -> str:
    """Describe what a reference gained, and whether it is kept."""
    if not found.without:
        return "the model compares frames with the reference"
    gained = ", ".join(
        f"{name} {found.without[key]:.3f} without, {found.compared[key]:.3f} with it"
        for key, name in GAINS.items()
        if key in found.without and key in found.compared
    )
    return f"the reference {'is kept' if found.kept else 'gains nothing and is not kept'}: {gained or 'no figure'}"


def measure_alignment(poses: Sequence[Pose]) -> dict[str, float]:
    """Return the figures of the aligned frames' poses; empty: there are none."""
    if not poses:
        return {}
    shifts = [math.hypot(pose.x_px, pose.y_px) for pose in poses]
    return {
        "frames": len(poses),
        "median_shift_px": float(np.median(shifts)),
        "highest_shift_px": max(shifts),
        "highest_degrees": max(abs(pose.degrees) for pose in poses),
        "highest_error_px": max(pose.error_px for pose in poses),
        "lowest_confidence": min(pose.confidence for pose in poses),
    }


def _why_unlike(found: References, images: Sequence[LabelledImage], sizes: Sequence[tuple[int, int]]) -> str | None:
    """Say why some pictures could not be compared, whatever they show; None: there is nothing against it."""
    if found.scope == "templates":
        return None
    if (one := found.of_design(None) if found.scope == "file" else None) is not None:
        hw = one.frame_hw
        other = [f"{image.name} has {w}x{h} px" for image, (h, w) in zip(images, sizes, strict=True) if (h, w) != hw]
        return f"it has {hw[1]}x{hw[0]} px, and {other[0]}" if other else None
    by_design: dict[str | None, set[tuple[int, int]]] = {}
    for image, size in zip(images, sizes, strict=True):
        by_design.setdefault(image.group if found.scope == "group" else None, set()).add(size)
    for design, own in by_design.items():
        of = "the pictures" if design is None else f"the pictures of {design}"
        if len(own) > 1:
            return f"{of} differ in size"
        if (count := len(found.sources(design))) < FEWEST_FRAMES:
            return f"a reference needs {FEWEST_FRAMES} good pictures, or ones with masks, and {of} hold {count}"
    return None


def _why_unfixed(
    found: References,
    images: Sequence[LabelledImage],
    least_aligned: float = LEAST_ALIGNED,
    least_correlation: float = LEAST_CORRELATION,
) -> str | None:
    """Say why the part does not lie in the same place in all frames; None: it does."""
    good = [image for image in images if not image.defective] or list(images)
    tried = [good[at] for at in evenly(len(good), TRIED)]
    aligned, correlations = 0, []
    for image in tried:
        if (reference := found.of(image)) is None:
            return f"there are fewer than {FEWEST_FRAMES - 1} other pictures to compare {image.name} with"
        rgb = image.pixels()
        pose, misaligned = reference.pose_of(rgb)
        if pose is not None and misaligned is None:
            aligned += 1
            correlations += tile_correlations(reference, rgb, pose, marked_px(image, reference.frame_hw))
    if aligned < least_aligned * len(tried) or not correlations:
        return f"{len(tried) - aligned} of {len(tried)} pictures do not show the part where the reference shows it"
    if (lowest := float(np.quantile(correlations, AT_QUANTILE))) < least_correlation:
        return f"good pictures differ too much: aligned tiles correlate by {lowest:.2f}, expected {least_correlation}"
    return None


def tile_correlations(
    reference: Reference, rgb: NDArray[np.uint8], pose: Pose, marked: NDArray[np.bool_] | None = None
) -> list[float]:
    """Return the correlation of each tile of an aligned frame with the reference; tiles without contrast are left out.

    What the reference does not show, and `marked` px, bool [H, W], do not count as different.
    """
    grid, seen = TileGrid(reference.frame_hw), to_grey(rgb)
    motion, size = pose.matrix(reference.frame_hw), seen.shape[::-1]
    warped = cv2.warpAffine(reference.grey, motion, size, dst=seen.copy(), borderMode=cv2.BORDER_TRANSPARENT)
    moved = np.asarray(warped, np.uint8)
    if marked is not None:
        moved[marked] = seen[marked]
    found = []
    for y, x in grid.origins_yx:
        tiles = (each[y : y + grid.tile_px, x : x + grid.tile_px].astype(np.float32) for each in (moved, seen))
        a, b = (np.asarray(cv2.GaussianBlur(tile, (0, 0), SMOOTHED_PX)) for tile in tiles)
        if max(a.std(), b.std()) > FEWEST_GREY:
            a, b = a - a.mean(), b - b.mean()
            found.append(float((a * b).mean() / max(a.std() * b.std(), 1e-6)))
    return found


def _make(sources: tuple[LabelledImage, ...], made_of: str) -> Reference:
    """Make a reference of these pictures; their marked defects, and what lies near them, do not count."""
    pictures = [image.pixels() for image in sources]
    masks = [marked_px(image, (rgb.shape[0], rgb.shape[1])) for image, rgb in zip(sources, pictures, strict=True)]
    return Reference.of(pictures, made_of, masks)


def marked_px(image: LabelledImage, frame_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the marked px and those near, bool [H, W]; None: the picture has no marks."""
    mask = image.mask(frame_hw) if image.defective else None
    if mask is None:
        return None
    near = np.ones((2 * NEAR_DEFECT_PX + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), near) > 0)
