"""What `heatline bench seams` found, as it stands in its file."""

import statistics
from collections.abc import Sequence

import msgspec


class Slide(msgspec.Struct, frozen=True):
    """One defect slid across one seam."""

    kind: str
    size_px: int
    overlap_px: int
    peak_off_px: float
    """Farthest that the heatmap's peak near the defect was from its pixels, over all places, judged DEFECT or not."""
    logit_lowest: float
    logit_highest: float
    """Of the highest tile logit, over all positions."""
    missed_share: float
    """Share of positions at which no tile reached the score threshold."""

    @property
    def logit_change(self) -> float:
        return self.logit_highest - self.logit_lowest


class AtBoth(msgspec.Struct, frozen=True, kw_only=True):
    """The same defect, slid across a seam of the bundle's overlap and across one of its own size."""

    at_bundle_overlap: Slide
    at_defect_overlap: Slide


class SlidesInAll(msgspec.Struct, frozen=True, kw_only=True):
    """Medians and worst cases over some slides."""

    peak_off_px_worst: float
    never_seen: int
    """Defects that no tile saw, wherever they lay."""
    logit_change_median: float
    logit_change_worst: float
    logit_lowest: float
    missed_share: float
    """Mean over slides."""


class SeamsBench(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    seed: int
    defects: int
    at_bundle_overlap: SlidesInAll
    at_defect_overlap: SlidesInAll
    slides: list[AtBoth]


def summarise(slides: Sequence[Slide]) -> SlidesInAll:
    """Of one slide or more."""
    changes = [slide.logit_change for slide in slides]
    return SlidesInAll(
        peak_off_px_worst=max(slide.peak_off_px for slide in slides),
        never_seen=sum(slide.missed_share == 1 for slide in slides),
        logit_change_median=statistics.median(changes),
        logit_change_worst=max(changes),
        logit_lowest=min(slide.logit_lowest for slide in slides),
        missed_share=statistics.fmean(slide.missed_share for slide in slides),
    )


def seams_bench(bundle: str, seed: int, slides: Sequence[AtBoth]) -> SeamsBench:
    """All slides of a bundle, summed up."""
    return SeamsBench(
        bundle=bundle,
        seed=seed,
        defects=len(slides),
        at_bundle_overlap=summarise([one.at_bundle_overlap for one in slides]),
        at_defect_overlap=summarise([one.at_defect_overlap for one in slides]),
        slides=list(slides),
    )


def to_facts(found: SeamsBench) -> dict[str, object]:
    """The same for people."""
    return {
        words: f"the peak is off by {of.peak_off_px_worst:.1f} px at most; the highest logit changes by "
        f"{of.logit_change_median:.2f} (median), {of.logit_change_worst:.2f} at most, and is {of.logit_lowest:.2f} at "
        f"least; missed at {of.missed_share:.1%} of all places; {of.never_seen} of {found.defects} never seen"
        for words, of in (
            ("at the bundle's overlap", found.at_bundle_overlap),
            ("at the defect's size", found.at_defect_overlap),
        )
    }
