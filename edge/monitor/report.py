"""Rates of false alarms and of missed defects, from people's marks. docs/review.md says what they mean."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from heatline.edge.calibration.statistics import interval
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.monitor.marks import Review
from heatline.edge.monitor.store import EvidenceEntry, EvidenceStore, day_of
from heatline.edge.wire.events import SCHEMA_VERSION, Verdict

_ROUNDING = 1e-9
Key = tuple[str, str]
"""Day and camera."""
Row = dict[str, Any]
"""The marks of a day's frames of a camera, or of all: day, camera, counts and shares. docs/review.md describes each."""
OF_JOURNAL = "frames", "defects", "no_verdict"
OF_STORE = (
    *("stored_defects", "reviewed_defects", "incomplete_defects"),
    *("stored_goods", "reviewed_goods", "chosen_goods", "chosen_missed", "contradictory"),
)


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """An estimated share, with its 95 % interval."""

    share: float
    low: float
    high: float


class Share(Estimate, frozen=True, kw_only=True):
    """An observed share; its interval is that of Clopper and Pearson."""

    count: int
    of: int

    @classmethod
    def observed(cls, count: int, of: int) -> "Share | None":
        """Return the share of a count; None: of nothing."""
        if of == 0:
            return None
        low, high = interval(count, of)
        return cls(count=count, of=of, share=count / of, low=low, high=high)


class JournalTotals:
    """How many frames of each day and camera a journal holds, by verdict."""

    def __init__(self) -> None:
        self.counts: dict[Key, Counter[Verdict]] = {}
        self.since_at_ns: int | None = None
        """Capture of the oldest frame whose verdict the journal holds: UTC, ns since 1970."""
        self.unreadable = 0
        """Number of verdicts of another schema version."""

    @classmethod
    def read(cls, reader: JournalReader, report_progress: Callable[[int], None] = lambda _seq: None) -> "JournalTotals":
        """Return the totals of a journal.

        Raises:
            JournalError: the journal cannot be read.
        """
        totals = cls()
        first, last = reader.range()
        after = first - 1 if first else last
        while after < last:
            page = reader.read(after, through_seq=last, topics=["verdict."])
            for record in page.records:
                totals._add(record.header)
            after = page.through_seq
            report_progress(after)
        return totals

    def _add(self, header: bytes) -> None:
        try:
            found = _decode(header)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1
            return
        at_ns = found.times.captured_at_ns
        self.since_at_ns = at_ns if self.since_at_ns is None else min(self.since_at_ns, at_ns)
        self.counts.setdefault((day_of(at_ns), found.camera), Counter())[found.verdict] += found.frames


class _Times(msgspec.Struct):
    captured_at_ns: int


class _Verdict(msgspec.Struct):
    """What is counted of a verdict event. Reading no more is several times as fast."""

    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
    camera: str
    verdict: Verdict
    times: _Times
    frames: int = 1


_decode = msgspec.json.Decoder(_Verdict).decode


def report(store: EvidenceStore, totals: JournalTotals | None, since: str | None = None) -> tuple[list[Row], Row]:
    """Return a row for each day and camera, and one for all.

    Args:
        totals: of the line's journal; None: it cannot be read.
        since: only of this UTC day and later ones, `YYYY-MM-DD`.
    Raises:
        InputError: the store cannot be read.
    """
    counts: dict[Key, Counter[str]] = {}
    covered_ns = None if totals is None else totals.since_at_ns
    reviews = store.reviews(since)
    for entry in store.entries(since=since):
        review = reviews.get((entry.picture, entry.day))
        key = entry.day, entry.event.camera
        counts.setdefault(key, Counter()).update(_counted(entry, review, covered_ns))
    for key, verdicts in ({} if totals is None else totals.counts).items():
        if key[0] >= (since or ""):
            counts.setdefault(key, Counter()).update(
                journalled=1,
                frames=verdicts["GOOD"] + verdicts["DEFECT"],
                defects=verdicts["DEFECT"],
                no_verdict=verdicts["NO_VERDICT"],
            )
    total: Counter[str] = Counter()
    for each in counts.values():
        total.update(each)
    rows = [_row(*key, counts[key], _false_reject([counts[key]])) for key in sorted(counts)]
    return rows, _row(None, None, total, _false_reject(counts.values()))


def _counted(entry: EvidenceEntry, review: Review | None, covered_ns: int | None) -> list[str]:
    """Return the names of the counts that an entry belongs to."""
    verdict, is_chosen = entry.event.verdict, entry.is_chosen
    if verdict == "NO_VERDICT":
        return []
    is_good = verdict == "GOOD"
    names = ([] if is_chosen else ["stored_goods"]) if is_good else ["stored_defects"]
    if review is None:
        return names
    if review.truth is None:
        return [*names, "contradictory"]
    missed = review.kind == "missed"
    if is_good:
        of_good = ["chosen_goods", "chosen_missed"] if is_chosen else ["reviewed_goods", "missed"]
        return names + of_good[: 1 + missed]
    reviewed = ["reviewed_defects", "false_alarms"][: 1 + (review.truth == "good")]
    if covered_ns is not None and entry.event.times.captured_at_ns >= covered_ns:
        reviewed += [f"covered_{name}" for name in reviewed]
    return [*names, *reviewed, *["incomplete_defects"][: int(missed)]]


def _row(day: str | None, camera: str | None, counts: Counter[str], false_reject: Estimate | None) -> Row:
    return {
        "day": day,
        "camera": camera,
        **{name: counts[name] if counts["journalled"] else None for name in OF_JOURNAL},
        **{name: counts[name] for name in OF_STORE},
        "false_alarm": Share.observed(counts["false_alarms"], counts["reviewed_defects"]),
        "missed": Share.observed(counts["missed"], counts["reviewed_goods"]),
        "false_reject": false_reject,
    }


def _false_reject(strata: Iterable[Counter[str]]) -> Estimate | None:
    """Return the estimated share of good frames with DEFECT, of the frames of several days and cameras.

    To add up the reviewed DEFECTs of all would mislead: one day may be reviewed completely, another hardly. So each
    counts by its DEFECTs. The interval is that of Clopper and Pearson for as many reviewed DEFECTs as are worth the
    same (L. Kish, Survey Sampling, 1965): exact for one day and camera, else an approximation.

    Args:
        strata: of each day and camera. One with DEFECTs of which none is reviewed is left out.
    """
    frames, defects, false_alarms, squares = 0, 0, 0.0, 0.0
    for counts in strata:
        weight, reviewed = counts["defects"], counts["covered_reviewed_defects"]
        if weight and reviewed:
            defects += weight
            false_alarms += weight * counts["covered_false_alarms"] / reviewed
            squares += weight**2 / reviewed
        if reviewed or not weight:
            frames += counts["frames"]
    if defects == 0 or frames == 0:
        return None
    worth = math.floor(defects**2 / squares + _ROUNDING)
    count = false_alarms / defects * worth
    low, high = interval(math.floor(count + _ROUNDING), worth)[0], interval(math.ceil(count - _ROUNDING), worth)[1]
    return Estimate(share=false_alarms / frames, low=low * defects / frames, high=high * defects / frames)
