"""What bundles found in an archive: verdicts by group, the highest scores, and what a new bundle would change.

The question before a changeover is what changes if a new bundle inspects the pictures that an old one inspected.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from heatline.edge.calibration.statistics import describe_basis, interval, ratio_interval
from heatline.edge.wire.events import Verdict

VERDICTS: tuple[Verdict, ...] = ("GOOD", "DEFECT", "NO_VERDICT")
EXAMPLES = 5
"""How many pictures without a verdict are named for each reason."""
SEVERITY = (
    "New escapes come first, flips to the verdict that the label calls right come last. Otherwise the order is that of "
    "how far the score moved against its threshold."
)
"""The rule of `Change.severity`, for people."""
ORDER_OF_CHANGED = (
    "Groups with the most new escapes come first, then those with the highest share of another verdict; equal ones are "
    "in the order of their names."
)
"""The order of `Comparison.worst_groups`, for people."""
ORDER = (
    "Groups with the most escapes come first, then those with the highest share of DEFECT, then of pictures without a "
    "verdict; equal ones are in the order of their names."
)
"""The order of `Summary.worst_groups`, for people."""
VERDICT_RATES = {
    "defect": ("DEFECT", "picture"),
    "no_verdict": ("NO_VERDICT", "picture"),
    "escapes": ("escape", "defective"),
    "false_rejects": ("false reject", "good"),
}
"""The rates of `Summary.figures`: what is counted, of what. A picture without a verdict is no mistake."""
CHANGE_RATES = {
    "flips": ("flip", "same file"),
    "defect_to_good": ("DEFECT to GOOD", "same file"),
    "good_to_defect": ("GOOD to DEFECT", "same file"),
    "lost": ("lost", "same file"),
    "gained": ("gained", "same file"),
}
"""The rates of `Comparison.figures`. A picture whose file changed between the runs is in none."""
Figures = dict[str, Any]
"""Counts, and rates by name: None if there is no picture to count."""
Label = Literal["good", "defective"]
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """What a bundle found in one picture. Scores and thresholds are in logits."""

    number: int
    picture: str
    group: str
    label: Label | None
    content: str | None
    """Hash of the file's bytes; None: the file could not be read."""
    verdict: Verdict
    reason: str | None
    detail: str | None
    score: float | None
    score_threshold: float
    regions: int = 0
    """Their number."""

    @property
    def margin(self) -> float | None:
        """The score minus its threshold: DEFECT from 0. None: there is no verdict."""
        return None if self.score is None else self.score - self.score_threshold

    @property
    def mistake(self) -> str | None:
        """How the label contradicts the verdict: `escape` or `false reject`. NO_VERDICT is not a mistake."""
        if (self.label, self.verdict) == ("defective", "GOOD"):
            return "escape"
        return "false reject" if (self.label, self.verdict) == ("good", "DEFECT") else None

    @property
    def is_right(self) -> bool:
        """Whether the label says so: false without a label or a verdict."""
        return (self.label, self.verdict) in (("good", "GOOD"), ("defective", "DEFECT"))


def findings_of(part: pa.Table) -> list[Finding]:
    """Return the findings in a part of `verdicts/`, in the order of its rows."""
    *names, last = Finding.__struct_fields__
    columns = [part.column(name).to_pylist() for name in names]
    return list(map(Finding, *columns, map(len, part.column(last).to_pylist())))


class Rate(msgspec.Struct, frozen=True):
    """A count as a share of pictures, with its 95 % interval. A change of a count may be negative."""

    count: int
    of: int
    interval: tuple[float, float] | None = None
    """None: not known."""

    @property
    def share(self) -> float:
        return self.count / self.of


