"""Whether labels and defects are enough to train on: warnings in words, with what to do.

They are counts and sizes against the rules that training and evaluation have; that nothing is said is no promise.
"""

from collections.abc import Sequence
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.calibration import score_threshold
from edge.calibration.binomial import frames_to_show
from edge.calibration.two_samples import fisher_exact
from edge.util.text import format_count
from train.readers import LabelledImage

CELL_PX = 8
"""Side of a cell of the default recipe's map, px of the picture."""

FEWEST_CELLS = 4
"""A defect of fewer cells of the map has no outline there."""

MOST_AMBIGUOUS = 1 / 3
"""Of the tiles with a defect: a larger share that is too little defective to count so is warned of."""

FEW_GROUPS = 10
"""Figures from fewer groups than these rest on a few of them."""

UNLIKELY = 0.01
"""What is warned of comes about by chance in fewer cases than this."""


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
            f"{ambiguous} of the {format_count(ambiguous + defective, 'tile')} with a defect "
            f"{'has' if ambiguous == 1 else 'have'} at most {defective_share:.1%} of "
            "the area defective: the recipe heatline counts them as defective, finetune does not train on them, and "
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


def describe_carrying(
    highest: Sequence[float], groups: Sequence[str | None], share: float, coldest_defect: float | None = None
) -> list[str]:
    """What to say of groups whose good frames a threshold from the others would reject; nothing where it carries.

    Args:
        highest: highest logit of each good frame, by a model that was not trained on its group.
        groups: of each.
        share: wanted share of good frames that is rejected.
        coldest_defect: as the threshold is set by it.
    """
    scores, of = np.array(highest), np.array([str(group) for group in groups])
    names, counts = np.unique(of, return_counts=True)
    bad = []
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        mine = of == name
        if count == 1 or mine.all():
            continue
        others, _ = score_threshold(scores[~mine].tolist(), share, coldest_defect, of[~mine].tolist())
        rejected, beside = int((scores[mine] >= others).sum()), int((scores[~mine] >= others).sum())
        more = fisher_exact(beside, len(of) - count, rejected, count)
        if more.second_is == "higher" and more.p < UNLIKELY / len(names):
            bad.append((rejected / count, f"{rejected} of {count} of {name}"))
    if not bad:
        return []
    worst = ", ".join(words for _, words in sorted(bad, reverse=True)[:3])
    return [
        f"a threshold does not carry to every group: set by the other groups, it would reject {worst}, all good, where "
        f"{share:.1%} was wanted; before the line is trusted with a new one (place, board, lot), calibrate with "
        f"{format_count(frames_to_show(share, 0), 'good frame') if share else 'many good frames'} of it (heatline "
        "calibrate)"
    ]


def _groups(count: int) -> str:
    return "only 1 group has" if count == 1 else f"only {count} groups have"
