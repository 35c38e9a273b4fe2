"""What changes if a new bundle inspects the pictures that an old one inspected: the question before a changeover."""

from collections import Counter

import msgspec

from heatline.edge.archive.finding import Box, Finding
from heatline.edge.archive.tally import Rate, Tally, Worst
from heatline.edge.calibration.binomial import interval
from heatline.edge.calibration.group_bootstrap import describe_basis
from heatline.edge.wire.events import Verdict

VERDICTS: tuple[Verdict, ...] = ("GOOD", "DEFECT", "NO_VERDICT")


class Change(msgspec.Struct, frozen=True):
    """What the old and the new bundle found in one picture."""

    old: Finding
    new: Finding
    same_processor: bool = True
    """Whether both bundles ran on the same model of processor."""

    @property
    def is_same_file(self) -> bool:
        """False: the file changed between the two runs, or could be read in one of them only."""
        return self.old.content == self.new.content

    @property
    def is_flip(self) -> bool:
        """Whether the bundles give the same file two verdicts. NO_VERDICT counts as a verdict here."""
        return self.is_same_file and self.old.verdict != self.new.verdict

    @property
    def is_new_escape(self) -> bool:
        return self.new.is_escape and not self.old.is_escape

    @property
    def margin_moved(self) -> float | None:
        """How far the score moved against its threshold, logits, upwards positive. None: a verdict is missing."""
        old, new = self.old.margin, self.new.margin
        return None if old is None or new is None else new - old

    @property
    def shared_regions(self) -> int:
        """How many of the new regions overlap an old one; boxes stand for regions."""
        return sum(any(_overlap(new, old) for old in self.old.boxes) for new in self.new.boxes)

    @property
    def is_elsewhere(self) -> bool:
        """Whether both find defects, but none at a common place."""
        both = self.old.verdict == self.new.verdict == "DEFECT"
        return both and bool(self.old.boxes and self.new.boxes) and self.shared_regions == 0

    @property
    def severity(self) -> tuple[float, ...]:
        """Sort key of flips, the worst first: new escapes first, verdicts that the label calls right last; then by how
        far the margin moved, those that lack a verdict last; then by number.
        """
        rank = 0 if self.is_new_escape else 2 if self.new.is_right else 1
        moved = self.margin_moved
        return rank, moved is None, -abs(moved or 0.0), self.new.number


SEVERITY = (
    "New escapes come first, flips to the verdict that the label calls right come last. Otherwise the order is that of "
    "how far the score moved against its threshold."
)
"""The rule of `Change.severity`, for people."""
GROUPS = (
    "Groups with the most new escapes come first, then those with the highest share of another verdict; equal ones are "
    "in the order of their names."
)
"""The order of groups, for people."""


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """Mistakes of both bundles in the pictures with one label to which at least one of them gave a verdict. NO_VERDICT
    is not a mistake.
    """

    pictures: int
    old: Rate
    new: Rate
    added: Rate
    """Mistakes that only the new bundle makes."""
    removed: Rate
    """Mistakes that only the old bundle makes."""
    change: Rate | None = None
    """The new bundle's mistakes minus the old one's, over all groups; None for one group."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What changes in the pictures of a group, or in all. A rate is None if there is no picture to count."""

    group: str | None
    """None: all."""
    pictures: int
    other_files: int
    """Pictures whose file changed between the runs, or could be read in one only: in no other figure."""
    transitions: dict[Verdict, dict[Verdict, int]]
    """Pictures by the old bundle's verdict, then by the new one's."""
    flips: Rate | None
    defect_to_good: Rate | None
    good_to_defect: Rate | None
    lost: Rate | None
    """Pictures that only the old bundle gives a verdict."""
    gained: Rate | None
    """Pictures that only the new bundle gives a verdict."""
    elsewhere: int
    """Pictures in which both find defects, none of them at a common place."""
    escapes: Paired | None
    """Of the pictures with label `defective`; None: there are none."""
    false_rejects: Paired | None
    """Of the pictures with label `good`; None: there are none."""