class Tally:
    """Named counts of each group. Memory grows with the number of groups, not with that of pictures."""

    def __init__(self) -> None:
        self.groups: dict[str, Counter[str]] = {}

    def count(self, group: str, counts: Mapping[str, int]) -> None:
        of_group = self.groups.setdefault(group, Counter())
        for name, count in counts.items():
            if count:
                of_group[name] += count

    def basis(self) -> str:
        """Describe the intervals of all groups together."""
        return describe_basis(len(self.groups))

    def counts(self, group: str | None) -> Counter[str]:
        """Return the counts of a group; None: of all."""
        if group is not None:
            return self.groups[group]
        total: Counter[str] = Counter()
        for counts in self.groups.values():
            total.update(counts)
        return total

    def rate(self, group: str | None, name: str, of: str) -> Rate | None:
        """Return a rate of a group, or with None of all. It is None if there is nothing to count.

        The interval of one group is that of Clopper and Pearson, which takes its pictures as independent. That of all
        is by a bootstrap over the groups, as pictures of one group are not independent.
        """
        if group is not None:
            count, pictures = self.groups[group][name], self.groups[group][of]
            return Rate(count, pictures, interval(count, pictures)) if pictures else None
        pairs = np.array([[counts[name], counts[of]] for counts in self.groups.values()], np.int64).reshape(-1, 2)
        count, pictures = pairs.sum(axis=0).tolist()
        return Rate(count, pictures, ratio_interval(pairs[:, 0], pairs[:, 1])) if pictures else None

    def worst_by(self, name: str, shares: Sequence[tuple[str, str]], most: int) -> list[str]:
        """Return the groups with the highest counts of a name, then with the highest shares, then by the groups' names.

        Args:
            shares: pairs of names; the share is the count of the first, divided by that of the second.
            most: largest number of groups.
        """

        def order(group: str) -> tuple[object, ...]:
            counts = self.groups[group]
            return -counts[name], *(-counts[part] / (counts[of] or 1) for part, of in shares), group

        return sorted(self.groups, key=order)[:most]


class Worst(Generic[T]):
    """The first items in an order, at most `most`, of any number that are added."""

    def __init__(self, most: int, key: Callable[[T], tuple[float, ...]]) -> None:
        self._most, self._key, self._kept = most, key, list[T]()

    def add(self, item: T) -> None:
        self._kept.append(item)
        if len(self._kept) > 2 * self._most:
            self._kept = self.items()

    def items(self) -> list[T]:
        return sorted(self._kept, key=self._key)[: self._most]


class Summary(Tally):
    """Collects the verdicts of one bundle, picture by picture. Memory grows with the number of groups only.

    Args:
        worst: how many pictures with the highest score to remember.
    """

    def __init__(self, worst: int) -> None:
        super().__init__()
        self._worst = Worst[Finding](worst, lambda finding: (-(finding.margin or 0.0), finding.number))
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        names = ["picture", finding.verdict]
        if finding.verdict == "NO_VERDICT":
            reason = finding.reason or "unknown"
            self._reasons[reason] += 1
            examples = self._examples.setdefault(reason, [])
            if len(examples) < EXAMPLES:
                examples.append(finding)
        elif finding.label is not None:
            names += [finding.label, *filter(None, [finding.mistake])]
        self.count(finding.group, Counter(names))
        if finding.margin is not None:
            self._worst.add(finding)

    def worst(self) -> list[Finding]:
        """Return the pictures with the highest score minus threshold; ties by number."""
        return self._worst.items()

    def unjudged(self) -> list[tuple[str, int, list[Finding]]]:
        """Return the reasons why pictures have no verdict, each with their number and the first ones, the most frequent
        first.
        """
        ordered = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        return [(reason, count, self._examples[reason]) for reason, count in ordered]

    def worst_groups(self, most: int) -> list[Figures]:
        """Return the groups in the order of `ORDER`."""
        shares = [("DEFECT", "picture"), ("NO_VERDICT", "picture")]
        return [self.figures(group) for group in self.worst_by("escape", shares, most)]

    def figures(self, group: str | None) -> Figures:
        """Return the figures of one group; None: of all, with intervals over groups."""
        counts = self.counts(group)
        known = {"group": group, "pictures": counts["picture"], "good": counts["GOOD"]}
        return known | {name: self.rate(group, *of) for name, of in VERDICT_RATES.items()}


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
        return self.new.mistake == "escape" and self.old.mistake != "escape"

    @property
    def margin_moved(self) -> float | None:
        """How far the score moved against its threshold, logits, upwards positive. None: a verdict is missing."""
        old, new = self.old.margin, self.new.margin
        return None if old is None or new is None else new - old

    @property
    def severity(self) -> tuple[float, ...]:
        """Sort key of flips, the worst first: new escapes first, verdicts that the label calls right last; then by how
        far the margin moved, those that lack a verdict last; then by number.
        """
        rank = 0 if self.is_new_escape else 2 if self.new.is_right else 1
        moved = self.margin_moved
        return rank, moved is None, -abs(moved or 0.0), self.new.number


