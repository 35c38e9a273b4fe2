"""Warnings about labels or defects that may not suffice for training, each with what to do."""

import math
from collections.abc import Sequence
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import frames_to_show
from heatline.edge.calibration.thresholds import score_threshold, threshold
from heatline.edge.labels.collected import ENOUGH_DEFECTIVE, ENOUGH_GOOD
from heatline.edge.util.text import format_count
from heatline.train.readers import LabelledImage

CELL_PX = 8
"""Side of a cell of the default recipe's map, px of the picture."""
FEWEST_CELLS = 4
"""A defect that covers fewer cells of the map has no outline there."""
MOST_AMBIGUOUS = 1 / 3
"""A warning is due if a larger share of the tiles with a defect is ambiguous."""
FEW_GROUPS = 10
"""Figures from fewer groups depend on single groups."""
MEASURED = {
    10: ((34, 100), (0.0, 13.8), 5),
    25: ((30, 93), (0.0, 10.2), 4),
    50: ((24, 87), (1.0, 10.0), 3),
    100: ((17, 88), (0.0, 1.1), 3),
}
"""By number of pictures that trained, at export's default threshold: the lowest and the highest percentage of new
defective pictures found and of new good ones rejected, and how many sets with as many pictures were measured
(docs/training.md)."""
GOOD_ONLY = (
    "no defect has shown what such a model finds, and its thresholds bound nothing but the share of good parts "
    "rejected; mark what it misses for heatline retrain, or add a few masks: on bsdata, 4 raised the tile AP of a "
    "training by labels from 0.64 to 0.83"
)
RAREST_SHARE = 5
"""In the measured sets, at least one picture in so many had the rarer label."""
UNLIKELY = 0.01
"""Significance level of the warning about thresholds."""


