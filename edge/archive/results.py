"""What bundles found in an archive: verdicts by group, the highest scores, and what a new bundle would change.

The question before a changeover is what changes if a new bundle inspects the pictures that an old one inspected. The
verdicts of one or two bundles are read and checked once, part by part, for overlays, report and output.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from heatline.edge.archive.plan import Plan, UsedBundle, file_of, finished_parts, read_part
from heatline.edge.archive.storage import is_uri, without_password
from heatline.edge.calibration.statistics import describe_basis, interval, ratio_interval
from heatline.edge.errors import InputError
from heatline.edge.wire.events import Verdict

AGAIN = "call heatline archive inspect again"
REPORT = "report.html"
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


# Counted.


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


# Read and checked.


@dataclass(frozen=True)
class Results:
    """What was found in a complete DEST."""

    used: dict[str, UsedBundle]
    """By digest; the first is the new one, the second the old one, if there is one to compare with."""
    summary: Summary
    comparison: Comparison | None
    verdicts: dict[str, Counter[str]]
    """The number of pictures by verdict, for each bundle by its digest."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Paths of the bundles on the command line, by digest."""

    def bundles(self) -> list[tuple[str, UsedBundle, str]]:
        """Return name, use and digest of each bundle, the new one first. The name has what people typed, or the digest
        if that does not tell them apart.
        """
        names = [f"{bundle.name} {bundle.version}" for bundle in self.used.values()]
        if len(names) > 1 and self.called:
            names = [
                f"{name} ({PurePath(self.called[each]).name})" for name, each in zip(names, self.used, strict=True)
            ]
        if len(set(names)) < len(names):
            names = [f"{name} ({digest[:8]})" for name, digest in zip(names, self.used, strict=True)]
        return [(name, bundle, digest) for name, (digest, bundle) in zip(names, self.used.items(), strict=True)]


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What the command prints at the end. docs/archive-compare.md describes it."""

    dest: str
    report: str
    """Path or URI of the page."""
    pictures: int
    inspected: int
    """The number of pictures that this run inspected; the others were there."""
    bundles: dict[str, dict[str, Any]]
    """Path, name, version and numbers of verdicts by digest; the first is BUNDLE, the second OLD."""
    against: dict[str, Any] | None
    """The numbers of pictures whose verdict changes from OLD to BUNDLE; None: without --against."""


def read_results(
    plan: Plan,
    digest: str,
    against: str | None = None,
    *,
    worst: int = 50,
    called: Mapping[str, str] | None = None,
) -> Results:
    """Read all verdicts of a bundle, and check that each picture of the plan has exactly one row.

    Memory is bounded by a part and grows with the number of groups.

    Args:
        digest: of the bundle.
        against: digest of the old bundle to compare with.
        worst: how many of the worst pictures and flips to remember.
        called: paths of the bundles on the command line, by digest.
    Raises:
        InputError: a file of verdicts is missing or damaged, or has other pictures than the plan.
    """
    digests = [digest] if against is None else [digest, against]
    for each in digests:
        if surplus := finished_parts(plan.dest, each) - {*range(plan.parts)}:
            raise InputError(
                f"{plan.dest.path(file_of(each, min(surplus)))} is of no part of the plan; delete it, and {AGAIN}"
            )
    verdicts = {each: Counter[str]() for each in digests}
    summary, comparison = Summary(worst), None if against is None else Comparison(worst)
    for part in range(plan.parts):
        found = []
        for each in digests:
            table = _read(plan, each, part)
            verdicts[each].update(table.column("verdict").to_pylist())
            found.append(findings_of(table))
        for finding in found[0]:
            summary.add(finding)
        if comparison is not None:
            for new, old in zip(*found, strict=True):
                comparison.add(Change(old, new))
    used = {each: plan.archive.bundles[each] for each in digests}
    return Results(used, summary, comparison, verdicts, called or {})


def outcome_of(out: str, results: Results, inspected: int) -> Inspected:
    """Return what the command prints.

    Args:
        out: DEST, a path or a URI.
        inspected: the number of pictures that this run inspected.
    """
    dest = without_password(out)
    return Inspected(
        dest=dest,
        report=_address_in(dest, REPORT),
        pictures=results.summary.counts(None)["picture"],
        inspected=inspected,
        bundles={
            digest: {"path": results.called.get(digest, ""), "name": used.name, "version": used.version}
            | {name.lower(): results.verdicts[digest][name] for name in VERDICTS}
            for _, used, digest in results.bundles()
        },
        against=None if results.comparison is None else _changes(results.comparison),
    )


def _changes(comparison: Comparison) -> dict[str, Any]:
    total, counts = comparison.figures(None), comparison.counts(None)
    return {
        "compared": total["pictures"] - total["other_files"],
        "other_files": total["other_files"],
        **{name: counts[counted] for name, (counted, _) in CHANGE_RATES.items()},
        "escapes": _mistakes(total["escapes"]),
        "false_rejects": _mistakes(total["false_rejects"]),
    }


def _mistakes(paired: Figures | None) -> dict[str, int] | None:
    if paired is None:
        return None
    return {"pictures": paired["pictures"]} | {name: paired[name].count for name in ("old", "new", "added", "removed")}


def _read(plan: Plan, digest: str, part: int) -> pa.Table:
    name = file_of(digest, part)
    try:
        table = read_part(plan.dest, digest, part)
    except FileNotFoundError as error:
        raise InputError(f"{plan.dest.path(name)} is missing; {AGAIN}") from error
    first = part * plan.archive.part_pictures
    if table.column("number").to_pylist() != list(range(first, first + plan.part_size(part))):
        raise InputError(f"{plan.dest.path(name)} holds other pictures than the plan; delete it, and {AGAIN}")
    return table


def _address_in(folder: str, name: str) -> str:
    """Return the address of a file in a folder: a path, or a URI with its options.

    >>> _address_in("s3://bucket/folder/?region=eu", "a.html"), _address_in("folder", "a.html")
    ('s3://bucket/folder/a.html?region=eu', 'folder/a.html')
    """
    if not is_uri(folder):
        return os.path.join(folder, name)
    path, mark, options = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"