class Comparison(Tally):
    """Compares two bundles, picture by picture. Memory grows with the number of groups only.

    Args:
        worst: how many of the worst flips to remember.
    """

    def __init__(self, worst: int) -> None:
        super().__init__()
        self._worst = Worst[Change](worst, lambda change: change.severity)

    def add(self, change: Change) -> None:
        self.count(change.new.group, _counted(change))
        if change.is_flip:
            self._worst.add(change)

    def worst_flips(self) -> list[Change]:
        return self._worst.items()

    def worst_groups(self, most: int) -> list[Figures]:
        """Return the groups in the order of `ORDER_OF_CHANGED`, with intervals of Clopper and Pearson, which take the
        pictures of a group as independent.
        """
        worst = self.worst_by("escape added", [("flip", "same file")], most)
        return [self.figures(group) for group in worst]

    def groups_with_flips(self) -> Rate | None:
        """Return the share of groups with a flip, with the interval of Clopper and Pearson: it also holds without a
        single flip. None: there is no picture.
        """
        groups = len(self.groups)
        count = sum(counts["flip"] > 0 for counts in self.groups.values())
        return Rate(count, groups, interval(count, groups)) if groups else None

    def figures(self, group: str | None) -> Figures:
        """Return the figures of one group; None: of all, with intervals over groups."""
        counts = self.counts(group)
        return {
            "group": group,
            "pictures": counts["picture"],
            "other_files": counts["other file"],
            "transitions": {old: {new: counts[f"{old} to {new}"] for new in VERDICTS} for old in VERDICTS},
            **{name: self.rate(group, *of) for name, of in CHANGE_RATES.items()},
            "escapes": self._paired(group, "escape", "defective"),
            "false_rejects": self._paired(group, "false reject", "good"),
        }

    def _paired(self, group: str | None, mistake: str, label: str) -> Figures | None:
        """Return the mistakes of both bundles in the pictures with a label to which at least one gave a verdict,
        and those that only the new or only the old one makes; None: there is no such picture.
        """
        names = ("old", "new", "added", "removed", *(["change"] if group is None else []))
        rates = {name: self.rate(group, f"{mistake} {name}", label) for name in names}
        return None if rates["old"] is None else {"pictures": rates["old"].of, **rates}


def _counted(change: Change) -> Counter[str]:
    """Return the counts that one picture adds to its group."""
    old, new = change.old, change.new
    if not change.is_same_file:
        return Counter(["picture", "other file"])
    counts = Counter(["picture", "same file", f"{old.verdict} to {new.verdict}"])
    counts["flip"] = change.is_flip
    counts["flip between processors"] = change.is_flip and not change.same_processor
    counts["lost"] = change.is_flip and new.verdict == "NO_VERDICT"
    counts["gained"] = change.is_flip and old.verdict == "NO_VERDICT"
    if new.label is not None and not old.verdict == new.verdict == "NO_VERDICT":
        mistake = "escape" if new.label == "defective" else "false reject"
        was, is_now = old.mistake is not None, new.mistake is not None
        counts[new.label] = 1
        counts[f"{mistake} old"], counts[f"{mistake} new"] = was, is_now
        counts[f"{mistake} added"], counts[f"{mistake} removed"] = is_now and not was, was and not is_now
        counts[f"{mistake} change"] = is_now - was
    return counts