def defect_areas(mask: NDArray[np.bool_]) -> list[int]:
    """Return the areas of connected defects (8 neighbours) of a mask bool [H, W], px."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return [int(area) for area in stats[1:, cv2.CC_STAT_AREA]]


def describe_small_defects(
    areas_px: Sequence[int], ambiguous: int, defective: int, tile_px: int, defective_share: float
) -> list[str]:
    """Describe defects that are small for the tiles or the map; return no sentence if they are not.

    Args:
        ambiguous, defective: tiles with a defective share above 0 and at most `defective_share`, or a larger one.
    """
    warnings = []
    if areas_px and (middle := median(areas_px)) < FEWEST_CELLS * CELL_PX**2:
        warnings.append(
            f"defects are small: half of the {len(areas_px)} have at most {middle:.0f} px, "
            f"{100 * middle / tile_px**2:.2f} % of a {tile_px} px tile and {middle / CELL_PX**2:.1f} cells "
            f"({CELL_PX}x{CELL_PX} px) of the map, too few to show their outline; take pictures with more px per mm"
        )
    if ambiguous > MOST_AMBIGUOUS * (ambiguous + defective):
        warnings.append(
            f"{ambiguous} of the {format_count(ambiguous + defective, 'tile')} with a defect "
            f"{'has' if ambiguous == 1 else 'have'} at most {100 * defective_share:.1f} % of "
            "the area defective: the recipe heatline counts them as defective, finetune does not train on them, and "
            "study counts them as good; use heatline, or a lower tiles.defective_share"
        )
    return warnings


def describe_few_groups(images: Sequence[LabelledImage]) -> list[str]:
    """Describe labels that come from few groups; return no sentence if there are many, or if groups are unknown."""
    if any(image.group is None for image in images):
        return []
    warnings = []
    with_defects = {str(image.group) for image in images if image.defective}
    lacking = ENOUGH_DEFECTIVE - sum(image.defective for image in images)
    if 0 < len(with_defects) < FEW_GROUPS:
        others = FEW_GROUPS - len(with_defects)
        warnings.append(
            f"only {format_count(len(with_defects), 'group')} {'has' if len(with_defects) == 1 else 'have'} a "
            f"defective picture: the figures depend on {', '.join(sorted(with_defects))} and may differ on others; add "
            f"{format_count(max(lacking, others), 'defective picture')} of {format_count(others, 'other group')}"
        )
    elif with_defects and lacking > 0:
        warnings.append(
            f"only {ENOUGH_DEFECTIVE - lacking} pictures are defective: with so few, models told new pictures apart "
            f"less well on measured sets; add {format_count(lacking, 'defective picture')} of other groups"
        )
    with_good = {image.group for image in images if not image.defective}
    if not with_good:
        warnings.append(
            "no picture is good: thresholds come from the clean tiles of defective pictures, if those are marked; add "
            f"good pictures of {ENOUGH_GOOD} groups"
        )
    elif len(with_good) < ENOUGH_GOOD:
        warnings.append(
            f"only {format_count(len(with_good), 'group')} {'has' if len(with_good) == 1 else 'have'} a good picture: "
            f"a threshold from so few may reject 1 in {len(with_good) + 1} new good parts; add good pictures of "
            f"{format_count(ENOUGH_GOOD - len(with_good), 'other group')}"
        )
    return warnings


def describe_expectation(images: Sequence[LabelledImage]) -> str | None:
    """Describe what so many pictures gave on the measured sets, or what no defects show; None without pictures.

    Of pictures with one label, no more count than such a set would have.
    """
    defective = sum(image.defective for image in images)
    if not defective:
        return GOOD_ONLY if images else None
    good = len(images) - defective
    count = min(len(images), RAREST_SHARE * min(good, defective)) if good else defective
    number = max((each for each in MEASURED if each <= count), default=min(MEASURED))
    (least, most), rejected, sets = MEASURED[number]
    more = ", and more pictures did not always find more at this threshold" if number == max(MEASURED) else ""
    unlike = "" if not any(image.labels_only and image.defective for image in images) else "; yours are not all marked"
    return (
        f"on {sets} measured sets, {number} pictures with marked defects found {least} to {most} % of new defective "
        f"pictures and rejected {rejected[0]:.0f} to {rejected[1]:.1f} % of new good ones at export's threshold"
        f"{more}{unlike}"
    )


def describe_threshold_transfer(
    highest: Sequence[float], groups: Sequence[str | None], share: float, lowest_defect: float | None = None
) -> list[str]:
    """Describe groups whose good frames a threshold from the other groups would reject; return no sentence if none.

    Each group is compared with the others by Fisher's exact test at level `UNLIKELY`, with Bonferroni's correction.

    Args:
        highest: highest logit of each good frame, from a model that was not trained on its group.
        share: wanted share of rejected good frames.
        lowest_defect: logit of the lowest-scoring defect, which the threshold takes into account.
    """
    scores, group_of = np.array(highest), np.array([str(group) for group in groups])
    names, counts = np.unique(group_of, return_counts=True)
    worse = []
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        in_group = group_of == name
        if count == 1 or in_group.all():
            continue
        threshold, _ = score_threshold(scores[~in_group].tolist(), share, lowest_defect, group_of[~in_group].tolist())
        rejected = int((scores[in_group] >= threshold).sum())
        rejected_others = int((scores[~in_group] >= threshold).sum())
        if 2 * fisher_tail(rejected_others, len(group_of) - count, rejected, count) < UNLIKELY / len(names):
            worse.append((rejected / count, f"{rejected} of {count} of {name}"))
    if not worse:
        return []
    worst = ", ".join(description for _, description in sorted(worse, reverse=True)[:3])
    return [
        f"a threshold does not suit every group: set by the other groups, it would reject {worst}, all good, where "
        f"{100 * share:.1f} % was wanted; before you use the line for a new group (place, board, lot), calibrate with "
        f"{format_count(frames_to_show(share), 'good frame') if share else 'many good frames'} of it (heatline "
        "calibrate)"
    ]


MOST_TO_LOOK_AT, LEAST_FOUND = 3, 0.1
"""Groups that are named at most, and the share of defective frames that must be found without them."""


def describe_doubtful_groups(
    good: Sequence[float], groups: Sequence[str | None], defective: Sequence[float], share: float
) -> str | None:
    """Describe few groups of good frames that cost many defects, as wrong labels do; None: there are none.

    Args:
        good, defective: highest logit of each frame, from a model that was not trained on its group.
        groups: of the good frames.
        share: wanted share of rejected good frames.
    """
    scores, group_of, defects = np.array(good), np.array([str(group) for group in groups]), np.array(defective)
    by_highest = list(dict.fromkeys(group_of[np.argsort(-scores, kind="stable")].tolist()))
    if not by_highest:
        return None
    missed = []
    for count in range(min(MOST_TO_LOOK_AT, len(by_highest) // 10) + 1):
        left = ~np.isin(group_of, by_highest[:count])
        missed.append(int((defects < threshold(scores[left], share)).sum()))
    count = int(np.argmin(missed))
    if missed[0] - missed[count] < max(LEAST_FOUND * len(defects), 1):
        return None
    frames, named = int(np.isin(group_of, by_highest[:count]).sum()), ", ".join(by_highest[:count])
    return (
        f"{format_count(frames, 'good picture')} of {'group' if count == 1 else 'groups'} {named} set the threshold: "
        f"without them, {missed[count]} instead of {missed[0]} of {format_count(len(defects), 'defective picture')} "
        "would be missed; look at them, and call them defective if they are"
    )


def fisher_tail(first: int, first_n: int, second: int, second_n: int) -> float:
    """Return the probability of `second` or more of `second_n` if both samples are alike, by Fisher's exact test.

    It is valid even if a threshold was set just above the (first + 1)-th highest value of the first sample: if `second`
    or more values lie above it, at most `first` of the highest first + second values come from the first sample, which
    is exactly this tail.
    """
    counted = first + second
    ways = math.comb(first_n + second_n, counted)
    return sum(
        math.comb(second_n, k) * math.comb(first_n, counted - k) / ways
        for k in range(second, min(counted, second_n) + 1)
    )
