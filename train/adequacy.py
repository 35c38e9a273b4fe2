"""Whether labels and defects are enough to train on: warnings in words, with what to do.

They are counts and sizes against the rules that training and evaluation have; that nothing is said is no promise.
"""

from collections.abc import Sequence
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from train.readers import LabelledImage

CELL_PX = 8
"""Side of a cell of the default recipe's map, px of the picture."""

FEWEST_CELLS = 4
"""A defect of fewer cells of the map has no outline there."""

MOST_AMBIGUOUS = 1 / 3
"""Of the tiles with a defect: a larger share that is too little defective to count so is warned of."""

FEW_GROUPS = 10
"""Figures from fewer groups than these rest on a few of them."""


def defect_areas(mask: NDArray[np.bool_]) -> list[int]:
    """The areas of connected defects (8 neighbours) of a mask [H, W], px."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return [int(area) for area in stats[1:, cv2.CC_STAT_AREA]]


def describe_small_defects(
    areas_px: Sequence[int], ambiguous: int, defective: int, tile_px: int, defective_share: float
) -> list[str]:
    """What to say of defects that are small for the tiles and for the map; nothing where they are not.

    Args:
        areas_px: of each defect, as `defect_areas` gives them.
        ambiguous: tiles with a defect of up to `defective_share` of their area.
        defective: tiles with more.
        tile_px: side of a tile.
    """
    said = []
    if areas_px and (middle := median(areas_px)) < FEWEST_CELLS * CELL_PX**2:
        said.append(
            f"defects are small: half of the {len(areas_px)} have at most {middle:.0f} px, {middle / tile_px**2:.2%} "
            f"of a {tile_px} px tile and {middle / CELL_PX**2:.1f} cells ({CELL_PX}x{CELL_PX} px) of the map, too few "
            "to show their outline; take pictures with more px per mm"
        )
    if ambiguous > MOST_AMBIGUOUS * (ambiguous + defective):
        said.append(
            f"{ambiguous} of the {ambiguous + defective} tiles with a defect have at most {defective_share:.1%} of "
            "their area defective: the recipe heatline counts them as defective, finetune does not train on them, and "
            "study counts them as good; use heatline, or a lower tiles.defective_share"
        )
    return said


def describe_few_groups(images: Sequence[LabelledImage]) -> list[str]:
    """What to say of labels from few groups; nothing where they are many, or where groups are not known."""
    if any(image.group is None for image in images):
        return []
    said = []
    with_defects = {image.group for image in images if image.defective}
    if 0 < len(with_defects) < FEW_GROUPS:
        said.append(
            f"{_groups(len(with_defects))} a defective picture: what is measured rests on these few things and may "
            f"differ on others; add defective pictures of other things, {FEW_GROUPS} or more"
        )
    with_good = {image.group for image in images if not image.defective}
    if not with_good:
        said.append(
            "no picture is good: thresholds come from the clean tiles of defective pictures, if those are marked; add "
            f"good pictures of {FEW_GROUPS} things or more"
        )
    elif len(with_good) < FEW_GROUPS:
        said.append(
            f"{_groups(len(with_good))} a good picture: a threshold from so few may reject many more good parts than "
            f"it promises; add good pictures of other things, {FEW_GROUPS} or more"
        )
    return said


def _groups(count: int) -> str:
    return "only 1 group has" if count == 1 else f"only {count} groups have"
