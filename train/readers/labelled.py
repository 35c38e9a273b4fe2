"""What was read of a folder: pictures, and what is known of each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.images import read_rgb
from edge.util.text import format_count, utf8_safe
from train.readers.annotation import Annotation


@dataclass(frozen=True)
class LabelledImage:
    """One picture and what is known of it."""

    path: Path
    group: str | None
    """What must stay together in a split; None if the folder was read without a way to tell."""
    defective: bool
    annotation: Annotation | None
    """Where its defects lie; None for a good picture that has no annotation, and where only labels are known."""
    labels_only: bool = False
    """Whether it is only known to be good or defective as a whole."""

    @property
    def name(self) -> str:
        """Its file name, with `?` for bytes that are no UTF-8: to be shown, and not to find the file."""
        return utf8_safe(self.path.name)

    @property
    def name_in_folder(self) -> str:
        """Its name with the subfolder that it lies in: no other picture of the folder has it."""
        return f"{utf8_safe(self.path.parent.name)}/{self.name}"

    @property
    def truth_files(self) -> tuple[Path, ...]:
        """The files, besides the picture, that its labels rest on."""
        return () if self.annotation is None else (self.annotation.file,)

    def pixels(self) -> NDArray[np.uint8]:
        """RGB uint8 [H, W, 3], by the line's own colour function.

        Raises:
            InputError: the picture cannot be decoded.
        """
        return read_rgb(self.path)

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Defective pixels, bool [H, W], of this picture of that size; None where only the label is known.

        Raises:
            InputError: the annotation cannot be used, or contradicts the label "good".
        """
        if self.labels_only:
            return None
        if self.annotation is None:
            return np.zeros(frame_hw, np.bool_)
        mask = self.annotation.mask(frame_hw)
        if mask.any() and not self.defective:
            raise InputError(
                f"{self.path} is labelled good, but {self.annotation.file} marks {int(mask.sum())} defective px; "
                "mend the label or the annotation"
            )
        return mask

    def has_exact_mask(self) -> bool:
        """Whether `mask` follows the defects, as masks and polygons do, and so do good pictures.

        False where the mask consists of boxes, which overstate defects, and where there is none.

        Raises:
            InputError: the annotation is damaged.
        """
        if self.annotation is not None:
            return self.annotation.is_exact()
        return not self.labels_only


@dataclass(frozen=True)
class LabelledFolder:
    """What a folder was understood to hold, in the order of its file names."""

    folder: Path
    truth: str
    """A key of `folder.TRUTHS`, or `folder.LABELS_ONLY`: of the pictures that are not `labels_only`."""
    images: tuple[LabelledImage, ...]
    groups_are: str
    """In words, where the groups come from or were looked for."""
    strays: Mapping[str, Annotation]
    """Annotations of no picture, by the name that their picture would have, without its ending."""

    @property
    def name(self) -> str:
        return self.folder.name

    def groups(self) -> list[str]:
        """All groups, sorted.

        Raises:
            InputError: the folder was read without a way to tell them.
        """
        if any(image.group is None for image in self.images):
            raise InputError(
                f"{self.folder} cannot be split, as groups were looked for in {self.groups_are}; name the column with "
                "split.group=..., or give split.pattern=..., a regular expression whose first parenthesis is the group"
            )
        return sorted({str(image.group) for image in self.images})

    def groups_with_defects(self) -> set[str]:
        """The groups of which a picture is defective."""
        return {str(image.group) for image in self.images if image.defective}

    def with_groups(self, groups: Mapping[Path, str], groups_are: str) -> "LabelledFolder":
        """The same pictures in other groups.

        Args:
            groups: of every picture, by its path.
            groups_are: where they come from, in words.
        """
        images = tuple(replace(image, group=groups[image.path]) for image in self.images)
        return replace(self, images=images, groups_are=groups_are)

    def describe_mixture(self) -> str | None:
        """How many defective pictures have no defect marked, in a sentence; None where none has, or nothing is."""
        defective = [image for image in self.images if image.defective]
        unmarked = [image for image in defective if image.labels_only]
        if not unmarked or all(image.labels_only for image in self.images):
            return None
        return (
            f"{len(unmarked)} of {format_count(len(defective), 'defective picture')} "
            f"{'has' if len(unmarked) == 1 else 'have'} no defect marked ({self.truth}), first "
            f"{unmarked[0].name}: only the label is used"
        )
