"""What one bundle found in an archive: verdicts by group, pictures without a verdict, and the highest scores."""

from collections import Counter

import msgspec

from heatline.edge.archive.finding import Finding
from heatline.edge.archive.tally import Rate, Tally, Worst
from heatline.edge.calibration.group_bootstrap import describe_basis

EXAMPLES = 5
"""How many pictures without a verdict are named for each reason."""
GROUPS = (
    "Groups with the most escapes come first, then those with the highest share of DEFECT, then of pictures without a "
    "verdict; equal ones are in the order of their names."
)
"""The order of groups, for people."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts on the pictures of a group, or on all. A rate is None if there is no picture to count."""

    group: str | None
    """None: all."""
    pictures: int
    good: int
    defect: Rate | None
    no_verdict: Rate | None
    escapes: Rate | None
    """GOOD on pictures with label `defective` that have a verdict."""
    false_rejects: Rate | None
    """DEFECT on pictures with label `good` that have a verdict."""


class Unjudged(msgspec.Struct, frozen=True):
    """Pictures without a verdict for one reason."""

    reason: str
    pictures: int
    examples: list[Finding]
    """The first ones."""


class Summary:
    """Collects the verdicts of one bundle, picture by picture. Memory grows with the number of groups only.

    Args:
        worst: how many pictures with the highest score to remember.
    """

    def __init__(self, worst: int) -> None:
        self.tally = Tally()
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
            names.append(finding.label)
            names += ["escape"] * finding.is_escape + ["false reject"] * finding.is_false_reject
        self.tally.add(finding.group, Counter(names))
        if finding.margin is not None:
            self._worst.add(finding)

    def worst(self) -> list[Finding]:
        """Return the pictures with the highest score minus threshold; ties by number."""
        return self._worst.items()

    def unjudged(self) -> list[Unjudged]:
        """Return the reasons why pictures have no verdict, the most frequent first."""
        return [
            Unjudged(reason, count, self._examples[reason])
            for reason, count in sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        ]

    def total(self) -> Figures:
        """Return the figures of all pictures, with intervals over groups."""
        return self.figures(None)

    def worst_groups(self, most: int) -> list[Figures]:
        """Return the groups in the order of `GROUPS`."""
        shares = [("DEFECT", "picture"), ("NO_VERDICT", "picture")]
        return [self.figures(group) for group in self.tally.worst("escape", shares, most)]

    def basis(self) -> str:
        """Describe the intervals of `total`."""
        return describe_basis(len(self.tally.groups))

    def figures(self, group: str | None) -> Figures:
        """Return the figures of one group; None: of all."""
        counts = self.tally.counts(group)
        return Figures(
            group=group,
            pictures=counts["picture"],
            good=counts["GOOD"],
            defect=self.tally.rate(group, "DEFECT", "picture"),
            no_verdict=self.tally.rate(group, "NO_VERDICT", "picture"),
            escapes=self.tally.rate(group, "escape", "defective"),
            false_rejects=self.tally.rate(group, "false reject", "good"),
        )