class Comparison:
    """Compares two bundles, picture by picture. Memory grows with the number of groups only.

    Args:
        worst: how many of the worst flips to remember.
    """

    def __init__(self, worst: int) -> None:
        self.tally = Tally()
        self._worst = Worst[Change](worst, lambda change: change.severity)

    def add(self, change: Change) -> None:
        self.tally.add(change.new.group, _counted(change))
        if change.is_flip:
            self._worst.add(change)

    def worst_flips(self) -> list[Change]:
        return self._worst.items()

    def total(self) -> Figures:
        """Return the figures of all pictures, with intervals over groups."""
        return self.figures(None)

    def worst_groups(self, most: int) -> list[Figures]:
        """Return the groups in the order of `GROUPS`; with intervals of Clopper and Pearson, which take the pictures of
        a group as independent.
        """
        worst = self.tally.worst("escape added", [("flip", "same file")], most)
        return [self.figures(group) for group in worst]

    def groups_with_flips(self) -> Rate | None:
        """Return the share of groups with a flip, with the interval of Clopper and Pearson: it also holds without a
        single flip. None: there is no picture.
        """
        groups = len(self.tally.groups)
        count = sum(counts["flip"] > 0 for counts in self.tally.groups.values())
        return Rate(count, groups, interval(count, groups)) if groups else None

    def basis(self) -> str:
        """Describe the intervals of `total`."""
        return describe_basis(len(self.tally.groups))

    def count(self, name: str) -> int:
        return self.tally.counts(None)[name]

    def figures(self, group: str | None) -> Figures:
        """Return the figures of one group; None: of all."""
        counts = self.tally.counts(group)
        return Figures(
            group=group,
            pictures=counts["picture"],
            other_files=counts["other file"],
            transitions={old: {new: counts[f"{old} to {new}"] for new in VERDICTS} for old in VERDICTS},
            flips=self.tally.rate(group, "flip", "same file"),
            defect_to_good=self.tally.rate(group, "DEFECT to GOOD", "same file"),
            good_to_defect=self.tally.rate(group, "GOOD to DEFECT", "same file"),
            lost=self.tally.rate(group, "lost", "same file"),
            gained=self.tally.rate(group, "gained", "same file"),
            elsewhere=counts["elsewhere"],
            escapes=self._paired(group, "escape", "defective"),
            false_rejects=self._paired(group, "false reject", "good"),
        )

    def _paired(self, group: str | None, mistake: str, label: str) -> Paired | None:
        old, new, added, removed = (
            self.tally.rate(group, f"{mistake} {part}", label) for part in ("old", "new", "added", "removed")
        )
        if old is None or new is None or added is None or removed is None:
            return None
        change = self.tally.rate(None, f"{mistake} change", label) if group is None else None
        return Paired(pictures=old.of, old=old, new=new, added=added, removed=removed, change=change)


def _counted(change: Change) -> Counter[str]:
    """Return the counts that one picture adds to its group."""
    old, new = change.old, change.new
    if not change.is_same_file:
        return Counter(["picture", "other file"] + ["read once"] * ((old.content is None) != (new.content is None)))
    counts = Counter(["picture", "same file", f"{old.verdict} to {new.verdict}"])
    counts["flip"] = change.is_flip
    counts["flip between processors"] = change.is_flip and not change.same_processor
    counts["lost"] = change.is_flip and new.verdict == "NO_VERDICT"
    counts["gained"] = change.is_flip and old.verdict == "NO_VERDICT"
    counts["elsewhere"] = change.is_elsewhere
    if new.label is not None and not old.verdict == new.verdict == "NO_VERDICT":
        mistake = "escape" if new.label == "defective" else "false reject"
        was, is_now = old.is_mistake, new.is_mistake
        counts[new.label] = 1
        counts[f"{mistake} old"], counts[f"{mistake} new"] = was, is_now
        counts[f"{mistake} added"], counts[f"{mistake} removed"] = is_now and not was, was and not is_now
        counts[f"{mistake} change"] = is_now - was
    return counts


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
